//! `do_clean_text` of the GPT-NeoX-Japanese tokenizer: addresses, numbers and rules become tags.
//!
//! Each kind is replaced in the whole text before the next is looked for. The expressions have
//! the meaning of the published ones, first alternative first.

use std::sync::OnceLock;

use regex::Regex;

/// The text with `<URL>`, `<EMAIL>`, `<TEL>`, `<DATE>`, `<PRICE>` and `<BLOCK>` tags.
pub(super) fn clean(text: &str) -> String {
    let mut text = text.to_string();
    for (pattern, tag) in patterns() {
        text = pattern.replace_all(&text, *tag).into_owned();
    }
    // A run of box-drawing characters and block elements is one tag; so is a run of tags.
    let is_block = |c| matches!(c, '\u{2500}'..='\u{259f}');
    let mut text = text.replace(is_block, "<BLOCK>");
    while text.contains("<BLOCK><BLOCK>") {
        text = text.replace("<BLOCK><BLOCK>", "<BLOCK>");
    }
    text
}

/// Every kind's expression and tag, in the order they are replaced.
fn patterns() -> &'static [(Regex, &'static str)] {
    static PATTERNS: OnceLock<Vec<(Regex, &'static str)>> = OnceLock::new();
    PATTERNS.get_or_init(|| {
        let month = "(?:0?[1-9]|1[0-2])";
        let day = "(?:0?[1-9]|[12][0-9]|3[01])";
        // What may follow a date: a time, or a day of the week in brackets or as one sign.
        let after_date = r"(?:\d{1,2}|:|\d{1,2}時|\d{1,2}分|\([日月火水木金土]\)|[㈪-㈰])*";
        // A count: 0, digits without a leading 0, or digits in groups of three.
        let count = r"(?:0|[1-9]\d*|[1-9]\d{0,2}(?:,\d{3})+)*";
        let sources = [
            (
                r"(?:https?|ftp)://[-_.!~*'()a-zA-Z0-9;/?:@&=+$,%#]+".to_string(),
                "<URL>",
            ),
            (
                r"[A-Za-z0-9._+]*@[-_0-9A-Za-z]+(?:\.[A-Za-z]+)*".to_string(),
                "<EMAIL>",
            ),
            (
                r"\(?[0-9]{2,4}[-()]?[0-9]{2,4}[-)]?[0-9]{3,4}".to_string(),
                "<TEL>",
            ),
            (
                format!(
                    r"(?:[12]\d{{3}}[-/年])*{month}[-/月](?:{day}日?)*{after_date}"
                ),
                "<DATE>",
            ),
            (
                format!(
                    r"(?:明治|大正|昭和|平成|令和|㍾|㍽|㍼|㍻|\x{{32ff}})\d{{1,2}}年{month}月{day}日{after_date}"
                ),
                "<DATE>",
            ),
            (
                format!(
                    r"(?:{count}億)*(?:{count}万)*(?:{count}千)*{count}(?:千円|万円|千万円|円|千ドル|万ドル|千万ドル|ドル|千ユーロ|万ユーロ|千万ユーロ|ユーロ)+(?:\(税込\)|\(税抜\)|\+tax)*"
                ),
                "<PRICE>",
            ),
        ];
        sources
            .iter()
            .filter_map(|(source, tag)| Some((Regex::new(source).ok()?, *tag)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_compiles() {
        assert_eq!(patterns().len(), 6);
    }
}
