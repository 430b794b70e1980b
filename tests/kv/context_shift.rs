//! A context shift turns cached keys to their new positions. Two oracles: in a model of one
//! layer keys depend on token and position alone, so shifting must give what evaluating the
//! remaining tokens afresh gives; and in any model the stored keys must be those before, turned
//! in f64 by this test.

use katari::engine::Engine;
use katari::kv::KvType;
use katari_gguf::Format;

use super::{feed, open, tokens};
use crate::devices::{Backend, on_every_device};
use crate::support::{Tiny, relative_rms};

on_every_device!(
    one_layer_shifted_equals_one_layer_evaluated_afresh,
    stored_keys_are_those_before_turned_in_f64,
    a_shift_leaves_those_who_share_the_cells_alone,
    learned_positions_are_evaluated_again,
    a_shift_beyond_the_sequence_is_refused,
);

const ROTARY: [&str; 3] = ["gptj", "gptneox", "gptneox-japanese"];

/// How far a turned key may be from the exact turn, relative to the largest value of its head:
/// rounding of sine and cosine for f32; half a step of the type for others (its step is 2^-10
/// of a value, 1/127 and 1/8 of a block's largest, and q4_0 clips up to one step at one end).
fn turn_tolerance(kv: KvType) -> f64 {
    match kv {
        KvType::F32 => 1e-5,
        // A turn can make a head's or block's largest value up to sqrt 2 larger.
        KvType::F16 => 1.5 / 2048.0,
        KvType::Q8_0 => 1.5 * 0.5 / 127.0,
        KvType::Q4_0 => 1.5 / 8.0,
    }
}

/// How far logits after a shift may be from a fresh evaluation, relative RMS: keys are rounded
/// twice instead of once.
fn shift_tolerance(kv: KvType) -> f64 {
    match kv {
        KvType::F32 => 1e-5,
        KvType::F16 => 2e-3,
        KvType::Q8_0 => 2e-2,
        KvType::Q4_0 => 0.25,
    }
}

fn one_layer_shifted_equals_one_layer_evaluated_afresh(backend: &Backend) {
    for architecture in ROTARY {
        let tiny = Tiny {
            n_layer: 1,
            // In wider heads q4_0's rounding hides whether keys were turned.
            n_embd: 64,
            ..Tiny::new(architecture)
        };
        for &kv in KvType::ALL {
            // CUDA attends to quantised values in heads of 64 and more.
            if backend.device.starts_with("cuda") && kv.block_len() > 1 {
                continue;
            }
            let tolerance = shift_tolerance(kv).max(backend.f32_noise);
            let text = tokens(3, 40);
            let (keep, discard) = (4, 17);
            let mut engine = open(backend, &tiny, kv, 1);
            feed(&mut engine, 0, &text);
            let again = engine.session().shift(0, keep, discard).unwrap();
            assert!(again.is_empty(), "nothing is left to feed");
            let left = [&text[..keep], &text[keep + discard..]].concat();
            assert_eq!(engine.session().tokens(0), left);
            assert_eq!(engine.session().reusable(0), &text[..keep]);
            let found = feed(&mut engine, 0, &[9]);

            let mut fresh = open(backend, &tiny, kv, 1);
            feed(&mut fresh, 0, &left);
            let expected = feed(&mut fresh, 0, &[9]);
            let error = relative_rms(&found, &expected);
            assert!(error <= tolerance, "{architecture}, {kv}: {error}");

            // The test would notice keys that were not turned.
            let mut unturned = open(backend, &tiny, kv, 1);
            feed(&mut unturned, 0, &text);
            let error = relative_rms(&feed(&mut unturned, 0, &[9]), &expected);
            assert!(error > tolerance, "{architecture}, {kv}: {error}");
        }
    }
}

/// Keys of each layer, cell and head, as f32, from an exported sequence of a whole-block head.
fn keys(engine: &Engine, tiny: &Tiny, kv: KvType) -> Vec<Vec<f32>> {
    let exported = engine.export(0).unwrap();
    let head_dim = tiny.n_embd / tiny.n_head;
    let head_bytes = kv.head_bytes(head_dim);
    let n_tokens = u32::from_le_bytes(exported[22..26].try_into().unwrap()) as usize;
    let store = &exported[30 + 4 * n_tokens + 8..];
    let of_layer = n_tokens * tiny.n_head * head_bytes;
    assert_eq!(store.len(), 2 * of_layer * tiny.n_layer);
    let format: Format = match kv {
        KvType::F32 => Format::F32,
        KvType::F16 => Format::F16,
        KvType::Q8_0 => Format::Q8_0,
        KvType::Q4_0 => Format::Q4_0,
    };
    store
        .chunks_exact(2 * of_layer)
        .flat_map(|layer| layer[..of_layer].chunks_exact(head_bytes))
        .map(|head| {
            let mut values = vec![0.0; head_dim];
            format.dequantize(head, &mut values);
            values
        })
        .collect()
}

fn stored_keys_are_those_before_turned_in_f64(backend: &Backend) {
    for architecture in ROTARY {
        let tiny = Tiny::new(architecture);
        let (n, keep, discard) = (30usize, 3usize, 11usize);
        for &kv in KvType::ALL {
            let mut engine = open(backend, &tiny, kv, 1);
            feed(&mut engine, 0, &tokens(1, n));
            let before = keys(&engine, &tiny, kv);
            engine.session().shift(0, keep, discard).unwrap();
            let after = keys(&engine, &tiny, kv);

            let head_dim = tiny.n_embd / tiny.n_head;
            let (adjacent, dims) = match architecture {
                "gptj" => (true, head_dim / 2),
                _ => (false, head_dim),
            };
            let left: Vec<usize> = (0..keep).chain(keep + discard..n).collect();
            let heads = (0..tiny.n_layer).flat_map(|layer| {
                let (left, n_head) = (&left, tiny.n_head);
                left.iter().enumerate().flat_map(move |(to, &from)| {
                    (0..n_head).map(move |h| {
                        let head = |of, n| (layer * n + of) * n_head + h;
                        (to, head(from, n), head(to, left.len()))
                    })
                })
            });
            for (position, from, to) in heads {
                let x: Vec<f64> = before[from].iter().map(|&x| f64::from(x)).collect();
                let mut expected = x.clone();
                if position >= keep {
                    for pair in 0..dims / 2 {
                        let (a, b) = match adjacent {
                            true => (2 * pair, 2 * pair + 1),
                            false => (pair, pair + dims / 2),
                        };
                        let frequency = 10_000f64.powf(-2.0 * pair as f64 / dims as f64);
                        let (sin, cos) = (-(discard as f64) * frequency).sin_cos();
                        expected[a] = x[a] * cos - x[b] * sin;
                        expected[b] = x[a] * sin + x[b] * cos;
                    }
                }
                let largest = x.iter().fold(0f64, |m, x| m.max(x.abs()));
                for (d, (&found, expected)) in after[to].iter().zip(&expected).enumerate() {
                    let error = (f64::from(found) - expected).abs() / largest;
                    assert!(
                        error <= turn_tolerance(kv),
                        "{architecture}, {kv}: position {position}, dimension {d}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}

fn a_shift_leaves_those_who_share_the_cells_alone(backend: &Backend) {
    for architecture in ROTARY {
        let tiny = Tiny::new(architecture);
        let text = tokens(2, 24);
        let mut engine = open(backend, &tiny, KvType::F16, 2);
        feed(&mut engine, 0, &text);
        engine.session().share(0, 1, text.len()).unwrap();
        engine.session().shift(1, 2, 9).unwrap();
        let found = feed(&mut engine, 0, &[1]);

        let mut fresh = open(backend, &tiny, KvType::F16, 1);
        feed(&mut fresh, 0, &text);
        assert!(backend.same(&found, &feed(&mut fresh, 0, &[1])));
    }
}

fn learned_positions_are_evaluated_again(backend: &Backend) {
    let tiny = Tiny::new("gpt2");
    let text = tokens(4, 30);
    let mut engine = open(backend, &tiny, KvType::F16, 1);
    feed(&mut engine, 0, &text);
    let again = engine.session().shift(0, 4, 10).unwrap();
    assert_eq!(again, &text[14..]);
    assert_eq!(engine.session().tokens(0), &text[..4]);
    let found = feed(&mut engine, 0, &again);

    let mut fresh = open(backend, &tiny, KvType::F16, 1);
    let left = [&text[..4], &text[14..]].concat();
    assert!(backend.same(&found, &feed(&mut fresh, 0, &left)));
}

fn a_shift_beyond_the_sequence_is_refused(backend: &Backend) {
    for architecture in ["gptneox", "gpt2"] {
        let tiny = Tiny::new(architecture);
        let mut engine = open(backend, &tiny, KvType::F16, 1);
        feed(&mut engine, 0, &tokens(4, 10));
        for (keep, discard) in [(5, 6), (usize::MAX, 1), (11, 0)] {
            let error = engine.session().shift(0, keep, discard).unwrap_err();
            assert!(error.to_string().contains("has 10 positions"), "{error}");
            assert_eq!(engine.session().len(0), 10);
        }
    }
}
