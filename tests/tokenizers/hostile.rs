//! Metadata that lies: an error that names the key, never a panic or an endless loop.

use katari::text::{SpecialTokens, Tokenizer};
use katari_gguf::keys::{katari as own, tokenizer as keys};
use katari_gguf::{Array, Metadata, Value};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::{metadata, repository};

const KINDS: [(&str, usize); 5] = [
    ("demo", 6_000),
    ("tests/golden/gpt2-rinna", 2_610),
    ("tests/golden/gpt2-plain", 2_560),
    ("tests/golden/neox-pythia", 2_648),
    ("tests/golden/tokenizers/swe-small", 304),
];

fn of(kind: usize) -> Metadata {
    let (name, rows) = KINDS[kind];
    metadata(&repository(name), rows, &serde_json::Value::Null)
}

fn without(metadata: &Metadata, key: &str) -> Metadata {
    let mut out = Metadata::new();
    for (k, v) in metadata.iter().filter(|(k, _)| *k != key) {
        out.set(k, v.clone());
    }
    out
}

#[test]
fn lies_are_named() {
    let cases: Vec<(usize, &str, Value, &str)> = vec![
        (0, keys::MODEL, "bert".into(), "bert"),
        (0, keys::TOKENS, Vec::<String>::new().into(), "0 tokens"),
        (0, keys::TOKENS, vec![1.0f32].into(), keys::TOKENS),
        (0, keys::SCORES, vec![0.0f32; 3].into(), "3 entries"),
        (0, keys::SCORES, vec![f32::NAN; 6_000].into(), "NaN"),
        (0, keys::SCORES, vec![0i32; 6_000].into(), keys::SCORES),
        (
            0,
            keys::TOKEN_TYPE,
            vec![1i32; 5_999].into(),
            "5999 entries",
        ),
        (
            0,
            keys::TOKEN_TYPE,
            vec![6i32; 6_000].into(),
            "typed a byte",
        ),
        (
            0,
            keys::TOKEN_TYPE,
            vec![1i32; 6_000].into(),
            "falls back to bytes",
        ),
        (0, keys::EOS_ID, 6_000u32.into(), "6000"),
        (
            0,
            keys::PRECOMPILED_CHARSMAP,
            vec![255u8; 40].into(),
            "trie",
        ),
        (2, keys::MERGES, vec!["nospace"].into(), "nospace"),
        (2, keys::MERGES, vec!["a nowhere"].into(), "nowhere"),
        (2, keys::PRE, "llama-bpe".into(), "llama-bpe"),
        (
            3,
            own::TOKENIZER_NORMALIZER,
            vec!["lowercase"].into(),
            "lowercase",
        ),
        (
            3,
            own::TOKENIZER_NORMALIZER,
            vec!["replace", "a"].into(),
            "argument",
        ),
        (4, own::TOKENIZER_EMOJI, "{".into(), "JSON"),
        (
            4,
            own::TOKENIZER_EMOJI,
            "{\"emoji\": {\"a\": 1}, \"emoji_inv\": {}}".into(),
            "no string",
        ),
        (
            4,
            own::TOKENIZER_SURFACES,
            vec!["a"; 400].into(),
            "400 lines",
        ),
    ];
    for (kind, key, value, named) in cases {
        let mut metadata = of(kind);
        metadata.set(key, value);
        match Tokenizer::from_metadata(&metadata) {
            Ok(_) => panic!("{key}: loaded"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("metadata key '") && error.contains(named),
                    "{error}"
                );
            }
        }
    }
    for (kind, key) in [
        (0, keys::MODEL),
        (0, keys::TOKENS),
        (0, keys::SCORES),
        (2, keys::MERGES),
        (4, own::TOKENIZER_EMOJI),
        (4, own::TOKENIZER_SURFACES),
    ] {
        let error = Tokenizer::from_metadata(&without(&of(kind), key)).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}

/// Random damage to any key: an error or a tokenizer that can be used.
#[test]
fn damage_does_not_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (kind, (name, _)) in KINDS.iter().enumerate() {
        let whole = of(kind);
        let keys: Vec<String> = whole.iter().map(|(key, _)| key.to_string()).collect();
        let mut loaded = 0;
        for _ in 0..60 {
            let mut metadata = whole.clone();
            let key = keys.choose(&mut rng).unwrap();
            let value = metadata.get(key).unwrap().clone();
            metadata.set(key.clone(), damaged(value, &mut rng));
            if let Ok(tokenizer) = Tokenizer::from_metadata(&metadata) {
                loaded += 1;
                for text in ["", "吾輩は  猫である🐯\n<NL></s><|endoftext|>ABC 12㌀\0"] {
                    for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
                        let ids = tokenizer.encode(text, special);
                        tokenizer.decode(&ids);
                    }
                }
                let ids: Vec<u32> = (0..200).map(|_| rng.random_range(0..7_000)).collect();
                let mut stream = tokenizer.stream();
                for &id in &ids {
                    stream.push(id);
                }
                tokenizer.decode(&ids);
            }
        }
        println!("{name}: {loaded} of 60 loaded");
    }
}

fn damaged(value: Value, rng: &mut impl Rng) -> Value {
    /// Shortens, swaps or overwrites a list.
    fn list<T: Clone>(mut list: Vec<T>, strange: T, rng: &mut impl Rng) -> Vec<T> {
        for _ in 0..rng.random_range(1..50) {
            match list.choose_mut(rng) {
                Some(slot) => *slot = strange.clone(),
                None => break,
            }
        }
        if rng.random_bool(0.2) {
            list.truncate(rng.random_range(0..=list.len()));
        }
        list
    }
    match value {
        Value::Array(Array::String(v)) => list(v, "\u{2581}a b,<|byte7|>".into(), rng).into(),
        Value::Array(Array::I32(v)) => {
            let strange = rng.random_range(-3..9);
            list(v, strange, rng).into()
        }
        Value::Array(Array::F32(v)) => list(v, 1e30, rng).into(),
        Value::Array(Array::U8(v)) => {
            let strange = rng.random();
            list(v, strange, rng).into()
        }
        Value::Bool(flag) => (!flag).into(),
        Value::U32(_) => rng.random_range(0..9_000u32).into(),
        _ => Value::from("strange"),
    }
}
