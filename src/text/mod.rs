//! Text to tokens and back, from GGUF metadata alone.
//!
//! [`Tokenizer::from_metadata`] rebuilds the tokenizer that a file names:
//!
//! | `tokenizer.ggml.model` | algorithm | file |
//! |---|---|---|
//! | `t5` | unigram, as sentencepiece or as a `tokenizer.json` has it | `sentencepiece.rs`, `unigram.rs` |
//! | `llama` | sentencepiece BPE | `sentencepiece.rs`, `piece_bpe.rs` |
//! | `gpt2` | byte-level BPE | `byte_bpe.rs` |
//! | `katari-swe` | sub-words of the NeoX-Japanese tokenizer | `swe.rs` |
//!
//! Encoding adds no bos and no eos: it is the reference tokenizer with
//! `add_special_tokens=False`. The mapping of line breaks to the piece `<NL>`, which belongs to
//! prompts and answers and not to the tokenizer, is [`Tokenizer::prompt_ids`] and [`TextStream`].

mod added;
mod byte_bpe;
mod charsmap;
mod clean;
mod decode;
mod fallback;
mod metaspace;
mod normalize;
mod piece_bpe;
mod pretokenize;
mod sentencepiece;
mod stream;
mod swe;
mod template;
mod trie;
mod unigram;
mod vocab;

use katari_gguf::Metadata;
use katari_gguf::keys::tokenizer as keys;

use added::{AddedTokens, Part};
use decode::Decoder;
use normalize::Steps;
pub use stream::TextStream;
pub use template::{ChatTemplate, Message};
use vocab::Vocab;

/// What is wrong with a file's tokenizer or chat template.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A key is missing or of another type.
    #[error(transparent)]
    Metadata(#[from] katari_gguf::Error),
    /// A key holds what cannot be.
    #[error("metadata key '{key}': {message}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was found and what was expected.
        message: String,
    },
    /// A chat template cannot be read, or fails on a conversation.
    #[error("chat template: {0}")]
    Template(String),
}

impl TextError {
    fn value(key: &'static str, message: impl Into<String>) -> Self {
        TextError::Value {
            key,
            message: message.into(),
        }
    }
}

/// What becomes of a special token's name (`</s>`, `<|endoftext|>`) that stands in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// As the reference tokenizer of this kind does: plain text for sentencepiece, the token
    /// for all others.
    #[default]
    Reference,
    /// The token.
    Parse,
    /// Plain text, so that a text from outside can forge no token.
    AsText,
}

/// How one kind of tokenizer cuts text; everything around it is [`Tokenizer`]'s.
trait Algorithm: Send + Sync {
    /// Appends the ids of `text`, which holds no token that was to be parsed. `first`: whether
    /// it stands at the beginning of the whole text.
    fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>);
}

/// A tokenizer rebuilt from GGUF metadata.
pub struct Tokenizer {
    vocab: Vocab,
    added: AddedTokens,
    steps: Steps,
    algorithm: Box<dyn Algorithm>,
    decoder: Decoder,
    newline: Option<u32>,
    reference: SpecialTokens,
}

impl Tokenizer {
    /// Reads the `tokenizer.*` keys of a file.
    ///
    /// # Errors
    /// A key that is missing, of another type or not consistent with the others.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer, TextError> {
        let vocab = Vocab::read(metadata)?;
        let model: &str = metadata.need(keys::MODEL)?;
        let parts = match model {
            "t5" if metadata.get(metaspace::KEY).is_some() => metaspace::read(metadata, &vocab)?,
            "t5" => sentencepiece::read(metadata, &vocab, sentencepiece::Segmenter::Unigram)?,
            "llama" => sentencepiece::read(metadata, &vocab, sentencepiece::Segmenter::Bpe)?,
            "gpt2" => byte_bpe::read(metadata, &vocab)?,
            "katari-swe" => swe::read(metadata, &vocab)?,
            other => {
                return Err(TextError::value(
                    keys::MODEL,
                    format!(
                        "'{other}' is no tokenizer this program knows (expected t5, llama, gpt2 or katari-swe)"
                    ),
                ));
            }
        };
        let newline = vocab.find("<NL>");
        Ok(Tokenizer {
            added: parts.added,
            steps: parts.steps,
            algorithm: parts.algorithm,
            decoder: parts.decoder,
            reference: parts.reference,
            newline,
            vocab,
        })
    }

    /// The ids of `text`, exactly the reference tokenizer's; adds no bos and no eos.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Vec<u32> {
        let special = match special {
            SpecialTokens::Reference => self.reference,
            chosen => chosen,
        };
        let control = special == SpecialTokens::Parse;
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        for (part, start) in self.added.split_raw(text, control) {
            let text = match part {
                Part::Token(id) => {
                    ids.push(id);
                    continue;
                }
                Part::Text(text) => self.steps.apply(text),
            };
            for (part, offset) in self.added.split_normalized(&text, control) {
                match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(text) => {
                        self.algorithm
                            .encode(text, start == 0 && offset == 0, &mut ids)
                    }
                }
            }
        }
        ids
    }

    /// The ids a prompt meets the model with: line breaks written as the piece `<NL>` where the
    /// vocabulary has one, bos first where the file says so. Special tokens as the reference has
    /// them.
    pub fn prompt_ids(&self, text: &str) -> Vec<u32> {
        let mut ids = self.ids_of_lines(text, SpecialTokens::Reference);
        if let (true, Some(bos)) = (self.vocab.add_bos, self.vocab.bos) {
            ids.insert(0, bos);
        }
        ids
    }

    /// The ids of a conversation that a chat template has written: as a prompt's, but that the
    /// special tokens which the template names are tokens, and bos is not put before bos.
    pub fn chat_ids(&self, text: &str) -> Vec<u32> {
        let mut ids = self.ids_of_lines(text, SpecialTokens::Parse);
        match self.vocab.bos {
            Some(bos) if self.vocab.add_bos && ids.first() != Some(&bos) => ids.insert(0, bos),
            _ => {}
        }
        ids
    }

    /// The ids of `text`, its line breaks written as `<NL>` where the vocabulary has that piece;
    /// no bos is added.
    pub fn ids_of_lines(&self, text: &str, special: SpecialTokens) -> Vec<u32> {
        match self.newline {
            Some(_) => {
                let text = text.replace("\r\n", "\n").replace('\n', "<NL>");
                self.encode(&text, special)
            }
            None => self.encode(text, special),
        }
    }

    /// The text of `ids`, exactly the reference's decode but that consecutive byte tokens are
    /// joined; bytes that are no UTF-8 become U+FFFD. An id outside the vocabulary is nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decoder.decode(ids)
    }

    /// A decoder for ids that come one at a time, from the beginning of a text.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(&self.decoder, self.newline, false)
    }

    /// The same for a text that goes on after `prompt`: the first token keeps its space unless
    /// the prompt shows no text.
    pub fn stream_after(&self, prompt: &[u32]) -> TextStream<'_> {
        let begun = prompt.iter().any(|&id| self.decoder.shows(id));
        TextStream::new(&self.decoder, self.newline, begun)
    }

    /// The text that the token adds inside a text; empty where it is only part of a character.
    pub fn token_text(&self, id: u32) -> String {
        let begun = true;
        let mut stream = TextStream::new(&self.decoder, self.newline, begun);
        stream.push(id).to_string()
    }

    /// The bytes that the token adds inside a text: none for a token that shows nothing, and
    /// maybe only part of a character.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if self.newline == Some(id) {
            return b"\n".to_vec();
        }
        let (bytes, _) = (self.decoder).step(id, &mut decode::Beginning::over(), true);
        bytes.into_owned()
    }

    /// The text of `ids`, with `<NL>` as a line break and whole characters only.
    pub fn text_of_lines(&self, ids: &[u32]) -> String {
        let mut stream = self.stream();
        ids.iter().map(|&id| stream.push(id).to_string()).collect()
    }

    /// The token as the vocabulary writes it, for people to look at: an empty string for an id
    /// outside.
    pub fn piece(&self, id: u32) -> &str {
        self.vocab.token(id)
    }

    /// The id of the token that the vocabulary writes as `piece`.
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.vocab.find(piece)
    }

    /// How many tokens the list holds, padding included: the embedding's rows.
    pub fn len(&self) -> usize {
        self.vocab.len()
    }

    /// Whether the list is empty, which no file that loads has.
    pub fn is_empty(&self) -> bool {
        self.vocab.len() == 0
    }

    /// How many tokens may be drawn: those that [`Tokenizer::is_drawable`] names.
    pub fn n_tokens(&self) -> usize {
        (0..self.vocab.len() as u32)
            .filter(|&id| self.is_drawable(id))
            .count()
    }

    /// Whether the model can have learnt to write this token. Padding of the list to the
    /// embedding's rows was never trained, nor were tokens that the tokenizer's configuration
    /// adds after the vocabulary.
    pub fn is_drawable(&self, id: u32) -> bool {
        self.vocab.is_drawable(id)
    }

    /// Whether the token is a control token (bos, eos, padding ...), which shows no text in a
    /// stream.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.is_control(id)
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// The token for text that no other covers.
    pub fn unk(&self) -> Option<u32> {
        self.vocab.unk
    }

    /// The token for padding.
    pub fn pad(&self) -> Option<u32> {
        self.vocab.pad
    }

    /// The token `<NL>`, which stands for a line break in rinna's models.
    pub fn newline(&self) -> Option<u32> {
        self.newline
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.vocab.len())
            .finish_non_exhaustive()
    }
}

/// What an algorithm's reader hands over.
struct Parts {
    added: AddedTokens,
    steps: Steps,
    algorithm: Box<dyn Algorithm>,
    decoder: Decoder,
    reference: SpecialTokens,
}
