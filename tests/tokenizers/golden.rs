//! Every golden line: ids and decoded text exactly the reference's.

use std::fs;
use std::path::Path;

use katari::text::{SpecialTokens, Tokenizer};
use serde_json::Value;

use super::{data, json, repository, sentencepiece, tokenizer};

/// One line: a text, its ids and what the reference decodes them to.
struct Line {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

impl Line {
    fn new(line: &Value) -> Line {
        Line {
            text: line["text"].as_str().unwrap().into(),
            ids: serde_json::from_value(line["ids"].clone()).unwrap(),
            decoded: line["decoded"].as_str().unwrap().into(),
        }
    }
}

/// How a decoded text is compared.
#[derive(Clone, Copy, PartialEq)]
enum Decoded {
    Exactly,
    /// abeja's reference decodes byte tokens one at a time; ours joins them. Id by id, ours must
    /// say the same.
    IdById,
}

fn check(name: &str, tokenizer: &Tokenizer, lines: &[Line], decoded: Decoded) {
    assert!(!lines.is_empty());
    for line in lines {
        let ids = tokenizer.encode(&line.text, SpecialTokens::Reference);
        assert_eq!(ids, line.ids, "{name}: {:?}", line.text);
        let text = tokenizer.decode(&line.ids);
        match decoded {
            Decoded::Exactly => assert_eq!(text, line.decoded, "{name}: {:?}", line.text),
            Decoded::IdById => id_by_id(tokenizer, line, &text),
        }
    }
}

fn id_by_id(tokenizer: &Tokenizer, line: &Line, text: &str) {
    if !line.decoded.contains('\u{fffd}') {
        assert_eq!(text, line.decoded, "{:?}", line.text);
        return;
    }
    // Every byte token shows as U+FFFD alone, so the reference's text is ours with each character
    // that bytes make replaced by one U+FFFD a byte.
    let mut bytes = String::new();
    let mut joined = String::new();
    for part in line
        .ids
        .chunk_by(|&a, &b| is_byte(tokenizer, a) == is_byte(tokenizer, b))
    {
        // A space at an end would be trimmed: set the part between two letters.
        let guard = tokenizer.encode("a", SpecialTokens::AsText);
        let shown = tokenizer.decode(&[&guard[..], part, &guard[..]].concat());
        let shown = &shown[1..shown.len() - 1];
        joined.push_str(shown);
        for c in shown.chars() {
            match c.is_ascii() || !is_byte(tokenizer, part[0]) {
                true => bytes.push(c),
                false => bytes.extend(std::iter::repeat_n('\u{fffd}', c.len_utf8())),
            }
        }
    }
    assert_eq!(bytes.trim(), line.decoded, "{:?}", line.text);
    assert_eq!(joined.trim(), text, "{:?}", line.text);
    assert!(!text.contains('\u{fffd}'), "{text:?}");
}

fn is_byte(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.piece(id).starts_with("<|byte")
}

fn lines(file: &Path) -> Vec<Line> {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| Line::new(&serde_json::from_str(line).unwrap()))
        .collect()
}

/// Compares with `golden/tokenizers/{name}.jsonl`.
fn golden(name: &str, decoded: Decoded, load: impl Fn() -> Option<Tokenizer>) {
    let Some(file) = data(&format!("golden/tokenizers/{name}.jsonl")) else {
        return;
    };
    if let Some(tokenizer) = load() {
        check(name, &tokenizer, &lines(&file), decoded);
    }
}

#[test]
fn gpt2() {
    golden("gpt2", Decoded::Exactly, || {
        // GPT-J's embedding has more rows than its tokenizer has tokens.
        Some(tokenizer(&data("tokenizers/gpt2")?, 50_400, &Value::Null))
    });
}

#[test]
fn neox20b() {
    golden("neox20b", Decoded::Exactly, || {
        Some(tokenizer(
            &data("tokenizers/neox20b")?,
            50_432,
            &Value::Null,
        ))
    });
}

#[test]
fn abeja() {
    golden("abeja-swe32k", Decoded::IdById, || {
        Some(tokenizer(&data("tokenizers/abeja")?, 32_000, &Value::Null))
    });
}

#[test]
fn made_unigram_with_byte_fallback() {
    golden("made-rinna36b-like", Decoded::Exactly, || {
        let model = data("tokenizers/made/rinna36b-like.model")?;
        Some(sentencepiece(&model, 32_000))
    });
}

#[test]
fn made_bpe_with_byte_fallback() {
    golden("made-bpe8k-byte", Decoded::Exactly, || {
        let model = data("tokenizers/made/bpe8k-byte.model")?;
        Some(sentencepiece(&model, 8_000))
    });
}

#[test]
fn rinna_gpt2() {
    golden("rinna-gpt2-google_sp", Decoded::Exactly, || {
        let model = data("tokenizers/rinna/google_sp.model")?;
        Some(sentencepiece(&model, 44_928))
    });
}

/// The texts of a golden checkpoint.
fn model(dir: &Path, decoded: Decoded) {
    let config = json(&dir.join("config.json"));
    let rows = config["vocab_size"].as_u64().unwrap() as usize;
    let tokenizer = tokenizer(dir, rows, &config);
    let golden = json(&dir.join("golden.json"));
    let lines: Vec<Line> = golden.as_array().unwrap().iter().map(Line::new).collect();
    let name = dir.file_name().unwrap().to_str().unwrap();
    check(name, &tokenizer, &lines, decoded);
    assert_eq!(tokenizer.len(), rows);
    for (role, id) in [
        ("bos_token_id", tokenizer.bos()),
        ("eos_token_id", tokenizer.eos()),
    ] {
        assert_eq!(id.map(u64::from), config[role].as_u64(), "{name}: {role}");
    }
}

#[test]
fn golden_checkpoints() {
    for name in [
        "gpt2-plain",
        "gpt2-rinna",
        "gptj-genji",
        "neox-pythia",
        "neox-rinna",
    ] {
        model(&repository("tests/golden").join(name), Decoded::Exactly);
    }
}

#[test]
fn golden_checkpoint_of_abeja() {
    let (Some(checkpoint), Some(files)) = (
        data("golden/models/neox-japanese-abeja"),
        data("tokenizers/abeja"),
    ) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in [
        (checkpoint.join("config.json"), "config.json"),
        (checkpoint.join("golden.json"), "golden.json"),
        (
            checkpoint.join("tokenizer_config.json"),
            "tokenizer_config.json",
        ),
        (files.join("ja-swe32k.txt"), "vocab.txt"),
        (files.join("emoji.json"), "emoji.json"),
    ] {
        fs::copy(from, dir.path().join(to)).unwrap();
    }
    model(dir.path(), Decoded::IdById);
}
