//! A unigram model of a `tokenizer.json`: normalisation steps, then words at spaces or the whole
//! text, cut by the `tokenizers` library's arithmetic, with byte fallback.

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type};

use super::added::AddedTokens;
use super::decode::{Decoder, Invalid, Lead, Show};
use super::fallback::Fallback;
use super::normalize::Steps;
use super::sentencepiece::SPACE;
use super::unigram::{Arithmetic, UNKNOWN_PENALTY, Unigram};
use super::vocab::{Vocab, byte_of};
use super::{Algorithm, Parts, SpecialTokens, TextError};

/// The key whose presence says that a unigram model is a `tokenizer.json`'s.
pub(super) const KEY: &str = katari::TOKENIZER_METASPACE;

struct Metaspace {
    model: Unigram,
    fallback: Fallback,
    prepend: Prepend,
    /// Whether spaces become [`SPACE`] here (and not in a normalisation step).
    replace: bool,
    /// Whether each [`SPACE`] begins a word.
    split: bool,
}

/// Where a space is put before a text that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prepend {
    Always,
    First,
    Never,
}

/// Rebuilds the tokenizer from a file's metadata.
pub(super) fn read(metadata: &Metadata, vocab: &Vocab) -> Result<Parts, TextError> {
    let scores: Vec<f64> = match metadata.opt::<&[f64]>(katari::TOKENIZER_SCORES)? {
        Some(scores) if scores.len() == vocab.len() => scores.to_vec(),
        Some(scores) => {
            return Err(TextError::value(
                katari::TOKENIZER_SCORES,
                format!(
                    "{} entries (expected {}, one a token)",
                    scores.len(),
                    vocab.len()
                ),
            ));
        }
        None => vocab.scores()?.iter().map(|&s| f64::from(s)).collect(),
    };
    let all = vocab.iter().filter(|t| t.2 != token_type::UNUSED);
    let lowest = all
        .filter_map(|(id, _, _)| scores.get(id as usize).copied())
        .fold(f64::INFINITY, f64::min);
    // Control and user-defined tokens are looked for before the model sees a text, or not at all.
    let pieces = vocab
        .iter()
        .filter(|t| matches!(t.2, token_type::NORMAL | token_type::BYTE))
        .map(|(id, token, _)| (token.as_bytes(), id));
    let model = Unigram::new(
        pieces,
        scores,
        lowest - f64::from(UNKNOWN_PENALTY),
        Arithmetic::Double,
    );
    let mut options = metadata.need::<&str>(KEY)?.split(' ');
    let bad = |what: &str| {
        TextError::value(
            KEY,
            format!(
                "{what} (expected one of none, always, first, never; then split or whole; then keep, text or token)"
            ),
        )
    };
    let (prepend, replace) = match options.next() {
        Some("none") => (Prepend::Never, false),
        Some("always") => (Prepend::Always, true),
        Some("first") => (Prepend::First, true),
        Some("never") => (Prepend::Never, true),
        _ => return Err(bad("no known prefix rule")),
    };
    let split = match options.next() {
        Some("split") => true,
        Some("whole") => false,
        _ => return Err(bad("no known word rule")),
    };
    let lead = match options.next() {
        Some("keep") => Lead::Keep,
        Some("text") => Lead::WholeText,
        Some("token") => Lead::FirstToken,
        _ => return Err(bad("no known rule for the first space of a decoded text")),
    };
    let mut decoder = Decoder::new(lead, Invalid::WholeRun);
    for (_, token, kind) in vocab.iter() {
        match (kind, byte_of(token)) {
            (token_type::UNUSED, _) => decoder.push(Show::Text("")),
            (token_type::BYTE, Some(byte)) => decoder.push(Show::Byte(byte)),
            _ => decoder.push(Show::Spaced(&token.replace(SPACE, " "))),
        }
    }
    Ok(Parts {
        added: AddedTokens::read(metadata, vocab, true)?,
        steps: Steps::read(metadata)?,
        algorithm: Box::new(Metaspace {
            model,
            fallback: Fallback::read(metadata, vocab)?,
            prepend,
            replace,
            split,
        }),
        decoder,
        reference: SpecialTokens::Parse,
    })
}

impl Algorithm for Metaspace {
    fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>) {
        let mut buffer = String::new();
        let mut text = text;
        if self.replace {
            let wanted = match self.prepend {
                Prepend::Always => true,
                Prepend::First => first,
                Prepend::Never => false,
            };
            let spaced = text.replace(' ', "\u{2581}");
            if wanted && !spaced.starts_with(SPACE) {
                buffer.push(SPACE);
            }
            buffer.push_str(&spaced);
            text = &buffer;
        }
        if !self.split {
            return self.word(text, ids);
        }
        // A word is a space and what follows it up to the next one.
        let mut start = 0;
        for (at, _) in text.match_indices(SPACE) {
            self.word(&text[start..at], ids);
            start = at;
        }
        self.word(&text[start..], ids);
    }
}

impl Metaspace {
    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        self.fallback.push(word, self.model.cut(word), ids);
    }
}
