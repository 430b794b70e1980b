//! Tokenizer files of a checkpoint, as GGUF metadata.
//!
//! Which tokenizer a checkpoint has does not depend on its architecture: [`read`] looks for the
//! files of every kind and writes down all that the run-time tokenizer needs, so that the GGUF
//! alone is enough.

mod byte_bpe;
mod json;
mod list;
mod roles;
mod spiece;
mod swe;

use std::fs;
use std::path::{Path, PathBuf};

use katari_gguf::Value as GgufValue;
use serde_json::Value;

use crate::Error;
use roles::Roles;

/// The subfolder of a checkpoint that may hold the tokenizer.
pub(crate) const SUBFOLDER: &str = "tokenizer";
/// The most bytes a tokenizer's file may have.
const MAX_FILE: u64 = 256 << 20;

/// Metadata in the order it is to be written.
type Entries = Vec<(String, GgufValue)>;

/// Reads the tokenizer of the checkpoint in `dir`, or in its subfolder `tokenizer`, as the
/// `tokenizer.*` metadata of a file whose embedding has `rows` rows; the token list is padded to
/// them. `config` is the checkpoint's config.json, which may name bos and eos.
///
/// These are looked for, in this order: a sentencepiece model (`spiece.model`,
/// `tokenizer.model`, or the folder's only `*.model`), `tokenizer.json`, `vocab.txt` with
/// `emoji.json`, `vocab.json` with `merges.txt`. Where the tokenizer's class is a fast one,
/// `tokenizer.json` comes first.
///
/// # Errors
/// No such file, a damaged one, one with a feature that is not supported (named), or more tokens
/// than rows.
pub fn read(dir: &Path, rows: usize, config: &Value) -> Result<Entries, Error> {
    for dir in [dir.to_path_buf(), dir.join(SUBFOLDER)] {
        if let Some(files) = Files::find(&dir)? {
            let roles = Roles::read(&dir, config)?;
            return match files {
                Files::Sentencepiece(path) => spiece::read(&path, &roles, rows),
                Files::Json(path) => json::read(&path, &roles, rows),
                Files::Swe { vocab, emoji } => swe::read(&vocab, &emoji, &roles, rows),
                Files::ByteBpe { vocab, merges } => byte_bpe::read(&vocab, &merges, &roles, rows),
            };
        }
    }
    Err(Error::file(
        dir,
        "no tokenizer: expected spiece.model, tokenizer.model, tokenizer.json, vocab.txt with emoji.json, or vocab.json with merges.txt; if it lies elsewhere, name its folder with --tokenizer",
    ))
}

/// The files of a tokenizer.
enum Files {
    Sentencepiece(PathBuf),
    Json(PathBuf),
    Swe { vocab: PathBuf, emoji: PathBuf },
    ByteBpe { vocab: PathBuf, merges: PathBuf },
}

impl Files {
    fn find(dir: &Path) -> Result<Option<Files>, Error> {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        let pair = |a: &str, b: &str| Some((file(a)?, file(b)?));
        let json = file("tokenizer.json");
        if json.is_some() && roles::is_fast(dir)? {
            return Ok(json.map(Files::Json));
        }
        let model = file("spiece.model").or_else(|| file("tokenizer.model"));
        if let Some(path) = model.or_else(|| only_model(dir)) {
            return Ok(Some(Files::Sentencepiece(path)));
        }
        if let Some(path) = json {
            return Ok(Some(Files::Json(path)));
        }
        let swe = pair("vocab.txt", "emoji.json");
        if let Some((vocab, emoji)) = swe.or_else(|| pair("ja-swe32k.txt", "emoji.json")) {
            return Ok(Some(Files::Swe { vocab, emoji }));
        }
        let byte_bpe = pair("vocab.json", "merges.txt");
        Ok(byte_bpe.map(|(vocab, merges)| Files::ByteBpe { vocab, merges }))
    }
}

/// The folder's only file that ends in `.model`.
fn only_model(dir: &Path) -> Option<PathBuf> {
    let mut models = fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "model") && path.is_file());
    let model = models.next()?;
    models.next().is_none().then_some(model)
}

/// The bytes of a file, of at most [`MAX_FILE`].
fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let length = fs::metadata(path).map_err(Error::io(path, "read"))?.len();
    if length > MAX_FILE {
        return Err(Error::file(
            path,
            format!("{length} bytes (expected at most {MAX_FILE} for a tokenizer)"),
        ));
    }
    fs::read(path).map_err(Error::io(path, "read"))
}

/// The text of a file.
fn text(path: &Path) -> Result<String, Error> {
    String::from_utf8(bytes(path)?)
        .map_err(|error| Error::file(path, format!("no UTF-8 text: {error}")))
}

/// A JSON file.
fn json_file(path: &Path) -> Result<Value, Error> {
    serde_json::from_slice(&bytes(path)?)
        .map_err(|error| Error::file(path, format!("no valid JSON: {error}")))
}
