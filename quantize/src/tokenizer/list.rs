//! The token list and the metadata that every kind of tokenizer has.

use std::collections::HashMap;
use std::path::Path;

use katari_gguf::Value;
use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::Entries;
use super::roles::{Added, Roles};
use crate::Error;

/// How GPT-J's tokenizer names the rows that its vocabulary does not use.
const EXTRA_TOKEN: &str = "<|extratoken_";

/// What one kind of tokenizer has beside its tokens.
pub(super) struct Kind {
    /// The kind's name in GGUF.
    pub model: &'static str,
    /// Entries of its own, which come first.
    pub more: Entries,
    /// Whether its tokens have scores.
    pub scored: bool,
}

/// The tokens of a vocabulary, one an embedding row.
#[derive(Default)]
pub(super) struct TokenList {
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Vec<f32>,
    by_name: HashMap<String, u32>,
    normalized: Vec<u32>,
    untrained: Vec<u32>,
}

impl TokenList {
    /// Adds the next id's token.
    pub fn push(&mut self, token: impl Into<String>, kind: i32, score: f32) -> u32 {
        let (token, id) = (token.into(), self.tokens.len() as u32);
        self.by_name.entry(token.clone()).or_insert(id);
        self.tokens.push(token);
        self.types.push(kind);
        self.scores.push(score);
        id
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn set_type(&mut self, id: u32, kind: i32) {
        if let Some(slot) = self.types.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// Adds a token that the model cannot have learnt, if there is a row for it.
    pub fn push_untrained(&mut self, token: &str, kind: i32, rows: usize) {
        if self.len() < rows {
            let id = self.push(token, kind, 0.0);
            self.untrained.push(id);
        }
    }

    /// A list of the tokens of a `vocab` object: every id from 0 on once.
    pub fn from_vocab(path: &Path, vocab: &serde_json::Value) -> Result<TokenList, Error> {
        let object = vocab
            .as_object()
            .ok_or_else(|| Error::file(path, "the vocabulary is no JSON object"))?;
        let mut tokens = vec![None; object.len()];
        for (token, id) in object {
            let slot = id
                .as_u64()
                .and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
            match slot {
                Some(slot @ None) => *slot = Some(token),
                Some(Some(other)) => {
                    return Err(Error::file(
                        path,
                        format!("'{token}' and '{other}' both have the id {id}"),
                    ));
                }
                None => {
                    return Err(Error::file(
                        path,
                        format!(
                            "'{token}' has the id {id} (expected each of 0 to {} once)",
                            object.len().saturating_sub(1)
                        ),
                    ));
                }
            }
        }
        let mut list = TokenList::default();
        for token in tokens.into_iter().flatten() {
            list.push(token, token_type::NORMAL, 0.0);
        }
        Ok(list)
    }

    /// Flags or adds the tokens that a configuration lists by id.
    ///
    /// # Errors
    /// One of them has an id that another token has.
    pub fn add<'a>(
        &mut self,
        path: &Path,
        added: impl IntoIterator<Item = (u32, &'a Added)>,
        rows: usize,
    ) -> Result<(), Error> {
        for (id, token) in added {
            if id as usize >= rows {
                continue;
            }
            // Ids that no file names lie between the vocabulary and the added tokens.
            while self.len() < id as usize {
                self.pad();
            }
            if self.len() == id as usize {
                self.push(&token.content, token_type::NORMAL, 0.0);
            } else if self.tokens[id as usize] != token.content {
                return Err(Error::file(
                    path,
                    format!(
                        "the added token '{}' has the id {id}, which is '{}' in the vocabulary",
                        token.content, self.tokens[id as usize]
                    ),
                ));
            }
            self.set_type(
                id,
                match token.special {
                    true => token_type::CONTROL,
                    false => token_type::USER_DEFINED,
                },
            );
            if token.normalized {
                self.normalized.push(id);
            }
            if token.content.starts_with(EXTRA_TOKEN) {
                self.untrained.push(id);
            }
        }
        Ok(())
    }

    /// Adds the special tokens that the files name and the vocabulary lacks where there are rows
    /// for them, as the reference does; with `retype`, those it has become control tokens.
    pub fn add_special(&mut self, roles: &Roles, retype: bool, rows: usize) {
        let names: Vec<String> = roles.special().map(String::from).collect();
        for name in names {
            match self.find(&name) {
                Some(id) if retype => self.set_type(id, token_type::CONTROL),
                Some(_) => {}
                None => self.push_untrained(&name, token_type::CONTROL, rows),
            }
        }
    }

    fn pad(&mut self) {
        let mut name = format!("[PAD{}]", self.len());
        while self.find(&name).is_some() {
            name.insert(1, '_');
        }
        self.push(name, token_type::UNUSED, 0.0);
    }

    /// The metadata: the kind's entries first, then the list, padded to `rows`, and the roles: as
    /// the files give them, else as `fallback` has them.
    ///
    /// # Errors
    /// There are more tokens than rows.
    pub fn finish(
        mut self,
        kind: Kind,
        path: &Path,
        rows: usize,
        roles: &Roles,
        fallback: impl Fn(&str) -> Option<u32>,
    ) -> Result<Entries, Error> {
        let n = self.len();
        if n > rows {
            return Err(Error::file(
                path,
                format!(
                    "{n} tokens, but the embedding has {rows} rows; the tokenizer is another model's (name the right one with --tokenizer)"
                ),
            ));
        }
        let ids = roles.ids(n, |name| self.find(name), fallback);
        while self.len() < rows {
            self.pad();
        }
        let mut entries = vec![(keys::MODEL.to_string(), Value::from(kind.model))];
        entries.extend(kind.more);
        entries.push((keys::TOKENS.to_string(), self.tokens.into()));
        if kind.scored {
            entries.push((keys::SCORES.to_string(), self.scores.into()));
        }
        entries.push((keys::TOKEN_TYPE.to_string(), self.types.into()));
        entries.extend(
            ids.into_iter()
                .map(|(key, id)| (key.to_string(), id.into())),
        );
        for (key, flag) in [
            (keys::ADD_BOS, "add_bos_token"),
            (keys::ADD_EOS, "add_eos_token"),
        ] {
            let add = roles.flag(flag).unwrap_or(false);
            entries.push((key.to_string(), add.into()));
        }
        for (key, ids) in [
            (katari::TOKENIZER_NORMALIZED, self.normalized),
            (katari::TOKENIZER_UNTRAINED, self.untrained),
        ] {
            if !ids.is_empty() {
                entries.push((key.to_string(), ids.into()));
            }
        }
        Ok(entries)
    }
}
