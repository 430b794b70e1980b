//! Block formats against fixtures that ggml wrote (see `ggml.rs`), and what must hold of any.

mod support;

use katari_gguf::block::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};
use katari_gguf::{Format, Quantized};
use proptest::prelude::*;
use support::{Kind, bits, bytes, dequantize, fixture, hash, hash_values, quantize, values};

#[test]
fn blocks_are_ggmls_byte_for_byte() {
    let x = values(fixture::SEED, fixture::KEPT);
    for &format in Format::ALL.iter().filter(|&&f| f != Format::F32) {
        let kept = std::fs::read(fixture::folder().join(format!("{format}.bin")));
        let (ours, kept) = (quantize(format, &x), kept.expect("the fixture"));
        assert_eq!(ours.len(), kept.len(), "{format}");
        let blocks = ours.chunks(format.block_bytes());
        for (i, (a, b)) in blocks.zip(kept.chunks(format.block_bytes())).enumerate() {
            let kind = Kind::ALL[i * format.block_len() / 256 % Kind::ALL.len()];
            assert_eq!(a, b, "{format}: block {i}, {kind:?}");
        }
    }
}

#[test]
fn hundreds_of_thousands_of_blocks_and_values_are_ggmls() {
    let x = values(fixture::SEED, fixture::HASHED);
    let hashes = std::fs::read_to_string(fixture::folder().join("hashes.txt"));
    let hashes = hashes.expect("the fixture");
    let lines = hashes.lines().filter(|line| !line.starts_with('#'));
    let mut formats = Vec::new();
    for line in lines {
        let (name, expected) = line.split_once(' ').expect("a name and hashes");
        let format: Format = name.parse().expect("a format");
        let blocks = quantize(format, &x);
        let random = bytes(fixture::SEED, fixture::RANDOM_BLOCKS * format.block_bytes());
        let found = format!(
            "{:016x} {:016x} {:016x}",
            hash(blocks.iter().copied()),
            hash_values(&dequantize(format, &blocks)),
            hash_values(&dequantize(format, &random)),
        );
        assert_eq!(
            found, expected,
            "{format}: blocks, values, random blocks' values"
        );
        formats.push(format);
    }
    assert_eq!(formats, Format::ALL);
}

/// The root mean square error in steps of a group's scale. Rounding alone gives 1 / sqrt 12; the
/// rest is for values beyond the integers' range, which the formats trade for a finer step.
const RMS_ERROR_IN_STEPS: f32 = 0.29 * 1.1;

#[test]
fn values_come_back_within_a_step() {
    fn check<B: Quantized>(x: &[f32]) {
        let (mut q, mut out) = ([0; 256], [0.0; 256]);
        let (mut scale, mut min) = ([0.0; 16], [0.0; 16]);
        let mut squares = 0.0;
        for x in x.chunks(B::LEN) {
            let block = B::quantize(x);
            let groups = B::LEN / B::GROUP;
            block.integers(&mut q[..B::LEN], &mut scale[..groups], &mut min[..groups]);
            block.dequantize(&mut out[..B::LEN]);
            for (i, (x, value)) in x.iter().zip(&out).enumerate() {
                let (scale, min) = (scale[i / B::GROUP], min[i / B::GROUP]);
                squares += ((x - value) / scale).powi(2);
                let again = scale * f32::from(q[i]) - min;
                assert_eq!(
                    bits(again),
                    bits(*value),
                    "{}: the integers' value",
                    B::FORMAT
                );
                assert!(B::HAS_MIN || min == 0.0, "{}", B::FORMAT);
            }
        }
        let rms = (squares / x.len() as f32).sqrt();
        assert!(rms < RMS_ERROR_IN_STEPS, "{}: {rms} steps", B::FORMAT);
    }
    let mut x = vec![0.0; 256 * 200];
    let mut random = support::Random(3);
    x.fill_with(|| random.normal() * 0.02);
    check::<BlockQ4_0>(&x);
    check::<BlockQ4_1>(&x);
    check::<BlockQ5_0>(&x);
    check::<BlockQ5_1>(&x);
    check::<BlockQ8_0>(&x);
    check::<BlockQ4K>(&x);
    check::<BlockQ5K>(&x);
    check::<BlockQ6K>(&x);
}

#[test]
fn a_nan_stays_a_nan_with_the_bits_that_ggml_gives_it() {
    for (nan, f16, bf16) in [
        (0x7f80_0001, 0x7e00u16, 0x7fc0u16),
        (0x7fc1_2345, 0x7e00, 0x7fc1),
        (0xffff_ffff, 0xfe00, 0xffff),
    ] {
        let nan = [f32::from_bits(nan)];
        assert_eq!(quantize(Format::F16, &nan), f16.to_le_bytes());
        assert_eq!(quantize(Format::BF16, &nan), bf16.to_le_bytes());
    }
}

#[test]
fn dot_is_that_of_the_values() {
    let x = values(5, 256 * 28);
    let mut random = support::Random(5);
    for &format in Format::ALL {
        let mut weights = vec![0.0; x.len()];
        weights.fill_with(|| random.normal() * 0.02);
        let row = quantize(format, &weights);
        let x: Vec<f32> = x.iter().map(|x| x.clamp(-10.0, 10.0)).collect();
        let exact: f64 = dequantize(format, &row)
            .iter()
            .zip(&x)
            .map(|(w, x)| f64::from(*w) * f64::from(*x))
            .sum();
        let size: f64 = x.iter().map(|x| f64::from(x.abs())).sum::<f64>() * 0.02;
        // Products are rounded to f32 one by one, the sum once.
        let tolerance = size * f64::from(f32::EPSILON);
        let found = f64::from(format.dot(&row, &x));
        assert!(
            (found - exact).abs() <= tolerance,
            "{format}: {found}, {exact}"
        );
    }
}

#[test]
fn formats_are_known_by_id_and_name_and_have_ggmls_sizes() {
    // From ggml: type number, values and bytes of a block.
    let expected = [
        ("f32", 0, 1, 4),
        ("f16", 1, 1, 2),
        ("q4_0", 2, 32, 18),
        ("q4_1", 3, 32, 20),
        ("q5_0", 6, 32, 22),
        ("q5_1", 7, 32, 24),
        ("q8_0", 8, 32, 34),
        ("q4_k", 12, 256, 144),
        ("q5_k", 13, 256, 176),
        ("q6_k", 14, 256, 210),
        ("bf16", 30, 1, 2),
    ];
    assert_eq!(Format::ALL.len(), expected.len());
    for (name, id, len, bytes) in expected {
        let format = Format::from_id(id).expect("a format");
        assert_eq!(format.id(), id);
        assert_eq!(format.to_string(), name);
        assert_eq!(
            name.to_uppercase().parse::<Format>().expect("a name"),
            format
        );
        assert_eq!((format.block_len(), format.block_bytes()), (len, bytes));
        assert_eq!(format.bytes(3 * len as u64), Some(3 * bytes as u64));
        assert_eq!(format.bytes(0), Some(0));
        assert_eq!(
            format.bytes(u64::MAX - u64::MAX % 256).is_some(),
            bytes < len
        );
        assert!(len == 1 || format.bytes(len as u64 + 1).is_none());
    }
    let error = "q9_9".parse::<Format>().expect_err("no format").to_string();
    assert!(error.contains("q9_9") && error.contains("q4_k"), "{error}");
}

proptest! {
    #[test]
    fn any_values_quantize_without_panic(
        x in proptest::collection::vec(any::<u32>().prop_map(f32::from_bits), 256)
    ) {
        for &format in Format::ALL {
            let mut out = x.clone();
            format.dequantize(&quantize(format, &x), &mut out);
        }
    }

    #[test]
    fn any_bytes_dequantize_without_panic(bytes in proptest::collection::vec(any::<u8>(), 256)) {
        for &format in Format::ALL {
            let blocks = bytes.len() / format.block_bytes() * format.block_bytes();
            dequantize(format, &bytes[..blocks]);
        }
    }
}
