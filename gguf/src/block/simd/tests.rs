//! Every set of instructions gives the bytes of the plain one, which are ggml's (see
//! `tests/blocks.rs`).

use super::super::*;
use super::*;
use crate::block_support::{Kind, Random};

/// Super-blocks of each kind that are compared.
const ROUNDS: usize = 200;

fn wider() -> impl Iterator<Item = Level> {
    Level::available().filter(|&level| level != Level(Set::Plain))
}

fn compare<B: Block + PartialEq + std::fmt::Debug>(x: &[f32], what: &str) {
    let mut expected = vec![B::zeroed(); x.len() / B::LEN];
    Level(Set::Plain).quantize(x, &mut expected);
    for level in wider() {
        let mut found = vec![B::zeroed(); expected.len()];
        level.quantize(x, &mut found);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let x = &x[i * B::LEN..][..B::LEN];
            assert_eq!(found, expected, "{} {level:?} {what} {x:?}", B::FORMAT);
        }
    }
}

fn compare_all(x: &[f32], what: &str) {
    compare::<Half>(x, what);
    compare::<BlockBF16>(x, what);
    compare::<BlockQ4_0>(x, what);
    compare::<BlockQ4_1>(x, what);
    compare::<BlockQ5_0>(x, what);
    compare::<BlockQ5_1>(x, what);
    compare::<BlockQ8_0>(x, what);
    compare::<BlockQ4K>(x, what);
    compare::<BlockQ5K>(x, what);
    compare::<BlockQ6K>(x, what);
}

#[test]
fn values_of_every_kind() {
    let mut random = Random(11);
    let mut x = vec![0.0; 256 * ROUNDS];
    for &kind in Kind::ALL {
        x.chunks_mut(256).for_each(|x| kind.fill(&mut random, x));
        compare_all(&x, &format!("{kind:?}"));
    }
}

#[test]
fn any_bits() {
    let mut random = Random(12);
    let any: Vec<f32> = (0..256 * ROUNDS)
        .map(|_| f32::from_bits(random.next() as u32))
        // One NaN: which of two comes out of a sum is the compiler's choice.
        .map(|x| if x.is_nan() { f32::NAN } else { x })
        .collect();
    compare_all(&any, "any bits");
}

/// One place of a block at a time: extremes, ties of sign, steps that halves fall between.
#[test]
fn an_extreme_at_each_place() {
    let specials = [
        0.0,
        -0.0,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        -f32::from_bits(64),
        1e-38,
        0.9e-15,
        1.1e-15,
        4.3e9,
        3e38,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        127.0,
        -127.0,
        0.5,
        ALMOST,
        -ALMOST,
        126.5,
        -126.5,
    ];
    const ALMOST: f32 = 0.499_999_97;
    for special in specials {
        for fill in [0.0, -0.0, 1.0, 127.0, -127.0, 1e-42, special, -special] {
            let mut x = Vec::new();
            for place in 0..256 {
                let mut block = [fill; 256];
                block[place] = special;
                x.extend(block);
            }
            compare_all(&x, "a special value");
        }
    }
}

#[test]
fn every_half_is_converted() {
    for level in Level::available() {
        // An odd number in front, so that ends are met too.
        for skip in [0, 3] {
            let halves: Vec<[u8; 2]> = (skip..=u16::MAX).map(u16::to_le_bytes).collect();
            let mut found = vec![0.0; halves.len()];
            level.f16_to_f32(&halves, &mut found);
            for (half, found) in halves.iter().zip(found) {
                let expected = half::f16::from_le_bytes(*half).to_f32();
                let is_same = found.to_bits() == expected.to_bits();
                assert!(is_same || found.is_nan() && expected.is_nan(), "{half:?}");
            }
        }
    }
}

#[test]
fn one_value_beyond_the_limit_is_seen_at_each_place() {
    for level in Level::available() {
        for bad in [2.5, -2.5, f32::NAN, f32::NEG_INFINITY] {
            let mut values = [2.0, -2.0, 0.0, 1.0, -0.0].repeat(9);
            assert!(level.all_within(&values, 2.0));
            for i in 0..values.len() {
                let good = std::mem::replace(&mut values[i], bad);
                assert!(!level.all_within(&values, 2.0), "{level:?} {bad} at {i}");
                values[i] = good;
            }
        }
        assert!(level.all_within(&[], 0.0));
    }
}
