//! sentencepiece models: a small reader of the protocol buffer they are, and their metadata.
//!
//! The message is `ModelProto` of sentencepiece's `sentencepiece_model.proto`; fields that do not
//! bear on encoding or decoding are skipped.

use std::collections::HashSet;
use std::path::Path;

use katari_gguf::keys::{katari, token_type, tokenizer as keys};

use super::Entries;
use super::list::{Kind, TokenList};
use super::roles::Roles;
use crate::Error;

/// `TrainerSpec.model_type`.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;
/// Extra tokens that the reference's T5Tokenizer adds unless its configuration says how many.
const T5_EXTRA_IDS: u64 = 100;
/// What the unknown token shows unless the model says otherwise.
const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// What is read of a model.
struct Model {
    pieces: Vec<Piece>,
    model_type: u64,
    byte_fallback: bool,
    suffix_whitespace: bool,
    unknown_surface: String,
    /// The names of bos, eos and pad.
    names: [String; 3],
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    denormalizes: bool,
}

struct Piece {
    name: String,
    score: f32,
    kind: i32,
}

/// A sentencepiece model file as metadata.
pub(super) fn read(path: &Path, roles: &Roles, rows: usize) -> Result<Entries, Error> {
    let bytes = super::bytes(path)?;
    let fault = |message: String| Error::file(path, message);
    let model = parse(&bytes).map_err(|m| fault(format!("no sentencepiece model: {m}")))?;
    check(&model).map_err(fault)?;
    let kind = match model.model_type {
        UNIGRAM => "t5",
        BPE => "llama",
        other => {
            return Err(Error::file(
                path,
                format!("a sentencepiece model of type {other} (expected 1, unigram, or 2, BPE)"),
            ));
        }
    };

    let mut list = TokenList::default();
    for piece in &model.pieces {
        list.push(&piece.name, piece.kind, piece.score);
    }
    let n = list.len();
    if roles.class() == Some("T5Tokenizer") {
        let extra = roles.number("extra_ids").unwrap_or(T5_EXTRA_IDS);
        for k in (0..extra.min(rows as u64)).rev() {
            list.push_untrained(&format!("<extra_id_{k}>"), token_type::CONTROL, rows);
        }
    }
    let beyond = roles.added.iter().filter(|&(&id, _)| id as usize >= n);
    list.add(path, beyond.map(|(&id, token)| (id, token)), rows)?;
    list.add_special(roles, false, rows);

    let mut more: Entries = vec![
        (keys::PRE.into(), "default".into()),
        (keys::ADD_SPACE_PREFIX.into(), model.add_dummy_prefix.into()),
        (
            keys::REMOVE_EXTRA_WHITESPACES.into(),
            model.remove_extra_whitespaces.into(),
        ),
        (
            katari::TOKENIZER_ESCAPE_WHITESPACES.into(),
            model.escape_whitespaces.into(),
        ),
        (
            katari::TOKENIZER_BYTE_FALLBACK.into(),
            model.byte_fallback.into(),
        ),
    ];
    if model.unknown_surface != UNKNOWN_SURFACE {
        let surface = model.unknown_surface.as_str();
        more.push((katari::TOKENIZER_UNKNOWN_SURFACE.into(), surface.into()));
    }
    if !model.charsmap.is_empty() {
        more.push((keys::PRECOMPILED_CHARSMAP.into(), model.charsmap.into()));
    }
    let unknown = model
        .pieces
        .iter()
        .position(|p| p.kind == token_type::UNKNOWN);
    let [bos, eos, pad] = &model.names;
    let own = |role: &str| {
        let of = |name: &str| model.pieces.iter().position(|p| p.name == name);
        let at = match role {
            "bos_token" => of(bos),
            "eos_token" => of(eos),
            "unk_token" => unknown,
            _ => of(pad),
        };
        at.map(|id| id as u32)
    };
    let kind = Kind {
        model: kind,
        more,
        scored: true,
    };
    list.finish(kind, path, rows, roles, own)
}

/// What sentencepiece itself demands of a model, and what is not supported.
fn check(model: &Model) -> Result<(), String> {
    let mut names = HashSet::new();
    for (id, piece) in model.pieces.iter().enumerate() {
        if piece.name.is_empty() {
            return Err(format!("piece {id} has no name"));
        }
        if !names.insert(&piece.name) {
            return Err(format!("two pieces are named '{}'", piece.name));
        }
        if !(token_type::NORMAL..=token_type::BYTE).contains(&piece.kind) {
            return Err(format!("piece {id} has the type {}", piece.kind));
        }
        if !piece.score.is_finite() {
            return Err(format!("piece {id} has the score {}", piece.score));
        }
    }
    let count = |kind| model.pieces.iter().filter(|p| p.kind == kind).count();
    if count(token_type::UNKNOWN) != 1 {
        return Err(format!(
            "{} pieces of type unknown (expected one)",
            count(token_type::UNKNOWN)
        ));
    }
    let bytes = count(token_type::BYTE);
    if bytes != if model.byte_fallback { 256 } else { 0 } {
        return Err(format!(
            "{bytes} byte pieces with byte_fallback {} (expected 256 with it, none without)",
            model.byte_fallback
        ));
    }
    if model.suffix_whitespace {
        return Err("treat_whitespace_as_suffix is not supported".into());
    }
    if model.denormalizes {
        return Err("a denormalizer is not supported".into());
    }
    Ok(())
}

/// Reads a `ModelProto`.
fn parse(bytes: &[u8]) -> Result<Model, String> {
    let mut model = Model {
        pieces: Vec::new(),
        model_type: UNIGRAM,
        byte_fallback: false,
        suffix_whitespace: false,
        unknown_surface: UNKNOWN_SURFACE.into(),
        names: ["<s>".into(), "</s>".into(), "<pad>".into()],
        charsmap: Vec::new(),
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        escape_whitespaces: true,
        denormalizes: false,
    };
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Wire::Bytes(bytes)) => model.pieces.push(piece(bytes)?),
            (2, Wire::Bytes(bytes)) => trainer(bytes, &mut model)?,
            (3, Wire::Bytes(bytes)) => normalizer(bytes, &mut model)?,
            (5, Wire::Bytes(bytes)) => {
                let mut spec = Message(bytes);
                while let Some((field, value)) = spec.next()? {
                    model.denormalizes |=
                        matches!((field, value), (2, Wire::Bytes(b)) if !b.is_empty());
                }
            }
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err("it has no pieces".into());
    }
    Ok(model)
}

fn piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece {
        name: String::new(),
        score: 0.0,
        kind: token_type::NORMAL,
    };
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Wire::Bytes(bytes)) => piece.name = string(bytes)?,
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => piece.kind = i32::try_from(kind).unwrap_or(-1),
            _ => {}
        }
    }
    Ok(piece)
}

fn trainer(bytes: &[u8], model: &mut Model) -> Result<(), String> {
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (3, Wire::Varint(kind)) => model.model_type = kind,
            (24, Wire::Varint(flag)) => model.suffix_whitespace = flag != 0,
            (35, Wire::Varint(flag)) => model.byte_fallback = flag != 0,
            (44, Wire::Bytes(bytes)) => model.unknown_surface = string(bytes)?,
            (46, Wire::Bytes(bytes)) => model.names[0] = string(bytes)?,
            (47, Wire::Bytes(bytes)) => model.names[1] = string(bytes)?,
            (48, Wire::Bytes(bytes)) => model.names[2] = string(bytes)?,
            _ => {}
        }
    }
    Ok(())
}

fn normalizer(bytes: &[u8], model: &mut Model) -> Result<(), String> {
    let mut message = Message(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (2, Wire::Bytes(bytes)) => model.charsmap = bytes.to_vec(),
            (3, Wire::Varint(flag)) => model.add_dummy_prefix = flag != 0,
            (4, Wire::Varint(flag)) => model.remove_extra_whitespaces = flag != 0,
            (5, Wire::Varint(flag)) => model.escape_whitespaces = flag != 0,
            _ => {}
        }
    }
    Ok(())
}

fn string(bytes: &[u8]) -> Result<String, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_string()),
        Err(error) => Err(format!("a string in it is no UTF-8: {error}")),
    }
}

/// The fields of a protocol buffer message, one after the other.
struct Message<'a>(&'a [u8]);

/// A field's value by its wire type.
#[derive(Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    /// The next field's number and value; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>, String> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                let bytes = bytes.first_chunk().copied().unwrap_or_default();
                Wire::Fixed32(u32::from_le_bytes(bytes))
            }
            other => return Err(format!("a field has the wire type {other}")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number in it has more than ten bytes".into())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let split = usize::try_from(length).ok();
        match split.and_then(|n| self.0.split_at_checked(n)) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(format!(
                "it ends in the middle: {length} bytes wanted, {} left",
                self.0.len()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cut_messages_are_errors() {
        // Field 1 of 5 bytes, of which 2 are there; a varint without end; no pieces at all.
        for bytes in [&[0x0a, 5, 0x0a, 0][..], &[0x80; 11], &[], b"hello"] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn flags_default_to_true_as_in_the_proto() {
        // One piece "a" with the score -1.
        let model = parse(&[0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0xbf]).unwrap();
        assert_eq!(
            (model.pieces[0].name.as_str(), model.pieces[0].score),
            ("a", -1.0)
        );
        assert_eq!(model.pieces[0].kind, token_type::NORMAL);
        assert!(model.add_dummy_prefix && model.remove_extra_whitespaces);
        assert!(check(&model).unwrap_err().contains("unknown"));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
