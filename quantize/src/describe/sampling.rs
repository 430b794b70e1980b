//! Sampling defaults: from generation_config.json, else from the known card.

use std::path::Path;

use katari_gguf::{Metadata, keys::sampling as key};
use serde_json::Value;

use super::Known;
use super::known::Setting;
use crate::Error;
use crate::checkpoint::read_json;

/// Writes the sampling keys.
///
/// # Errors
/// Where generation_config.json is damaged or holds values of the wrong kind.
pub fn write(
    dir: &Path,
    known: Option<&Known>,
    unknown_id: Option<u32>,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    let path = dir.join("generation_config.json");
    if path.exists() && from_file(&path, metadata)? {
        return Ok(());
    }
    let settings = known.map_or(&[][..], |known| known.sampling);
    if !settings.is_empty() {
        metadata.set(key::DO_SAMPLE, true);
    }
    for setting in settings {
        match *setting {
            Setting::Temperature(x) => metadata.set(key::TEMPERATURE, x),
            Setting::TopK(n) => metadata.set(key::TOP_K, n),
            Setting::TopP(x) => metadata.set(key::TOP_P, x),
            Setting::RepetitionPenalty(x) => metadata.set(key::PENALTY_REPEAT, x),
            Setting::MinLength(n) => metadata.set(key::MIN_LENGTH, n),
            Setting::MaxLength(n) => metadata.set(key::MAX_LENGTH, n),
            Setting::MinNewTokens(n) => metadata.set(key::MIN_NEW_TOKENS, n),
            Setting::MaxNewTokens(n) => metadata.set(key::MAX_NEW_TOKENS, n),
            Setting::BanUnknown => {
                if let Some(id) = unknown_id {
                    metadata.set(key::BANNED_IDS, vec![id.to_string()]);
                }
            }
        }
    }
    Ok(())
}

/// Writes what the file sets; whether it set anything.
fn from_file(path: &Path, metadata: &mut Metadata) -> Result<bool, Error> {
    let config = read_json(path)?;
    let before = metadata.len();
    let get = |name: &str| config.get(name).filter(|value| !value.is_null());
    let wrong = |name: &str, value: &Value, expected: &str| {
        Error::file(path, format!("'{name}' is {value}, expected {expected}"))
    };
    if let Some(value) = get("do_sample") {
        let on = value
            .as_bool()
            .ok_or_else(|| wrong("do_sample", value, "true or false"))?;
        metadata.set(key::DO_SAMPLE, on);
    }
    for (name, key) in [
        ("temperature", key::TEMPERATURE),
        ("top_p", key::TOP_P),
        ("min_p", key::MIN_P),
        ("typical_p", key::TYPICAL_P),
        ("repetition_penalty", key::PENALTY_REPEAT),
    ] {
        if let Some(value) = get(name) {
            let x = value
                .as_f64()
                .filter(|x| (0.0..=1e6).contains(x))
                .ok_or_else(|| wrong(name, value, "a number of 0 or more"))?;
            metadata.set(key, x as f32);
        }
    }
    if let Some(value) = get("top_k") {
        let k = value
            .as_u64()
            .and_then(|k| i32::try_from(k).ok())
            .ok_or_else(|| wrong("top_k", value, "an integer of 0 or more"))?;
        metadata.set(key::TOP_K, k);
    }
    for (name, key) in [
        ("min_length", key::MIN_LENGTH),
        ("max_length", key::MAX_LENGTH),
        ("min_new_tokens", key::MIN_NEW_TOKENS),
        ("max_new_tokens", key::MAX_NEW_TOKENS),
    ] {
        if let Some(value) = get(name) {
            let n = value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| wrong(name, value, "an integer of 0 or more"))?;
            metadata.set(key, n);
        }
    }
    if let Some(value) = get("bad_words_ids") {
        let words = banned(value)
            .ok_or_else(|| wrong("bad_words_ids", value, "a list of lists of token ids"))?;
        metadata.set(key::BANNED_IDS, words);
    }
    Ok(metadata.len() > before)
}

/// `[[5], [6, 7]]` -> `["5", "6 7"]`.
fn banned(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|word| {
            let ids: Option<Vec<String>> = word
                .as_array()?
                .iter()
                .map(|id| u32::try_from(id.as_u64()?).ok().map(|id| id.to_string()))
                .collect();
            ids.map(|ids| ids.join(" "))
        })
        .collect()
}
