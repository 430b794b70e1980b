//! Byte-level BPE and unigram models of a tokenizer.json against the `tokenizers` crate.

use std::fs;
use std::path::Path;

use katari::text::{SpecialTokens, Tokenizer};
use katari_gguf::keys::tokenizer as keys;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{data, metadata, repository, strings, tokenizer};

/// Texts compared for each tokenizer.
const TEXTS: usize = 4_000;

/// Compares ids of texts, and texts of ids: of the encoded ones and of random ones.
fn compare(name: &str, ours: &Tokenizer, theirs: &tokenizers::Tokenizer) {
    let n = theirs.get_vocab_size(true) as u32;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for text in strings::mixed(TEXTS, 1) {
        let expected = theirs.encode_fast(text.as_str(), false).unwrap();
        let ids = ours.encode(&text, SpecialTokens::Parse);
        assert_eq!(ids, expected.get_ids(), "{name}: {text:?}");
        let random: Vec<u32> = (0..rng.random_range(0..12))
            .map(|_| rng.random_range(0..n))
            .collect();
        for ids in [ids, random] {
            let expected = theirs.decode(&ids, false).unwrap();
            assert_eq!(ours.decode(&ids), expected, "{name}: {ids:?}");
        }
    }
}

fn byte_bpe(dir: &Path) -> tokenizers::Tokenizer {
    let file = |name: &str| dir.join(name).to_str().unwrap().to_string();
    let bpe = BPE::from_file(&file("vocab.json"), &file("merges.txt"));
    let mut theirs = tokenizers::Tokenizer::new(bpe.build().unwrap());
    let level = ByteLevel::default().add_prefix_space(false);
    theirs.with_pre_tokenizer(Some(level));
    theirs.with_decoder(Some(level));
    theirs.add_special_tokens(&[AddedToken::from("<|endoftext|>", true)]);
    theirs
}

#[test]
fn vocab_and_merges() {
    for name in ["gpt2-plain", "gptj-genji/tokenizer"] {
        let dir = repository("tests/golden").join(name);
        let ours = tokenizer(&dir, 2_703, &Value::Null);
        compare(name, &ours, &byte_bpe(&dir));
    }
    if let Some(dir) = data("tokenizers/gpt2") {
        let ours = tokenizer(&dir, 50_257, &Value::Null);
        compare("gpt2", &ours, &byte_bpe(&dir));
    }
}

#[test]
fn tokenizer_json_of_neox() {
    let pythia = repository("tests/golden/neox-pythia");
    for (dir, rows) in [(Some(pythia), 2_648), (data("tokenizers/neox20b"), 50_432)] {
        let Some(dir) = dir else { continue };
        let ours = tokenizer(&dir, rows, &Value::Null);
        let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        compare(&dir.display().to_string(), &ours, &theirs);
    }
}

/// Whole words that are tokens are not cut, with `ignore_merges`.
#[test]
fn ignore_merges() {
    let vocab = ["a", "b", "c", "ab", "bc", "abc", "Ġ", "Ġabc"];
    let vocab: serde_json::Map<String, Value> = vocab
        .iter()
        .zip(0..)
        .map(|(token, id): (&&str, u32)| (token.to_string(), id.into()))
        .collect();
    for ignore in [true, false] {
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": ignore, "vocab": vocab,
                "merges": [["b", "c"], ["a", "b"]]},
        });
        let (ours, theirs) = both(&file);
        for text in ["abc", "abc abc", "ab bc", "abcabc", "xaby"] {
            let expected = theirs.encode(text, false).unwrap();
            let ids = ours.encode(text, SpecialTokens::Parse);
            assert_eq!(ids, expected.get_ids(), "{ignore}: {text:?}");
        }
    }
}

fn both(file: &Value) -> (Tokenizer, tokenizers::Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, file.to_string()).unwrap();
    let ours = tokenizer(dir.path(), 6_100, &Value::Null);
    (ours, tokenizers::Tokenizer::from_file(&path).unwrap())
}

/// The pieces of the demo's sentencepiece model in a tokenizer.json, with the components that
/// published Japanese tokenizers have.
#[test]
fn unigram_tokenizer_json() {
    let demo = metadata(&repository("demo"), 6_000, &Value::Null);
    let tokens: &[String] = demo.need(keys::TOKENS).unwrap();
    let scores: &[f32] = demo.need(keys::SCORES).unwrap();
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let spaces = replace(json!({"Regex": " "}), "▁");
    let first = replace(json!({"Regex": "(?<!\\n)^"}), "▁");
    let sequence = |parts: Value| json!({"type": "Sequence", "normalizers": parts});
    let shown = |last: Value| {
        json!({"type": "Sequence", "decoders": [
            {"type": "ByteFallback"}, replace(json!({"String": "▁"}), " "), {"type": "Fuse"}, last]})
    };
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let regex = replace(json!({"Regex": "(?<!\\n)^ "}), "");
    let bytes_and =
        |last: Value| json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, last]});
    let cases = [
        (sequence(json!([first, spaces])), Value::Null, shown(regex)),
        (
            sequence(json!([{"type": "Prepend", "prepend": "▁"}, spaces])),
            Value::Null,
            shown(strip),
        ),
        (
            json!({"type": "NFKC"}),
            metaspace("always", true),
            bytes_and(metaspace("always", true)),
        ),
        (
            json!({"type": "NFC"}),
            metaspace("first", false),
            bytes_and(metaspace("first", false)),
        ),
        (
            Value::Null,
            metaspace("never", true),
            bytes_and(metaspace("never", true)),
        ),
    ];
    for (number, (normalizer, pre_tokenizer, decoder)) in cases.into_iter().enumerate() {
        // Scores that f32 holds, and, in every second case, scores that it does not.
        let vocab: Vec<Value> = tokens
            .iter()
            .zip(scores)
            .map(|(token, &score)| {
                let nudge = if number % 2 == 1 {
                    score as f64 * 1e-9
                } else {
                    0.0
                };
                json!([token, f64::from(score) + nudge])
            })
            .collect();
        let special = |id: usize| {
            json!({"id": id, "content": tokens[id], "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        };
        let (ours, theirs) = both(&json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0), special(1), special(2), special(3)],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
            "decoder": decoder,
            "model": {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": true},
        }));
        compare(&format!("unigram {number}"), &ours, &theirs);
    }
}
