//! sentencepiece itself, on a hundred thousand texts for every model at hand.

use std::path::PathBuf;

use katari::text::SpecialTokens;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use sentencepiece::SentencePieceProcessor;

use super::{data, repository, sentencepiece, strings};

/// Texts compared for each model.
const TEXTS: usize = 100_000;

fn models() -> Vec<PathBuf> {
    let here = [
        "demo/spiece.model",
        "tests/golden/gpt2-rinna/spiece.model",
        "tests/golden/neox-rinna/spiece.model",
    ];
    let there = [
        "tokenizers/made/bpe8k-byte.model",
        "tokenizers/made/bpe8k-nobyte.model",
        "tokenizers/made/rinna36b-like.model",
        "tokenizers/rinna/google_sp.model",
    ];
    let here = here.iter().map(|path| repository(path));
    here.chain(there.iter().filter_map(|path| data(path)))
        .collect()
}

#[test]
fn equal_ids_and_texts() {
    std::thread::scope(|scope| {
        for model in models() {
            scope.spawn(move || compare(model));
        }
    });
}

fn compare(model: PathBuf) {
    let name = model.display();
    let theirs = SentencePieceProcessor::open(&model).unwrap();
    let ours = sentencepiece(&model, theirs.len());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for text in strings::mixed(TEXTS, 2) {
        let expected: Vec<u32> = theirs.encode(&text).unwrap().iter().map(|p| p.id).collect();
        let ids = ours.encode(&text, SpecialTokens::Reference);
        assert_eq!(ids, expected, "{name}: {text:?}");
        let random: Vec<u32> = (0..rng.random_range(0..12))
            .map(|_| rng.random_range(0..theirs.len() as u32))
            .collect();
        for ids in [ids, random] {
            let expected = theirs.decode_piece_ids(&ids).unwrap();
            assert_eq!(ours.decode(&ids), expected, "{name}: {ids:?}");
        }
    }
}
