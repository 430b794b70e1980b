//! The sampling that a file's model card recommends, from its metadata.

use anyhow::{Context, Result};
use katari::sampler::Params;
use katari_gguf::Metadata;
use katari_gguf::keys::sampling as key;

/// How to write and how much, where the command line does not say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Card {
    /// How to choose tokens.
    pub params: Params,
    /// The longest text in tokens, the prompt included.
    pub max_length: Option<usize>,
    /// Most tokens after the prompt.
    pub max_new_tokens: Option<usize>,
}

impl Card {
    /// Reads the sampling keys; those that are absent leave a default.
    pub fn read(metadata: &Metadata, n_vocab: usize) -> Result<Self> {
        let mut card = Self::default();
        let params = &mut card.params;
        set(metadata, key::TEMPERATURE, &mut params.temperature)?;
        set(metadata, key::TOP_P, &mut params.top_p)?;
        set(metadata, key::MIN_P, &mut params.min_p)?;
        set(metadata, key::TYPICAL_P, &mut params.typical_p)?;
        set(
            metadata,
            key::PENALTY_REPEAT,
            &mut params.repetition_penalty,
        )?;
        set(metadata, key::MIN_LENGTH, &mut params.min_length)?;
        set(metadata, key::MIN_NEW_TOKENS, &mut params.min_new_tokens)?;
        // Both are signed, as other programs write -1 for "all".
        if let Some(k) = metadata.opt::<i32>(key::TOP_K)? {
            params.top_k = usize::try_from(k).unwrap_or(0);
        }
        if let Some(n) = metadata.opt::<i32>(key::PENALTY_LAST_N)? {
            params.repetition_window = usize::try_from(n).ok();
        }
        if metadata.opt::<bool>(key::DO_SAMPLE)? == Some(false) {
            params.temperature = 0.0;
        }
        if let Some(words) = metadata.opt::<&[String]>(key::BANNED_IDS)? {
            params.banned = words
                .iter()
                .map(|word| sequence(word))
                .collect::<Result<_>>()?;
        }
        params.validate().context("the file's card")?;
        params.validate_ids(n_vocab).context("the file's card")?;
        card.max_new_tokens = metadata.opt(key::MAX_NEW_TOKENS)?;
        // As in the reference, the other one counts only where this is not given.
        if card.max_new_tokens.is_none() {
            card.max_length = metadata.opt(key::MAX_LENGTH)?;
        }
        Ok(card)
    }
}

/// Sets `field` to what `key` holds, if it is there.
fn set<'a, T: katari_gguf::FromValue<'a>>(
    metadata: &'a Metadata,
    key: &str,
    field: &mut T,
) -> Result<()> {
    if let Some(value) = metadata.opt(key)? {
        *field = value;
    }
    Ok(())
}

/// Ids joined by spaces.
fn sequence(ids: &str) -> Result<Vec<u32>> {
    ids.split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| {
            format!(
                "metadata key '{}': found {ids:?}, expected token ids joined by spaces",
                key::BANNED_IDS
            )
        })
}
