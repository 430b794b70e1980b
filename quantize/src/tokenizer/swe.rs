//! vocab.txt with emoji.json: the sub-word tokenizer of GPT-NeoX-Japanese.

use std::path::Path;

use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::list::{Kind, TokenList};
use super::roles::Roles;
use super::{Entries, json_file, text};
use crate::Error;

/// Tokens that no text should be able to forge.
const CONTROL: [&str; 4] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|separator|>",
    "<|nottoken|>",
];

/// The two files as metadata.
pub(super) fn read(
    vocab: &Path,
    emoji: &Path,
    roles: &Roles,
    rows: usize,
) -> Result<Entries, Error> {
    let table = json_file(emoji)?;
    for name in ["emoji", "emoji_inv"] {
        if !table.get(name).is_some_and(|value| value.is_object()) {
            return Err(Error::file(emoji, format!("no object '{name}'")));
        }
    }
    let source = text(vocab)?;
    let mut lines: Vec<&str> = source.split('\n').collect();
    // What follows the last line break is no line.
    if lines.last() == Some(&"") {
        lines.pop();
    }
    let lines: Vec<&str> = lines
        .into_iter()
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let mut list = TokenList::default();
    for line in &lines {
        let form = line.split(',').next().unwrap_or_default();
        let kind = match form {
            _ if CONTROL.contains(&form) => token_type::CONTROL,
            _ if form.starts_with("<|byte") => token_type::BYTE,
            _ => token_type::NORMAL,
        };
        // The line of a lone comma has no form that is not empty.
        list.push(if form.is_empty() { line } else { form }, kind, 0.0);
    }
    let clean = roles.flag("do_clean_text").unwrap_or(false);
    let more: Entries = vec![
        (keys::PRE.into(), "default".into()),
        (katari::TOKENIZER_SURFACES.into(), lines.into()),
        (katari::TOKENIZER_EMOJI.into(), text(emoji)?.into()),
        (katari::TOKENIZER_CLEAN_TEXT.into(), clean.into()),
    ];
    let (start, end) = (list.find(CONTROL[0]), list.find(CONTROL[1]));
    let kind = Kind {
        model: "katari-swe",
        more,
        scored: false,
    };
    list.finish(kind, vocab, rows, roles, |role| {
        if role == "bos_token" { start } else { end }
    })
}
