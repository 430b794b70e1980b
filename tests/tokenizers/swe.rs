//! The sub-word tokenizer on a small vocabulary of our own, with ids worked out from the
//! published rules: the smallest id among forms of up to three characters, the longest tag, a
//! form's later line, byte tokens for the rest.

use std::path::PathBuf;

use katari::text::{SpecialTokens, Tokenizer};
use serde_json::Value;

use super::{data, repository, tokenizer};

/// Where the byte tokens begin in the small vocabulary.
const BYTE: u32 = 41;

fn folder() -> PathBuf {
    repository("tests/golden/tokenizers/swe-small")
}

fn small() -> Tokenizer {
    tokenizer(&folder(), 304, &Value::Null)
}

/// The same with `do_clean_text`.
fn cleaning() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.txt", "emoji.json"] {
        std::fs::copy(folder().join(name), dir.path().join(name)).unwrap();
    }
    let config = r#"{"do_clean_text": true}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    tokenizer(dir.path(), 304, &Value::Null)
}

/// The byte tokens of a text.
fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(|b| BYTE + u32::from(b)).collect()
}

#[test]
fn small_vocabulary() {
    let cases: [(&str, Vec<u32>, &str); 17] = [
        // 猫である is one form, of four characters: too long to be looked for.
        ("吾輩は猫である", vec![4, 12, 1, 6], "吾輩は猫である"),
        // 慶応 stands in lines 2 and 11, は in 5 and 12: the later ones count. 慶應 is in line 2
        // alone and shows as its first form. 出身 is 14, but 出 is 13.
        (
            "慶応(慶應)大学出身",
            vec![11, 37, 2, 38, 7, 13, 15],
            "慶応(慶応)大学出身",
        ),
        ("1①１", vec![3, 3, 3], "111"),
        ("b\u{3000} は", vec![33, 17, 17, 12], "b  は"),
        ("\t\r\n\r\n猫\n", vec![18, 16, 16, 1, 16], "猫"),
        // The line of a lone comma has no form.
        (",", bytes(","), ","),
        ("—−ー", vec![9, 9, 9], "ーーー"),
        // (^_^)b is replaced before (^_^).
        (
            "😀😃🐯(^_^)b(^_^)",
            vec![27, 27, 28, 29, 29],
            "😀😀🐯(^_^)(^_^)",
        ),
        ("けいおう", bytes("けいおう"), "けいおう"),
        ("龍🐈", bytes("龍🐈"), "龍🐈"),
        ("¡ǃ˹\u{345}", vec![25, 25, 25, 25], "ǀǀǀǀ"),
        ("‖☃⯿Ⰰ", [vec![26, 26, 26], bytes("Ⰰ")].concat(), "‖‖‖Ⰰ"),
        // < is 30 and <3 is 31: of forms of one or two characters the smallest id.
        ("<3<a", vec![30, 36, 30, 32], "<3<a"),
        ("<BR><SP>猫", vec![16, 17, 1], "猫"),
        ("か\u{3099}が", vec![40, 40], "がが"),
        ("Bb", vec![33, 33], "bb"),
        (
            "<|endoftext|>は<|startoftext|>",
            vec![299, 12, 296],
            "<|endoftext|>は<|startoftext|>",
        ),
    ];
    let tokenizer = small();
    for (text, ids, decoded) in cases {
        let found = tokenizer.encode(text, SpecialTokens::Reference);
        assert_eq!(found, ids, "{text:?}");
        assert_eq!(tokenizer.decode(&found), decoded, "{text:?}");
    }
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(296), Some(299)));
    assert!(tokenizer.is_drawable(299) && !tokenizer.is_drawable(300));
}

#[test]
fn control_tokens_as_text_are_characters() {
    let tokenizer = small();
    let ids = tokenizer.encode("<|endoftext|>", SpecialTokens::AsText);
    assert!(!ids.contains(&299) && ids[0] == 30, "{ids:?}");
    assert_eq!(tokenizer.decode(&ids), "<|endoftext|>");
}

#[test]
fn clean_text() {
    let cases: [(&str, Vec<u32>); 9] = [
        (
            "http://a.b/c?d=1 ftp://x、は",
            [vec![19, 17, 19], bytes("、"), vec![12]].concat(),
        ),
        ("foo.bar+1@example.co.jp は @a", vec![20, 17, 12, 17, 20]),
        ("03-1234-3210 (03)123-3210", vec![21, 17, 21]),
        ("2021年3月15日(月)12:34 3/15 12月", vec![22, 17, 22, 17, 22]),
        // The month comes before the era is looked for, so the year stays.
        (
            "平成3年12月1日㈪は",
            [bytes("平成"), vec![36], bytes("年"), vec![22, 12]].concat(),
        ),
        (
            "100,000円 3億2万5千円(税込) 5ドル+tax",
            vec![23, 17, 23, 17, 23],
        ),
        ("─━│は▀▁█a│", vec![24, 12, 24, 32, 24]),
        ("─<BLOCK>━", vec![24]),
        ("猫", vec![1]),
    ];
    let (clean, plain) = (cleaning(), small());
    for (text, ids) in cases {
        let found = clean.encode(text, SpecialTokens::Reference);
        assert_eq!(found, ids, "{text:?}");
        if text != "猫" {
            assert_ne!(
                plain.encode(text, SpecialTokens::Reference),
                ids,
                "{text:?}"
            );
        }
    }
}

/// The check that the published tokenizer's documentation gives.
#[test]
fn published_check() {
    let Some(dir) = data("tokenizers/abeja") else {
        return;
    };
    let tokenizer = tokenizer(&dir, 32_000, &Value::Null);
    let text = "吾輩は猫である🐯。実は慶応(慶應)大学出身";
    let ids = [
        30014, 26883, 26638, 27228, 25, 26650, 31732, 31679, 27809, 26638, 17749, 31592, 17749,
        31593, 321, 1281,
    ];
    assert_eq!(tokenizer.encode(text, SpecialTokens::Reference), ids);
    let decoded = "吾輩は猫である🐯。実は慶応(慶応)大学出身";
    assert_eq!(tokenizer.decode(&ids), decoded);
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos()),
        (Some(31996), Some(31999))
    );
}
