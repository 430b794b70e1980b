//! What the file says of itself beside tensors: names, license, sampling, chat template.

mod card;
mod chat;
mod known;
mod name;
mod sampling;

use std::path::Path;

use katari_gguf::{Metadata, Value, keys};

use crate::checkpoint::Checkpoint;
use crate::convert::{Model, Source};
use crate::plan::FileType;
use crate::{Error, tokenizer};
use card::Card;
use known::Known;
pub use name::Name;

/// The version of ggml's quantized block layouts that this crate writes.
const QUANTIZATION_VERSION: u32 = 2;

/// What [`describe`] needs beside the checkpoint.
pub struct Request<'a> {
    /// Where the tokenizer is, if not in the checkpoint.
    pub tokenizer: Option<&'a Path>,
    /// `--chat-template`: a known name, "none", or a file.
    pub chat_template: Option<&'a str>,
    /// `--type`.
    pub file_type: FileType,
}

/// The whole metadata of the file, in the order it is written, and the model's name.
///
/// # Errors
/// Where the tokenizer or a descriptive file of the checkpoint is missing or damaged.
pub fn describe(
    checkpoint: &Checkpoint,
    model: &Model,
    request: &Request<'_>,
) -> Result<(Metadata, Name), Error> {
    let dir = checkpoint.dir();
    let card = Card::read(dir)?;
    let name = Name::new(dir, &card, n_parameters(checkpoint, model));
    let known = Known::find([Some(name.full.as_str()), card.title.as_deref()]);
    let tokens = tokenizer::read(
        request.tokenizer.unwrap_or(dir),
        model.n_vocab,
        checkpoint.config(),
    )?;

    let mut metadata = Metadata::new();
    metadata.set(keys::general::ARCHITECTURE, model.architecture);
    metadata.set(keys::general::TYPE, "model");
    name.write(&mut metadata);
    card.write(&mut metadata);
    for (key, value) in model.metadata.iter() {
        metadata.set(key, value.clone());
    }
    metadata.set(keys::general::FILE_TYPE, request.file_type.id());
    metadata.set(keys::general::QUANTIZATION_VERSION, QUANTIZATION_VERSION);
    metadata.set(
        keys::katari::WRITER,
        concat!("katari ", env!("CARGO_PKG_VERSION")),
    );
    for (key, value) in tokens {
        metadata.set(key, value);
    }
    for key in [keys::tokenizer::ADD_BOS, keys::tokenizer::ADD_EOS] {
        if metadata.get(key).is_none() {
            metadata.set(key, false);
        }
    }
    let subfolder = dir.join(tokenizer::SUBFOLDER);
    let dirs = [request.tokenizer.unwrap_or(dir), dir, &subfolder];
    if let Some(template) = chat::template(request.chat_template, &dirs, known)? {
        metadata.set(keys::tokenizer::CHAT_TEMPLATE, template);
    }
    let unknown_id = metadata
        .get(keys::tokenizer::UNK_ID)
        .and_then(|value| match value {
            Value::U32(id) => Some(*id),
            _ => None,
        });
    sampling::write(dir, known, unknown_id, &mut metadata)?;
    Ok((metadata, name))
}

/// Parameters of the model: each stored tensor once.
fn n_parameters(checkpoint: &Checkpoint, model: &Model) -> u64 {
    let mut names: Vec<&str> = model
        .outputs
        .iter()
        .filter_map(|output| match &output.source {
            Source::Stored { tensor, .. } => Some(tensor.as_str()),
            Source::Zeros => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
        .iter()
        .filter_map(|name| checkpoint.get(name))
        .map(|stored| stored.shape.iter().product::<u64>())
        .sum()
}
