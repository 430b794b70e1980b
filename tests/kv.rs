//! The KV cache: the ledger against a naive model of it, and what the engine does with it.

mod context_shift;
mod ledger;
mod repeatable;
mod snapshot;

use katari::engine::{Engine, EngineOptions, Feed};
use katari::kv::KvType;

use crate::devices::Backend;
use crate::support::Tiny;

/// The architectures, one of each.
const ARCHITECTURES: [&str; 4] = ["gptj", "gptneox", "gptneox-japanese", "gpt2"];

/// An engine with `n_sequences` sequences.
fn open(backend: &Backend, tiny: &Tiny, kv: KvType, n_sequences: usize) -> Engine {
    open_with(tiny, kv, n_sequences, backend.options())
}

/// The same, with the options that `options` has beside.
fn open_with(tiny: &Tiny, kv: KvType, n_sequences: usize, options: EngineOptions) -> Engine {
    let options = EngineOptions {
        kv: (kv, kv),
        n_sequences,
        ..options
    };
    Engine::open(&tiny.file(), &options).unwrap()
}

/// Appends `tokens` to `sequence` in one pass; logits of the last.
fn feed(engine: &mut Engine, sequence: u32, tokens: &[u32]) -> Vec<f32> {
    let last = tokens.len() - 1;
    let feeds: Vec<Feed> = tokens
        .iter()
        .enumerate()
        .map(|(i, &token)| Feed {
            sequence,
            token,
            wants_logits: i == last,
        })
        .collect();
    let logits = engine.evaluate(&feeds).unwrap();
    logits.row(0).unwrap().to_vec()
}

/// `n` tokens, others for every `seed`.
fn tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut random = crate::support::Random(seed);
    (0..n).map(|_| random.below(Tiny::N_VOCAB) as u32).collect()
}
