//! Streams: whole characters only, together the decoded text.

use katari::text::{SpecialTokens, Tokenizer};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::{metadata, repository, strings, tokenizer};

/// The tokenizers of the repository, one of each kind.
pub fn every_kind() -> Vec<(&'static str, Tokenizer)> {
    let load = |name: &'static str, rows| (name, tokenizer(&repository(name), rows, &Value::Null));
    vec![
        load("demo", 6_000),
        load("tests/golden/gpt2-rinna", 2_610),
        load("tests/golden/gpt2-plain", 2_560),
        load("tests/golden/neox-pythia", 2_648),
        load("tests/golden/tokenizers/swe-small", 304),
    ]
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).to_string()).collect();
    pieces.push(stream.finish());
    pieces
}

#[test]
fn pieces_together_are_the_decoded_text() {
    for (name, tokenizer) in every_kind() {
        for text in strings::mixed(1_000, 4) {
            let ids = tokenizer.encode(&text, SpecialTokens::Reference);
            let together = streamed(&tokenizer, &ids).concat();
            let mut expected = tokenizer.decode(&ids);
            if let Some(newline) = tokenizer.newline() {
                // The piece alone, not the same letters from other pieces.
                let parts = ids.split(|&id| id == newline);
                expected = parts
                    .map(|ids| tokenizer.decode(ids))
                    .collect::<Vec<_>>()
                    .join("\n");
            }
            let together = match name.ends_with("swe-small") {
                true => together.trim_matches(|c: char| {
                    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
                }),
                false => &together,
            };
            assert_eq!(together, expected, "{name}: {text:?}");
        }
    }
}

/// Any ids at all: what is pushed is never half a character, and bytes that are no character
/// leave nothing behind.
#[test]
fn nothing_but_whole_characters() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (name, tokenizer) in every_kind() {
        for _ in 0..1_000 {
            let n = tokenizer.len() as u32 + 5;
            let ids: Vec<u32> = (0..rng.random_range(0..20))
                .map(|_| match rng.random_bool(0.5) {
                    true => rng.random_range(0..n),
                    false => rng.random_range(0..300),
                })
                .collect();
            let together = streamed(&tokenizer, &ids).concat();
            assert!(!together.contains('\u{fffd}'), "{name}: {ids:?}");
            let newline = tokenizer.newline();
            if newline.is_none_or(|id| !ids.contains(&id)) && !name.ends_with("swe-small") {
                let decoded = tokenizer.decode(&ids).replace('\u{fffd}', "");
                assert_eq!(together, decoded, "{name}: {ids:?}");
            }
        }
    }
}

#[test]
fn a_character_waits_for_its_last_byte() {
    let tokenizer = tokenizer(&repository("demo"), 6_000, &Value::Null);
    let ids = tokenizer.encode("გ", SpecialTokens::Reference);
    assert_eq!(streamed(&tokenizer, &ids), ["", "", "გ", ""]);
    // Cut short, it leaves nothing; what follows shows.
    let newline = tokenizer.newline().unwrap();
    let spoilt = [&ids[..2], &[newline], &ids[1..], &ids[..1]].concat();
    assert_eq!(streamed(&tokenizer, &spoilt).concat(), "\n");
}

#[test]
fn line_breaks_travel_as_nl() {
    let tokenizer = tokenizer(&repository("demo"), 6_000, &Value::Null);
    let newline = tokenizer.newline().unwrap();
    let ids = tokenizer.prompt_ids("一\n二\r\n三");
    assert_eq!(ids.iter().filter(|&&id| id == newline).count(), 2);
    assert_eq!(streamed(&tokenizer, &ids).concat(), "一\n二\n三");
    // The tokenizer itself is plain sentencepiece: a line break is a space.
    let plain = tokenizer.encode("一\n二", SpecialTokens::Reference);
    assert_eq!(tokenizer.decode(&plain), "一 二");
}

#[test]
fn a_text_that_goes_on_keeps_its_space() {
    let tokenizer = tokenizer(&repository("tests/golden/gpt2-rinna"), 2_610, &Value::Null);
    let prompt = tokenizer.encode("猫", SpecialTokens::Reference);
    let word = tokenizer.id("▁").unwrap();
    assert_eq!(tokenizer.stream().push(word), "");
    assert_eq!(tokenizer.stream_after(&prompt).push(word), " ");
    assert_eq!(tokenizer.stream_after(&[]).push(word), "");
}

#[test]
fn special_tokens_by_choice() {
    let demo = tokenizer(&repository("demo"), 6_000, &Value::Null);
    let end = demo.eos().unwrap();
    assert_eq!(demo.encode("</s>", SpecialTokens::Parse), [end]);
    assert!(!demo.encode("</s>", SpecialTokens::AsText).contains(&end));
    assert_eq!(
        demo.encode("</s>", SpecialTokens::Reference),
        demo.encode("</s>", SpecialTokens::AsText)
    );
    let gpt2 = tokenizer(&repository("tests/golden/gpt2-plain"), 2_560, &Value::Null);
    let end = gpt2.eos().unwrap();
    assert_eq!(
        gpt2.encode("<|endoftext|>", SpecialTokens::Reference),
        [end]
    );
    assert!(
        !gpt2
            .encode("<|endoftext|>", SpecialTokens::AsText)
            .contains(&end)
    );
}

/// A template names the special tokens it means; a prompt names none.
#[test]
fn a_conversation_s_special_tokens_are_tokens() {
    let demo = tokenizer(&repository("demo"), 6_000, &Value::Null);
    let (newline, end) = (demo.newline().unwrap(), demo.eos().unwrap());
    let ids = demo.chat_ids("猫\n</s>犬");
    assert_eq!(ids.iter().filter(|&&id| id == newline).count(), 1);
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 1);
    assert!(!demo.prompt_ids("猫\n</s>犬").contains(&end));
    // What names none is the same either way.
    assert_eq!(demo.chat_ids("猫と犬"), demo.prompt_ids("猫と犬"));
}

/// Rows beyond the vocabulary, and tokens that only the configuration adds, are never drawn.
#[test]
fn surplus_rows_are_not_drawable() {
    let dir = repository("tests/golden/gpt2-rinna");
    let tokenizer = tokenizer(&dir, 2_610, &Value::Null);
    assert_eq!(tokenizer.len(), 2_610);
    assert_eq!(tokenizer.n_tokens(), 2_560);
    assert_eq!(tokenizer.pad(), Some(2_560));
    assert_eq!(tokenizer.piece(2_560), "[PAD]");
    let text = tokenizer.decode(&[2_559, 2_560, 2_561, 99_999]);
    assert_eq!(text, tokenizer.decode(&[2_559]));
    let metadata = metadata(&dir, 2_610, &Value::Null);
    for key in ["add_bos_token", "add_eos_token"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(!metadata.need::<bool>(&key).unwrap(), "{key}");
    }
}
