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

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file or folder of the data folder (`KATARI_DATA`, else `../shared/data`); `None`, and a line
/// that says so, where it is absent.
pub fn data(path: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("KATARI_DATA") {
        Some(folder) => PathBuf::from(folder),
        None => root().join("../shared/data"),
    };
    let found = folder.join(path);
    if found.exists() {
        return Some(found);
    }
    println!("skipped: {} is absent", found.display());
    None
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

/// A JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
