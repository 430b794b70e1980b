//! What becomes of text that no piece covers: the bytes' tokens, or the unknown token.

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::TextError;
use super::unigram::Cut;
use super::vocab::{Vocab, byte_of};

/// The tokens for what no piece covers.
pub(super) struct Fallback {
    unk: u32,
    /// The tokens of the 256 bytes, where the model falls back to them.
    bytes: Option<Box<[u32; 256]>>,
}

impl Fallback {
    /// The token typed unknown, else the one the file names; and the byte tokens, which must be
    /// all 256 where the model falls back to them.
    pub fn read(metadata: &Metadata, vocab: &Vocab) -> Result<Fallback, TextError> {
        let typed = vocab.iter().find(|t| t.2 == token_type::UNKNOWN);
        let unk = typed.map(|t| t.0).or(vocab.unk).ok_or_else(|| {
            TextError::value(keys::TOKEN_TYPE, "no token is typed unknown (expected one)")
        })?;
        let mut found = Box::new([None; 256]);
        for (id, token, _) in vocab.iter().filter(|t| t.2 == token_type::BYTE) {
            let byte = byte_of(token).ok_or_else(|| {
                TextError::value(
                    keys::TOKENS,
                    format!("token {id} is typed a byte but named '{token}' (expected <0xHH>)"),
                )
            })?;
            found[usize::from(byte)] = Some(id);
        }
        let wanted: Option<bool> = metadata.opt(katari::TOKENIZER_BYTE_FALLBACK)?;
        if !wanted.unwrap_or(found.iter().any(Option::is_some)) {
            return Ok(Fallback { unk, bytes: None });
        }
        let mut bytes = Box::new([0; 256]);
        for (byte, (id, token)) in bytes.iter_mut().zip(found.iter()).enumerate() {
            *id = token.ok_or_else(|| {
                TextError::value(
                    keys::TOKENS,
                    format!("the tokenizer falls back to bytes but has no token <0x{byte:02X}>"),
                )
            })?;
        }
        Ok(Fallback {
            unk,
            bytes: Some(bytes),
        })
    }

    /// Appends the ids of a cut of `text`. A run of unknown stretches without byte tokens is one
    /// unknown token.
    pub fn push(&self, text: &str, cut: Cut, ids: &mut Vec<u32>) {
        let mut after_unknown = false;
        for (range, id) in cut {
            let id = id.filter(|&id| id != self.unk);
            match (id, &self.bytes) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => {
                    let stretch = text.as_bytes().get(range).unwrap_or_default();
                    ids.extend(stretch.iter().map(|&b| bytes[usize::from(b)]));
                }
                (None, None) if after_unknown => {}
                (None, None) => ids.push(self.unk),
            }
            after_unknown = id.is_none();
        }
    }
}
