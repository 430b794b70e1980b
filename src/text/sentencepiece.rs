//! sentencepiece (Kudo and Richardson 2018): normalisation, the two segmenters, byte fallback.
//!
//! A text is normalised with user-defined symbols taken as they are, cut by the [`Unigram`] model
//! or by [`PieceBpe`], and each unknown stretch becomes the unknown token or its bytes' tokens.

use katari_gguf::Metadata;
use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::added::AddedTokens;
use super::charsmap::CharsMap;
use super::decode::{Decoder, Invalid, Lead, Show};
use super::fallback::Fallback;
use super::normalize::Steps;
use super::piece_bpe::PieceBpe;
use super::trie::Trie;
use super::unigram::{Arithmetic, UNKNOWN_PENALTY, Unigram};
use super::vocab::{Vocab, byte_of};
use super::{Algorithm, Parts, SpecialTokens, TextError};

/// What a space is written as in pieces.
pub(super) const SPACE: char = '\u{2581}';
/// What the unknown token shows unless the file says otherwise.
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// Which segmenter a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segmenter {
    /// Highest sum of log probabilities.
    Unigram,
    /// Merges in order of score.
    Bpe,
}

enum Model {
    Unigram(Unigram),
    Bpe(PieceBpe),
}

struct Sentencepiece {
    normalizer: Normalizer,
    model: Model,
    fallback: Fallback,
}

/// Rebuilds a sentencepiece model from a file's metadata.
pub(super) fn read(
    metadata: &Metadata,
    vocab: &Vocab,
    segmenter: Segmenter,
) -> Result<Parts, TextError> {
    let scores = vocab.scores()?;
    let symbols = || {
        vocab
            .iter()
            .filter(|&(_, _, kind)| kind == token_type::USER_DEFINED)
            .map(|(id, token, _)| (token.as_bytes(), id))
    };
    let model = match segmenter {
        Segmenter::Unigram => Model::Unigram(unigram(vocab, scores)),
        Segmenter::Bpe => Model::Bpe(PieceBpe::new(vocab, scores, Trie::new(symbols()))),
    };
    let add_space = metadata.opt(keys::ADD_SPACE_PREFIX)?.unwrap_or(true);
    let collapse = metadata
        .opt(keys::REMOVE_EXTRA_WHITESPACES)?
        .unwrap_or(false);
    let charsmap: Option<&[u8]> = metadata.opt(keys::PRECOMPILED_CHARSMAP)?;
    let normalizer = Normalizer {
        symbols: Trie::new(symbols()),
        charsmap: match charsmap {
            Some(bytes) if !bytes.is_empty() => Some(CharsMap::new(bytes)?),
            _ => None,
        },
        add_space,
        collapse,
        escape: metadata
            .opt(katari::TOKENIZER_ESCAPE_WHITESPACES)?
            .unwrap_or(true),
    };
    let surface: &str = metadata
        .opt(katari::TOKENIZER_UNKNOWN_SURFACE)?
        .unwrap_or(UNKNOWN_SURFACE);
    let lead = match (add_space, collapse) {
        (_, true) => Lead::Every,
        (true, false) => Lead::One,
        (false, false) => Lead::Keep,
    };
    let mut decoder = Decoder::new(lead, Invalid::EachByte);
    for (_, token, kind) in vocab.iter() {
        match (kind, byte_of(token)) {
            (token_type::CONTROL, _) => decoder.push(Show::Text("")),
            (token_type::UNKNOWN, _) => decoder.push(Show::Text(surface)),
            (token_type::BYTE, Some(byte)) => decoder.push(Show::Byte(byte)),
            // Padding of the list is no piece of the model.
            (token_type::UNUSED, _) if is_padding(token) => decoder.push(Show::Text("")),
            _ => decoder.push(Show::Spaced(&token.replace(SPACE, " "))),
        }
    }
    Ok(Parts {
        added: AddedTokens::read(metadata, vocab, false)?,
        steps: Steps::default(),
        algorithm: Box::new(Sentencepiece {
            normalizer,
            model,
            fallback: Fallback::read(metadata, vocab)?,
        }),
        decoder,
        reference: SpecialTokens::AsText,
    })
}

/// Whether the name is one that the converter gave to a row without a token.
fn is_padding(token: &str) -> bool {
    token.starts_with("[PAD") && token.ends_with(']') && token.len() > "[PAD]".len()
}

/// sentencepiece's scores: normal pieces as they are, user-defined symbols so that they win.
fn unigram(vocab: &Vocab, scores: &[f32]) -> Unigram {
    let normal = || {
        vocab
            .iter()
            .filter(|&(_, _, kind)| kind == token_type::NORMAL)
            .filter_map(|(id, _, _)| scores.get(id as usize).copied())
    };
    let lowest = normal().fold(f32::MAX, f32::min);
    // The reference begins with the smallest positive f32, not with the most negative one.
    let highest = normal().fold(f32::MIN_POSITIVE, f32::max);
    let weights = vocab
        .iter()
        .zip(scores)
        .map(|((_, token, kind), &score)| match kind {
            token_type::USER_DEFINED => f64::from(token.len() as f32 * highest) - 0.1,
            _ => f64::from(score),
        })
        .collect();
    let pieces = vocab
        .iter()
        .filter(|&(_, _, kind)| matches!(kind, token_type::NORMAL | token_type::USER_DEFINED))
        .map(|(id, token, _)| (token.as_bytes(), id));
    let unknown = f64::from(lowest - UNKNOWN_PENALTY);
    Unigram::new(pieces, weights, unknown, Arithmetic::Single)
}

impl Algorithm for Sentencepiece {
    fn encode(&self, text: &str, _first: bool, ids: &mut Vec<u32>) {
        let text = self.normalizer.apply(text);
        let cut = match &self.model {
            Model::Unigram(model) => model.cut(&text),
            Model::Bpe(model) => model.cut(&text),
        };
        self.fallback.push(&text, cut, ids);
    }
}

/// What is done to a text before it is cut.
struct Normalizer {
    /// User-defined symbols: taken as they are, the longest first.
    symbols: Trie,
    charsmap: Option<CharsMap>,
    /// Whether a space is put before the text.
    add_space: bool,
    /// Whether spaces at the ends go and runs of them become one.
    collapse: bool,
    /// Whether spaces are written as [`SPACE`].
    escape: bool,
}

impl Normalizer {
    fn apply(&self, text: &str) -> String {
        let mut rest = text.as_bytes();
        if self.collapse {
            while let Some((" ", length)) = self.prefix(rest) {
                rest = &rest[length..];
            }
        }
        let mut out = String::with_capacity(text.len() + text.len() / 2);
        if rest.is_empty() {
            return out;
        }
        let space = if self.escape { SPACE } else { ' ' };
        if self.add_space {
            out.push(space);
        }
        let mut after_space = self.collapse;
        while let Some((mut piece, length)) = self.prefix(rest) {
            rest = &rest[length..];
            if after_space {
                piece = piece.trim_start_matches(' ');
            }
            if !piece.is_empty() {
                out.extend(piece.chars().map(|c| if c == ' ' { space } else { c }));
                after_space = self.collapse && piece.ends_with(' ');
            }
        }
        if self.collapse {
            out.truncate(out.trim_end_matches(space).len());
        }
        out
    }

    /// What the beginning of `rest` becomes, and how many bytes of it that is; `None` at the end.
    fn prefix<'a>(&'a self, rest: &'a [u8]) -> Option<(&'a str, usize)> {
        if rest.is_empty() {
            return None;
        }
        if let Some((length, _)) = self.symbols.longest(rest) {
            let symbol = rest.get(..length).unwrap_or_default();
            // It is UTF-8: it is the name of a token.
            return Some((std::str::from_utf8(symbol).unwrap_or_default(), length));
        }
        if let Some((length, replacement)) = self.charsmap.as_ref().and_then(|m| m.longest(rest)) {
            return Some((replacement, length));
        }
        // A map of a damaged file can end a rule inside a character; what is left of it is marked.
        match first_char(rest) {
            Some(character) => Some((character, character.len())),
            None => Some(("\u{fffd}", 1)),
        }
    }
}

/// The first character of `bytes`, if they begin with one.
fn first_char(bytes: &[u8]) -> Option<&str> {
    let width = match bytes.first()? {
        0x00..0x80 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    std::str::from_utf8(bytes.get(..width)?).ok()
}
