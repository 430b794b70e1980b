//! Tokenizers: files -> metadata -> a written and re-read GGUF -> ids and text, compared with
//! what the reference implementations say.

mod files;
mod golden;
mod hostile;
mod oracle;
#[cfg(feature = "sentencepiece-oracle")]
mod sentencepiece_oracle;
mod speed;
mod stream;
mod strings;
mod swe;

use std::fs;
use std::path::{Path, PathBuf};

use katari::text::Tokenizer;
use katari_gguf::{Gguf, Metadata, Writer};
use serde_json::Value;

use crate::support;
pub use crate::support::{json, repository};
pub use stream::every_kind;

/// A file or folder of the data folder; `None`, and a line that says so, where it is absent.
pub fn data(path: &str) -> Option<PathBuf> {
    support::data(path, "a tokenizer test")
}

/// The metadata of the tokenizer in `dir`, through a GGUF's bytes.
pub fn metadata(dir: &Path, rows: usize, config: &Value) -> Metadata {
    let entries = katari_quantize::tokenizer::read(dir, rows, config)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        metadata.set(key, value);
    }
    let bytes = Writer::new(Vec::new(), &metadata, &[])
        .and_then(|writer| writer.finish())
        .unwrap();
    Gguf::parse(&bytes).unwrap().metadata
}

/// The tokenizer in `dir`.
pub fn tokenizer(dir: &Path, rows: usize, config: &Value) -> Tokenizer {
    Tokenizer::from_metadata(&metadata(dir, rows, config))
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

/// The tokenizer of a sentencepiece file alone.
pub fn sentencepiece(model: &Path, rows: usize) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(model, dir.path().join("spiece.model")).unwrap();
    tokenizer(dir.path(), rows, &Value::Null)
}
