//! The model card: the front matter of README.md.
//!
//! Front matter is YAML between two lines of `---`. Cards use little of it, and that little is
//! read here: `key: value`, `key: [a, b]`, and `key:` with `- item` lines. What is nested or
//! otherwise unknown is passed over, since nothing depends on it.

use std::collections::BTreeMap;
use std::path::Path;

use katari_gguf::{Metadata, keys};

use crate::Error;
use crate::checkpoint::read_text;

/// What a model card says.
#[derive(Debug, Default, PartialEq)]
pub struct Card {
    /// The first heading of the text.
    pub title: Option<String>,
    entries: BTreeMap<String, Vec<String>>,
}

impl Card {
    /// The card of the checkpoint in `dir`; an empty one where there is none.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("README.md");
        if !path.exists() {
            return Ok(Card::default());
        }
        Ok(Card::parse(&read_text(&path)?))
    }

    fn parse(text: &str) -> Self {
        let mut card = Card::default();
        let text = text.trim_start_matches('\u{feff}');
        let mut lines = text.lines();
        let mut body = text.lines();
        if lines.next().map(str::trim_end) == Some("---") {
            let mut current: Option<String> = None;
            for line in lines.by_ref() {
                let line = line.trim_end();
                if line == "---" {
                    break;
                }
                if let Some(item) = line.trim_start().strip_prefix("- ") {
                    if let Some(key) = &current {
                        card.entries
                            .entry(key.clone())
                            .or_default()
                            .push(scalar(item));
                    }
                } else if line.starts_with([' ', '\t', '#']) {
                    // Nested, or a comment.
                } else if let Some((key, value)) = line.split_once(':') {
                    let key = key.trim().to_string();
                    let values = values(value);
                    if !values.is_empty() {
                        card.entries.insert(key.clone(), values);
                    }
                    current = Some(key);
                }
            }
            body = lines;
        }
        card.title = body
            .find_map(|line| line.strip_prefix("# "))
            .map(|title| title.trim().to_string());
        card
    }

    /// The first value under any of `keys`.
    pub fn first(&self, keys: &[&str]) -> Option<&str> {
        self.all(keys).first().map(String::as_str)
    }

    fn all(&self, keys: &[&str]) -> &[String] {
        keys.iter()
            .find_map(|key| self.entries.get(*key))
            .map_or(&[], Vec::as_slice)
    }

    /// Writes license, languages and tags.
    pub fn write(&self, metadata: &mut Metadata) {
        for (key, names) in [
            (keys::general::LICENSE, ["license"]),
            (keys::general::LICENSE_NAME, ["license_name"]),
            (keys::general::LICENSE_LINK, ["license_link"]),
        ] {
            let values = self.all(&names);
            if !values.is_empty() {
                metadata.set(key, values.join(","));
            }
        }
        for (key, names) in [
            (keys::general::TAGS, ["tags", "tag"]),
            (keys::general::LANGUAGES, ["language", "languages"]),
        ] {
            let values = self.all(&names);
            if !values.is_empty() {
                metadata.set(key, values.to_vec());
            }
        }
    }
}

/// The values after a key's colon: none, one, or a flow list's.
fn values(text: &str) -> Vec<String> {
    let text = text.trim();
    let items: Vec<String> = match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(list) => list.split(',').map(scalar).collect(),
        None => vec![scalar(text)],
    };
    items.into_iter().filter(|item| !item.is_empty()).collect()
}

/// A plain or quoted scalar, without a comment.
fn scalar(text: &str) -> String {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.split(quote).next().unwrap_or(inner).to_string();
        }
    }
    let text = text.split(" #").next().unwrap_or(text).trim();
    match text {
        "null" | "~" => String::new(),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_flow_lists_and_block_lists_are_read() {
        let card = Card::parse(
            "---\nlanguage: ja # Japanese\nthumbnail: https://example.org/a.png\nlicense: \"mit\"\n\
             tags:\n- gpt_neox\n  - text-generation\ndatasets: [cc100, 'wikipedia']\n\
             widget:\n  - text: \"x\"\n---\n\n# japanese-gpt-neox-3.6b\n\n# Overview\n",
        );
        assert_eq!(card.first(&["language"]), Some("ja"));
        assert_eq!(card.first(&["license"]), Some("mit"));
        assert_eq!(card.all(&["tags"]), ["gpt_neox", "text-generation"]);
        assert_eq!(card.all(&["datasets"]), ["cc100", "wikipedia"]);
        assert_eq!(card.title.as_deref(), Some("japanese-gpt-neox-3.6b"));
    }

    #[test]
    fn card_without_front_matter_has_a_title() {
        let card = Card::parse("Some words\n# The title\nlicense: none\n");
        assert_eq!(card.title.as_deref(), Some("The title"));
        assert_eq!(card.first(&["license"]), None);
        assert_eq!(Card::parse("---\nlicense: mit"), {
            let entries = [("license".to_string(), vec!["mit".to_string()])].into();
            Card {
                title: None,
                entries,
            }
        });
    }
}
