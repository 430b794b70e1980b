//! GPT-2's pre-tokenizer: cuts a text into words before bytes merge.
//!
//! A word is an English contraction (`'s 't 're 've 'm 'll 'd`), or letters, or numbers, or other
//! visible characters, each with the one space before it, or white space: a run of it leaves its
//! last character to the word that follows, or ends the text whole. Letters and numbers are the
//! Unicode categories L and N.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// What the rules tell characters apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Space,
    Letter,
    Number,
    Other,
}

/// The words of `text` in order; together they are the text.
pub(super) fn gpt2_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (word, after) = rest.split_at(word_length(rest));
        rest = after;
        Some(word)
    })
}

/// The length in bytes of the word that `text` begins with; `text` is not empty.
fn word_length(text: &str) -> usize {
    for ending in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if text.starts_with(ending) {
            return ending.len();
        }
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let first = body.chars().next().map_or(Kind::Space, kind);
    if first != Kind::Space {
        let after = body.find(|c| kind(c) != first).unwrap_or(body.len());
        return text.len() - body.len() + after;
    }
    let end = text.find(|c| kind(c) != Kind::Space).unwrap_or(text.len());
    if end == text.len() {
        return end;
    }
    // The last space belongs to the word that follows, unless it is all there is.
    match text[..end].char_indices().next_back() {
        Some((last, _)) if last > 0 => last,
        _ => end,
    }
}

fn kind(c: char) -> Kind {
    match c {
        'a'..='z' | 'A'..='Z' => Kind::Letter,
        '0'..='9' => Kind::Number,
        _ if c.is_whitespace() => Kind::Space,
        _ if c.is_ascii() => Kind::Other,
        _ if c.is_numeric() => Kind::Number,
        _ if is_letter(c) => Kind::Letter,
        _ => Kind::Other,
    }
}

/// Whether `c` is of the general category L. (`char::is_alphabetic` is a wider property: it holds
/// marks such as vowel signs too.)
fn is_letter(c: char) -> bool {
    static LETTERS: OnceLock<Vec<(char, char)>> = OnceLock::new();
    let ranges = LETTERS.get_or_init(|| {
        let class = regex_syntax::parse(r"\p{L}").map(|hir| hir.into_kind());
        match class {
            Ok(HirKind::Class(Class::Unicode(class))) => {
                class.iter().map(|r| (r.start(), r.end())).collect()
            }
            _ => Vec::new(),
        }
    });
    let after = ranges.partition_point(|&(start, _)| start <= c);
    after > 0 && c <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        gpt2_words(text).collect()
    }

    #[test]
    fn cuts_as_the_published_rule_says() {
        assert_eq!(words("Hello world"), ["Hello", " world"]);
        assert_eq!(
            words("it's we'll x''s"),
            ["it", "'s", " we", "'ll", " x", "''", "s"]
        );
        assert_eq!(words("a  b"), ["a", " ", " b"]);
        assert_eq!(words("a \n b \n"), ["a", " \n", " b", " \n"]);
        assert_eq!(words("\n\nab12%%"), ["\n", "\n", "ab", "12", "%%"]);
        assert_eq!(words("猫が2匹。"), ["猫が", "2", "匹", "。"]);
        // A Thai vowel sign is a mark, no letter.
        assert_eq!(words("กิน"), ["ก", "ิ", "น"]);
        assert_eq!(words(""), [""; 0]);
    }
}
