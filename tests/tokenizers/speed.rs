//! A long line without spaces costs no more a byte than a short one.

use std::time::{Duration, Instant};

use katari::text::{SpecialTokens, Tokenizer};
use serde_json::Value;

use super::{data, metadata, repository, sentencepiece, tokenizer};

/// The line's length in bytes, about.
const BYTES: usize = 100_000;
/// Far more than a linear algorithm takes on a slow machine under load, far less than a
/// quadratic one.
const LIMIT: Duration = Duration::from_secs(5);

fn check(name: &str, tokenizer: &Tokenizer) {
    for part in [
        "あ",
        "吾輩は猫である",
        "a",
        "\u{1f408}",
        " ",
        "\n",
        "<",
        "(",
        "1",
    ] {
        let line = part.repeat(BYTES / part.len());
        let start = Instant::now();
        let ids = tokenizer.encode(&line, SpecialTokens::Parse);
        let took = start.elapsed();
        assert!(took < LIMIT, "{name}: {took:?} for {part:?}");
        let start = Instant::now();
        let mut stream = tokenizer.stream();
        for &id in &ids {
            stream.push(id);
        }
        tokenizer.decode(&ids);
        let took = start.elapsed();
        assert!(took < LIMIT, "{name}: {took:?} to decode {part:?}");
    }
}

#[test]
fn long_lines_take_linear_time() {
    for (name, rows) in [
        ("demo", 6_000),
        ("tests/golden/gpt2-rinna", 2_610),
        ("tests/golden/gpt2-plain", 2_560),
        ("tests/golden/neox-pythia", 2_648),
        ("tests/golden/tokenizers/swe-small", 304),
    ] {
        check(name, &tokenizer(&repository(name), rows, &Value::Null));
    }
    if let Some(model) = data("tokenizers/made/bpe8k-nobyte.model") {
        check("bpe8k", &sentencepiece(&model, 8_000));
    }
    for (folder, rows) in [("tokenizers/neox20b", 50_432), ("tokenizers/abeja", 32_000)] {
        let Some(dir) = data(folder) else { continue };
        let metadata = metadata(&dir, rows, &Value::Null);
        let start = Instant::now();
        let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
        println!("{folder}: loaded in {:?}", start.elapsed());
        check(folder, &tokenizer);
    }
}
