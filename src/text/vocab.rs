//! The token list: names, types, scores and the ids with a role.

use std::collections::{HashMap, HashSet};

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::TextError;

/// The most tokens a vocabulary may have; larger lists are damage, not vocabularies.
const MAX_TOKENS: usize = 1 << 22;
/// The most bytes the tokens' names may have together.
const MAX_BYTES: usize = 1 << 28;

/// The token list of a file.
pub(super) struct Vocab {
    tokens: Vec<String>,
    types: Vec<i32>,
    /// Log probabilities (unigram) or priorities (sentencepiece BPE); empty where the file has
    /// none.
    scores: Vec<f32>,
    by_name: HashMap<String, u32>,
    untrained: HashSet<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unk: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: bool,
}

impl Vocab {
    /// Reads and checks the lists and ids.
    pub fn read(metadata: &Metadata) -> Result<Vocab, TextError> {
        let tokens: &[String] = metadata.need(keys::TOKENS)?;
        let n = tokens.len();
        if n == 0 || n > MAX_TOKENS {
            return Err(TextError::value(
                keys::TOKENS,
                format!("{n} tokens (expected 1 to {MAX_TOKENS})"),
            ));
        }
        let bytes: usize = tokens.iter().map(String::len).sum();
        if bytes > MAX_BYTES {
            return Err(TextError::value(
                keys::TOKENS,
                format!("{bytes} bytes of names (expected at most {MAX_BYTES})"),
            ));
        }
        let types = match metadata.opt::<&[i32]>(keys::TOKEN_TYPE)? {
            Some(types) => {
                same_length(keys::TOKEN_TYPE, types.len(), n)?;
                types.to_vec()
            }
            None => vec![token_type::NORMAL; n],
        };
        let scores = match metadata.opt::<&[f32]>(keys::SCORES)? {
            Some(scores) => {
                same_length(keys::SCORES, scores.len(), n)?;
                if let Some(id) = scores.iter().position(|s| !s.is_finite()) {
                    return Err(TextError::value(
                        keys::SCORES,
                        format!(
                            "token {id} has the score {} (expected a number)",
                            scores[id]
                        ),
                    ));
                }
                scores.to_vec()
            }
            None => Vec::new(),
        };
        let id = |key: &'static str| -> Result<Option<u32>, TextError> {
            match metadata.opt::<u32>(key)? {
                Some(id) if id as usize >= n => Err(TextError::value(
                    key,
                    format!("id {id} is outside the {n} tokens of '{}'", keys::TOKENS),
                )),
                id => Ok(id),
            }
        };
        let mut untrained = HashSet::new();
        if let Some(ids) = metadata.opt::<&[u32]>(katari::TOKENIZER_UNTRAINED)? {
            untrained.extend(ids);
        }
        Ok(Vocab {
            bos: id(keys::BOS_ID)?,
            eos: id(keys::EOS_ID)?,
            unk: id(keys::UNK_ID)?,
            pad: id(keys::PAD_ID)?,
            add_bos: metadata.opt(keys::ADD_BOS)?.unwrap_or(false),
            // A name that stands twice is the earlier token.
            by_name: (0..n as u32)
                .rev()
                .map(|id| (tokens[id as usize].clone(), id))
                .collect(),
            tokens: tokens.to_vec(),
            types,
            scores,
            untrained,
        })
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn token(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("", String::as_str)
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The type of `id`, one of [`token_type`]; UNUSED outside the list.
    pub fn kind(&self, id: u32) -> i32 {
        self.types
            .get(id as usize)
            .copied()
            .unwrap_or(token_type::UNUSED)
    }

    pub fn is_control(&self, id: u32) -> bool {
        self.kind(id) == token_type::CONTROL
    }

    pub fn is_drawable(&self, id: u32) -> bool {
        self.kind(id) != token_type::UNUSED && !self.untrained.contains(&id)
    }

    /// The score of every token.
    ///
    /// # Errors
    /// The file has no scores.
    pub fn scores(&self) -> Result<&[f32], TextError> {
        if self.scores.is_empty() {
            return Err(TextError::value(
                keys::SCORES,
                "missing (a unigram or sentencepiece tokenizer needs one score a token)",
            ));
        }
        Ok(&self.scores)
    }

    /// Every token with its id and type.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, i32)> {
        self.tokens
            .iter()
            .zip(&self.types)
            .enumerate()
            .map(|(id, (token, &kind))| (id as u32, token.as_str(), kind))
    }
}

fn same_length(key: &'static str, found: usize, n: usize) -> Result<(), TextError> {
    if found == n {
        return Ok(());
    }
    Err(TextError::value(
        key,
        format!("{found} entries (expected {n}, one a token)"),
    ))
}

/// The byte that a byte token such as `<0xE3>` stands for.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
