//! Texts to compare tokenizers on: real lines and random ones that look for trouble.

use std::fs;

use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::{data, json, repository};

/// Ranges of characters that random texts draw from.
const RANGES: [(u32, u32); 24] = [
    (0x20, 0x7e),       // ASCII
    (0x00, 0x1f),       // control characters
    (0x7f, 0xa0),       // more of them
    (0xa1, 0x24f),      // Latin
    (0x300, 0x36f),     // combining marks
    (0x370, 0x52f),     // Greek, Cyrillic
    (0x590, 0x6ff),     // Hebrew, Arabic
    (0x900, 0xdff),     // scripts of India
    (0xe00, 0xeff),     // Thai, Lao
    (0x10a0, 0x11ff),   // Georgian, Hangul letters
    (0x2000, 0x206f),   // spaces, joiners, directions
    (0x2070, 0x218f),   // superscripts, letter-like signs
    (0x2460, 0x24ff),   // enclosed numbers
    (0x2500, 0x27bf),   // boxes, blocks (U+2581 too), signs
    (0x3000, 0x303f),   // CJK punctuation
    (0x3040, 0x30ff),   // kana
    (0x3200, 0x33ff),   // squared words
    (0x4e00, 0x9fff),   // kanji
    (0xac00, 0xd7a3),   // Hangul
    (0xf900, 0xfaff),   // compatibility kanji
    (0xfe00, 0xfe0f),   // variation selectors
    (0xff00, 0xffef),   // full width, half width
    (0x1f000, 0x1faff), // emoji
    (0x20000, 0x2ffff), // rarer kanji
];

/// Strings that mean something to one tokenizer or another.
const SPECIAL: [&str; 40] = [
    "<NL>",
    "</s>",
    "<s>",
    "<unk>",
    "[PAD]",
    "[CLS]",
    "[MASK]",
    "<0xE3>",
    "<0x0A>",
    "<|endoftext|>",
    "<|padding|>",
    "<|byte12|>",
    "<SP>",
    "\u{2581}",
    "\u{2581}\u{2581}",
    " ",
    "  ",
    "   ",
    "                         ",
    "\n",
    "\r\n",
    "\t",
    "\u{3000}",
    "\u{a0}",
    "\u{200b}",
    "\u{feff}",
    "'s",
    "'ll",
    "'",
    "か\u{3099}",
    "ｶﾞ",
    "㌀",
    "ﷺ",
    "ﬃ",
    "👨\u{200d}👩\u{200d}👧",
    "🇯🇵",
    "ー",
    "～",
    "ユーザー: ",
    "システム: ",
];

/// Lines of the evaluation text, where the data folder is present, and of the golden texts.
pub fn real() -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(path) = data("text/aozora-eval.txt") {
        let text = fs::read_to_string(path).unwrap();
        lines.extend(text.lines().map(String::from));
    }
    for name in ["neox-rinna", "gpt2-plain"] {
        let golden = json(&repository("tests/golden").join(name).join("golden.json"));
        let texts = golden.as_array().unwrap().iter();
        lines.extend(texts.map(|line| line["text"].as_str().unwrap().to_string()));
    }
    lines
}

/// `n` texts: a half are real lines, whole, cut or spoilt, the others are random.
pub fn mixed(n: usize, seed: u64) -> impl Iterator<Item = String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let lines = real();
    (0..n).map(move |i| match i % 4 {
        0 => lines[i / 4 % lines.len()].clone(),
        1 => spoilt(&lines, &mut rng),
        _ => random(&mut rng),
    })
}

/// A random text of up to 40 parts.
pub fn random(rng: &mut impl Rng) -> String {
    let mut text = String::new();
    // Texts of one script find other mistakes than those of all.
    let only = rng.random_bool(0.3).then(|| *RANGES.choose(rng).unwrap());
    for _ in 0..rng.random_range(0..40) {
        match rng.random_range(0..10) {
            0 => text.push_str(SPECIAL.choose(rng).unwrap()),
            1 => text.push_str(&" ".repeat(rng.random_range(1..40))),
            _ => {
                let (first, last) = only.unwrap_or_else(|| *RANGES.choose(rng).unwrap());
                text.extend(char::from_u32(rng.random_range(first..=last)));
            }
        }
    }
    text
}

/// A stretch of a real line with something in it that does not belong there.
fn spoilt(lines: &[String], rng: &mut impl Rng) -> String {
    let mut text: Vec<char> = lines.choose(rng).unwrap().chars().collect();
    if !text.is_empty() {
        let start = rng.random_range(0..text.len());
        text.drain(..start);
        text.truncate(rng.random_range(1..200));
    }
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..=text.len());
        let part: Vec<char> = match rng.random_bool(0.5) {
            true => SPECIAL.choose(rng).unwrap().chars().collect(),
            false => random(rng).chars().take(3).collect(),
        };
        text.splice(at..at, part);
    }
    text.into_iter().collect()
}
