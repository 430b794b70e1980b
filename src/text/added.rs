//! Tokens that are looked for in a text before the algorithm sees it.
//!
//! As in the `tokenizers` library, those that are matched in the raw text come first; what lies
//! between them is normalised, and then those that are matched in normalised text are looked for.
//! At each place the longest name counts.

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type};

use super::TextError;
use super::trie::Trie;
use super::vocab::Vocab;

/// A piece of a text that was split.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'a> {
    /// A token that was named.
    Token(u32),
    /// What lies between.
    Text(&'a str),
}

/// One set of names.
struct Names {
    /// Names of tokens that are always looked for.
    plain: Trie,
    /// The same and the control tokens' names.
    all: Trie,
}

/// The tokens to look for.
pub(super) struct AddedTokens {
    raw: Names,
    normalized: Names,
}

impl AddedTokens {
    /// CONTROL tokens and the unknown one, and USER_DEFINED ones if `user_defined`; `katari.tokenizer.normalized`
    /// names those that are matched in the normalised text.
    pub fn read(
        metadata: &Metadata,
        vocab: &Vocab,
        user_defined: bool,
    ) -> Result<AddedTokens, TextError> {
        let normalized: &[u32] = metadata
            .opt(katari::TOKENIZER_NORMALIZED)?
            .unwrap_or_default();
        let names = |in_normalized: bool| {
            let wanted = |control: bool| {
                Trie::new(
                    vocab
                        .iter()
                        .filter(|&(id, _, kind)| {
                            let looked_for = match kind {
                                token_type::USER_DEFINED => user_defined,
                                token_type::CONTROL | token_type::UNKNOWN => control,
                                _ => false,
                            };
                            looked_for && normalized.contains(&id) == in_normalized
                        })
                        .map(|(id, token, _)| (token.as_bytes(), id)),
                )
            };
            Names {
                plain: wanted(false),
                all: wanted(true),
            }
        };
        Ok(AddedTokens {
            raw: names(false),
            normalized: names(true),
        })
    }

    /// Splits a text as it came; with each part its offset. `control`: whether control tokens
    /// are looked for.
    pub fn split_raw<'a>(
        &'a self,
        text: &'a str,
        control: bool,
    ) -> impl Iterator<Item = (Part<'a>, usize)> + 'a {
        self.raw.split(text, control)
    }

    /// Splits a text that was normalised.
    pub fn split_normalized<'a>(
        &'a self,
        text: &'a str,
        control: bool,
    ) -> impl Iterator<Item = (Part<'a>, usize)> + 'a {
        self.normalized.split(text, control)
    }
}

impl Names {
    fn split<'a>(
        &'a self,
        text: &'a str,
        control: bool,
    ) -> impl Iterator<Item = (Part<'a>, usize)> + 'a {
        let trie = if control { &self.all } else { &self.plain };
        let mut start = 0;
        let mut found: Option<(usize, usize, u32)> = None;
        std::iter::from_fn(move || {
            if let Some((at, length, id)) = found.take() {
                start = at + length;
                return Some((Part::Token(id), at));
            }
            if start >= text.len() {
                return None;
            }
            let here = start;
            found = match trie.is_empty() {
                true => None,
                false => (here..text.len()).find_map(|at| {
                    let (length, id) = trie.longest(&text.as_bytes()[at..])?;
                    Some((at, length, id))
                }),
            };
            match found {
                Some((at, length, id)) if at == here => {
                    found = None;
                    start = at + length;
                    Some((Part::Token(id), at))
                }
                Some((at, _, _)) => Some((Part::Text(text.get(here..at)?), here)),
                None => {
                    start = text.len();
                    Some((Part::Text(text.get(here..)?), here))
                }
            }
        })
    }
}
