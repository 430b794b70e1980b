//! A row's logits are the same to the bit whatever else is in the batch, whatever the number of
//! threads and devices, however a prompt is cut, and whether its beginning was in the cache.

use katari::engine::{Engine, EngineOptions, Feed};
use katari::kv::KvType;
use katari_gguf::Format;
use proptest::prelude::*;

use super::{ARCHITECTURES, feed, open, tokens};
use crate::support::{Random, Tiny, relative_rms};

/// Logits after each token of `tokens`, fed one at a time to a fresh engine on one thread.
fn alone(tiny: &Tiny, kv: KvType, tokens: &[u32]) -> Vec<Vec<f32>> {
    let options = EngineOptions {
        threads: Some(1),
        ..EngineOptions::default()
    };
    let mut engine = open(tiny, kv, 1, options);
    tokens.iter().map(|&t| feed(&mut engine, 0, &[t])).collect()
}

/// Feeds several texts in passes cut and mixed by `random`; every row must equal `expected`.
fn interleave(
    engine: &mut Engine,
    texts: &[Vec<u32>],
    expected: &[Vec<Vec<f32>>],
    random: &mut Random,
) {
    let mut done: Vec<usize> = (0..texts.len())
        .map(|s| engine.session().len(s as u32))
        .collect();
    while done.iter().zip(texts).any(|(&n, text)| n < text.len()) {
        let (mut feeds, mut wanted) = (Vec::new(), Vec::new());
        // Runs of one sequence and single tokens, in any order.
        for _ in 0..1 + random.below(6) {
            let s = random.below(texts.len());
            for _ in 0..1 + random.below(5) {
                let Some(&token) = texts[s].get(done[s]) else {
                    break;
                };
                let wants_logits = random.below(3) > 0;
                if wants_logits {
                    wanted.push((s, done[s]));
                }
                feeds.push(Feed {
                    sequence: s as u32,
                    token,
                    wants_logits,
                });
                done[s] += 1;
            }
        }
        if feeds.is_empty() {
            continue;
        }
        let logits = engine.evaluate(&feeds).unwrap();
        assert_eq!(logits.rows().len(), wanted.len());
        for ((s, i), row) in wanted.into_iter().zip(logits.rows()) {
            assert!(row == expected[s][i], "sequence {s}, position {i}");
        }
    }
}

/// A few combinations of weights and KV types: each is its own code in a backend.
const TYPES: [(Format, KvType); 4] = [
    (Format::F32, KvType::F32),
    (Format::F16, KvType::F16),
    (Format::Q4_0, KvType::Q8_0),
    (Format::Q8_0, KvType::Q4_0),
];

#[test]
fn batches_threads_and_devices_do_not_matter() {
    for (i, architecture) in ARCHITECTURES.into_iter().enumerate() {
        for (format, kv) in TYPES {
            let tiny = Tiny {
                format,
                ..Tiny::new(architecture)
            };
            let texts: Vec<_> = (0..3).map(|s| tokens(s, 20 + 11 * s as usize)).collect();
            let expected: Vec<_> = texts.iter().map(|text| alone(&tiny, kv, text)).collect();
            for (threads, n_devices) in [(1, 1), (2, 1), (3, 2)] {
                let options = EngineOptions {
                    threads: Some(threads),
                    n_devices,
                    ..EngineOptions::default()
                };
                let mut engine = open(&tiny, kv, texts.len(), options);
                let mut random = Random((i * threads) as u64);
                interleave(&mut engine, &texts, &expected, &mut random);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A text that begins as a cached one, shared, cut or gone on from.
    #[test]
    fn reused_prefixes_do_not_matter(
        seed in 0..1000u64,
        architecture in 0..4usize,
        types in 0..TYPES.len(),
        common in 1..30usize,
        in_place: bool,
    ) {
        let (format, kv) = TYPES[types];
        let tiny = Tiny { format, ..Tiny::new(ARCHITECTURES[architecture]) };
        let cached = tokens(seed, 30);
        let mut text = cached[..common].to_vec();
        text.extend(tokens(seed + 1, 9));
        let expected = alone(&tiny, kv, &text);

        let mut engine = open(&tiny, kv, 2, EngineOptions::default());
        feed(&mut engine, 0, &cached);
        let (from, to) = (0, u32::from(!in_place));
        if in_place {
            engine.session().truncate(to, common).unwrap();
        } else {
            engine.session().share(from, to, common).unwrap();
        }
        prop_assert_eq!(engine.session().tokens(to), &text[..common]);
        let found = feed(&mut engine, to, &text[common..]);
        prop_assert!(&found == expected.last().unwrap());
        if !in_place {
            // The one that was shared from goes on as if nothing had happened.
            let next = feed(&mut engine, from, &[5]);
            let mut text = cached.clone();
            text.push(5);
            prop_assert!(&next == alone(&tiny, kv, &text).last().unwrap());
        }
    }
}

/// How far logits of a quantised KV cache may be from those of an f32 one, relative RMS: about
/// twice what was measured on these models (0.0008, 0.021 and 0.32 at most), whose evenly
/// distributed values are the worst case. The ratios are those of the types' steps (2^-11, half
/// of 1/127 and of 1/8); unrelated logits are 1.4 apart.
fn kv_tolerance(kv: KvType) -> f64 {
    match kv {
        KvType::F32 => 0.0,
        KvType::F16 => 2e-3,
        KvType::Q8_0 => 4e-2,
        KvType::Q4_0 => 0.6,
    }
}

#[test]
fn every_kv_type_gives_logits_close_to_f32() {
    // Heads of 32 are whole blocks, heads of 20 are padded.
    for (architecture, n_embd, n_head) in ARCHITECTURES
        .into_iter()
        .flat_map(|a| [(a, 64, 2), (a, 80, 4)])
    {
        let tiny = Tiny {
            n_embd,
            n_head,
            ..Tiny::new(architecture)
        };
        let text = tokens(7, 40);
        let f32 = alone(&tiny, KvType::F32, &text);
        for &kv in KvType::ALL {
            let found = alone(&tiny, kv, &text);
            let error = relative_rms(&found.concat(), &f32.concat());
            assert!(
                error <= kv_tolerance(kv),
                "{architecture}, heads of {}, {kv}: {error}",
                n_embd / n_head
            );
            assert!(kv == KvType::F32 || error > 0.0, "{kv} changed nothing");
        }
    }
}
