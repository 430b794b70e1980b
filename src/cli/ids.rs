//! Token ids on the command line.

use std::path::Path;

use anyhow::{Context, Result};

/// A list of ids, `1,2,3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids(pub Vec<u32>);

impl std::str::FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = |part: &str| {
            (part.trim().parse())
                .map_err(|_| format!("found {part:?}, expected ids joined by commas, as 1,2,3"))
        };
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(id).collect::<Result<_, _>>().map(Self)
    }
}

/// A JSON list of ids in a file.
pub fn read(path: &Path) -> Result<Vec<u32>> {
    let text = super::model::read_text(path)?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{}: expected a JSON list of token ids, as [1, 2, 3]",
            path.display()
        )
    })
}

/// An error naming the first id that is not below `n_vocab`.
pub fn check(ids: &[u32], n_vocab: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= n_vocab) {
        None => Ok(()),
        Some(id) => anyhow::bail!(
            "token id {id} is out of range: the model's embedding has {n_vocab} rows, \
             so ids are below {n_vocab}"
        ),
    }
}
