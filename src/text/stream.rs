//! Tokens to text as they come: whole characters only.

use std::borrow::Cow;

use super::decode::{Beginning, Decoder};

/// Puts a text together from tokens that come one at a time.
///
/// Bytes of byte tokens and of byte-level pieces wait until their character is whole; what can
/// never become one is dropped (a model that stops in the middle of a character leaves no
/// U+FFFD behind). The piece `<NL>` shows as a line break. For valid text, the pieces and
/// [`TextStream::finish`] together are [`Tokenizer::decode`](super::Tokenizer::decode) with
/// `<NL>` read as a line break (and, for the one reference that trims its text, with the spaces
/// at both ends).
#[derive(Clone)]
pub struct TextStream<'a> {
    decoder: &'a Decoder,
    newline: Option<u32>,
    beginning: Beginning,
    shown: bool,
    /// The beginning of a character, at most three bytes between pushes.
    pending: Vec<u8>,
    /// What the last push gave.
    out: String,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(decoder: &'a Decoder, newline: Option<u32>, begun: bool) -> Self {
        TextStream {
            decoder,
            newline,
            beginning: if begun {
                Beginning::over()
            } else {
                Beginning::default()
            },
            shown: begun,
            pending: Vec::new(),
            out: String::new(),
        }
    }

    /// The text that `id` completes: empty while a character is not whole.
    pub fn push(&mut self, id: u32) -> &str {
        self.out.clear();
        let shown = self.shown || !self.pending.is_empty();
        let (mut bytes, joins) = self.decoder.step(id, &mut self.beginning, shown);
        if self.newline == Some(id) {
            bytes = Cow::Borrowed(b"\n");
        }
        if !joins {
            self.pending.clear();
        }
        self.pending.extend_from_slice(&bytes);
        self.take_whole();
        self.shown |= !self.out.is_empty();
        &self.out
    }

    /// The end of the text. What waits is the beginning of a character that never came: it is
    /// dropped, so this is always empty; it ends the stream's use.
    pub fn finish(self) -> String {
        String::new()
    }

    /// Moves whole characters from `pending` to `out` and drops what can be none.
    fn take_whole(&mut self) {
        let mut kept = 0;
        let mut chunks = self.pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.out.push_str(chunk.valid());
            let rest = chunk.invalid();
            // Only the last chunk can be a character that is not over.
            if chunks.peek().is_none() && is_beginning(rest) {
                kept = rest.len();
            }
        }
        let from = self.pending.len() - kept;
        self.pending.drain(..from);
    }
}

/// Whether more bytes could make `bytes` a character.
fn is_beginning(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.valid_up_to() == 0 && error.error_len().is_none(),
    }
}
