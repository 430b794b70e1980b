//! Folders that hold no tokenizer, half of one, another model's, or one that is not supported:
//! one error each, naming the file and the fault.

use std::fs;
use std::path::Path;

use katari_gguf::keys::tokenizer as keys;
use serde_json::{Value, json};

use super::{metadata, repository};

/// The error of reading `dir`.
fn error(dir: &Path, rows: usize) -> String {
    match katari_quantize::tokenizer::read(dir, rows, &Value::Null) {
        Ok(_) => panic!("{}: read without an error", dir.display()),
        Err(error) => error.to_string(),
    }
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn bytes(path: &str) -> Vec<u8> {
    fs::read(repository(path)).unwrap()
}

#[test]
fn tokenizer_missing() {
    let dir = folder(&[("config.json", b"{}")]);
    let error = error(dir.path(), 10);
    assert!(
        error.contains("--tokenizer") && error.contains("spiece.model"),
        "{error}"
    );
}

#[test]
fn more_tokens_than_rows() {
    for name in [
        "demo",
        "tests/golden/gpt2-plain",
        "tests/golden/neox-pythia",
    ] {
        let error = error(&repository(name), 1_000);
        assert!(
            error.contains("1000 rows") && error.contains("--tokenizer"),
            "{error}"
        );
    }
}

#[test]
fn cut_and_flipped_spiece_models() {
    let model = bytes("tests/golden/gpt2-rinna/spiece.model");
    for cut in [0, 1, 10, model.len() / 2, model.len() - 1] {
        let dir = folder(&[("spiece.model", &model[..cut])]);
        let error = error(dir.path(), 2_610);
        assert!(error.contains("spiece.model"), "{error}");
    }
    // Wherever a bit flips, there is an error or a tokenizer, and no panic.
    for at in (0..model.len()).step_by(997) {
        let mut model = model.clone();
        model[at] ^= 0x41;
        let dir = folder(&[("spiece.model", &model)]);
        if let Ok(entries) = katari_quantize::tokenizer::read(dir.path(), 2_610, &Value::Null) {
            let mut metadata = katari_gguf::Metadata::new();
            for (key, value) in entries {
                metadata.set(key, value);
            }
            if let Ok(tokenizer) = katari::text::Tokenizer::from_metadata(&metadata) {
                tokenizer.encode("吾輩は猫である  ①", Default::default());
            }
        }
    }
}

#[test]
fn unsupported_parts_are_named() {
    let base: Value =
        serde_json::from_slice(&bytes("tests/golden/neox-pythia/tokenizer.json")).unwrap();
    let cases: [(&str, Value, &str); 8] = [
        (
            "/pre_tokenizer",
            json!({"type": "BertPreTokenizer"}),
            "BertPreTokenizer",
        ),
        ("/normalizer", json!({"type": "Lowercase"}), "Lowercase"),
        ("/decoder", json!({"type": "WordPiece"}), "WordPiece"),
        ("/model/type", json!("WordPiece"), "WordPiece"),
        ("/model/dropout", json!(0.1), "dropout"),
        ("/model/byte_fallback", json!(true), "byte_fallback"),
        (
            "/model/end_of_word_suffix",
            json!("</w>"),
            "end_of_word_suffix",
        ),
        ("/model/merges/0", json!(["a", "nowhere"]), "nowhere"),
    ];
    for (place, value, named) in cases {
        let mut file = base.clone();
        *file.pointer_mut(place).unwrap() = value;
        let dir = folder(&[("tokenizer.json", file.to_string().as_bytes())]);
        let error = error(dir.path(), 2_648);
        assert!(
            error.contains(named) && error.contains("tokenizer.json"),
            "{error}"
        );
    }
}

#[test]
fn damaged_vocabularies() {
    let merges = bytes("tests/golden/gpt2-plain/merges.txt");
    let cases: [(&[u8], &[u8], &str); 6] = [
        (b"{\"a\": 0, \"b\": 0}", b"", "both have the id 0"),
        (b"{\"a\": 0, \"b\": 2}", b"", "has the id 2"),
        (b"{\"a\": 0, \"b\": -1}", b"", "has the id -1"),
        (b"[1]", b"", "no JSON object"),
        (b"{", b"", "no valid JSON"),
        (b"{\"a\": 0}", &merges, "is not in the vocabulary"),
    ];
    for (vocab, merges, named) in cases {
        let dir = folder(&[("vocab.json", vocab), ("merges.txt", merges)]);
        let error = error(dir.path(), 10);
        assert!(error.contains(named), "{error}");
    }
    let dir = folder(&[("vocab.txt", b"a\n"), ("emoji.json", b"{\"emoji\": {}}")]);
    assert!(error(dir.path(), 10).contains("emoji_inv"));
}

/// The keys that llama.cpp looks for when it loads a file of each kind.
#[test]
fn keys_other_programs_need() {
    let of = |name: &str, rows| metadata(&repository(name), rows, &json!({"eos_token_id": 3}));
    let demo = of("demo", 6_000);
    assert_eq!(demo.need::<&str>(keys::MODEL).unwrap(), "t5");
    let types: &[i32] = demo.need(keys::TOKEN_TYPE).unwrap();
    assert_eq!(types.iter().filter(|&&kind| kind == 6).count(), 256);
    assert_eq!(types[..5], [3, 2, 3, 3, 4]);
    assert!(demo.need::<&[f32]>(keys::SCORES).unwrap().len() == types.len());
    assert!(
        demo.need::<&[u8]>(keys::PRECOMPILED_CHARSMAP)
            .unwrap()
            .len()
            > 200_000
    );
    assert!(!demo.need::<bool>(keys::ADD_SPACE_PREFIX).unwrap());
    assert!(!demo.need::<bool>(keys::REMOVE_EXTRA_WHITESPACES).unwrap());
    assert_eq!(demo.need::<u32>(keys::UNK_ID).unwrap(), 1);

    let gpt2 = of("tests/golden/gpt2-plain", 2_570);
    assert_eq!(gpt2.need::<&str>(keys::MODEL).unwrap(), "gpt2");
    assert_eq!(gpt2.need::<&str>(keys::PRE).unwrap(), "gpt-2");
    // llama.cpp demands that names differ.
    let tokens: &[String] = gpt2.need(keys::TOKENS).unwrap();
    let names: std::collections::HashSet<_> = tokens.iter().collect();
    assert_eq!(names.len(), 2_570);
    assert_eq!(gpt2.need::<u32>(keys::EOS_ID).unwrap(), 0);
    let types: &[i32] = gpt2.need(keys::TOKEN_TYPE).unwrap();
    assert!(types[0] == 3 && types[2_560..].iter().all(|&kind| kind == 5));
    // A tokenizer may lie in a subfolder of the checkpoint.
    let genji = of("tests/golden/gptj-genji", 2_703);
    assert_eq!(genji.need::<&[String]>(keys::TOKENS).unwrap().len(), 2_703);
}
