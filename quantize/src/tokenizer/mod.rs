//! The tokenizer's files as metadata (to come).

use std::path::Path;

use katari_gguf::Value;

use crate::Error;

/// All `tokenizer.*` metadata in order, from the tokenizer files in `dir`; `rows` is the
/// embedding's rows, `config` is config.json.
///
/// # Errors
/// Where the files are missing or damaged.
pub fn read(
    _dir: &Path,
    _rows: usize,
    _config: &serde_json::Value,
) -> Result<Vec<(String, Value)>, Error> {
    Ok(Vec::new())
}
