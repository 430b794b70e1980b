//! Which tokens have a role: what tokenizer_config.json, special_tokens_map.json,
//! added_tokens.json and config.json say.

use std::collections::BTreeMap;
use std::path::Path;

use katari_gguf::keys::tokenizer as keys;
use serde_json::Value;

use super::json_file;
use crate::Error;

/// The roles that metadata has a key for: their name in the reference's files, and the key.
const ROLES: [(&str, &str); 4] = [
    ("bos_token", keys::BOS_ID),
    ("eos_token", keys::EOS_ID),
    ("unk_token", keys::UNK_ID),
    ("pad_token", keys::PAD_ID),
];
/// All names of special tokens, in the order in which the reference adds those that its
/// vocabulary lacks.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A token that the tokenizer's configuration adds or flags.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Added {
    pub content: String,
    pub special: bool,
    /// Whether it is looked for in the normalised text.
    pub normalized: bool,
}

/// What the files beside a vocabulary say.
#[derive(Debug, Default)]
pub(super) struct Roles {
    tokenizer: Value,
    map: Value,
    config: Value,
    /// By id: `added_tokens_decoder` of tokenizer_config.json and added_tokens.json.
    pub added: BTreeMap<u32, Added>,
}

impl Roles {
    /// Reads the files of `dir`; those that are missing say nothing.
    pub fn read(dir: &Path, config: &Value) -> Result<Roles, Error> {
        let optional = |name: &str| {
            let path = dir.join(name);
            match path.is_file() {
                true => json_file(&path),
                false => Ok(Value::Null),
            }
        };
        let tokenizer = optional("tokenizer_config.json")?;
        let mut added = BTreeMap::new();
        if let Some(object) = optional("added_tokens.json")?.as_object() {
            for (content, id) in object {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| {
                    let path = dir.join("added_tokens.json");
                    Error::file(path, format!("'{content}' has no id"))
                })?;
                let content = content.clone();
                let (special, normalized) = (false, true);
                added.insert(
                    id,
                    Added {
                        content,
                        special,
                        normalized,
                    },
                );
            }
        }
        if let Some(object) = tokenizer["added_tokens_decoder"].as_object() {
            let path = dir.join("tokenizer_config.json");
            for (id, token) in object {
                let bad = |what| Error::file(&path, format!("added_tokens_decoder: '{id}' {what}"));
                let number = id.parse().map_err(|_| bad("is no id".into()))?;
                added.insert(number, added_token(token).map_err(bad)?);
            }
        }
        Ok(Roles {
            tokenizer,
            map: optional("special_tokens_map.json")?,
            config: config.clone(),
            added,
        })
    }

    /// The name that the files give a role.
    pub fn name(&self, role: &str) -> Option<&str> {
        let named = |file: &Value| {
            let value = file.get(role);
            value.is_some_and(|value| value.is_string() || value.is_object())
        };
        // The older map counts unless tokenizer_config.json is of the newer kind, as in the
        // reference.
        let newer = self.tokenizer.get("added_tokens_decoder").is_some();
        let map_first = named(&self.map) && !newer;
        let file = match !map_first && named(&self.tokenizer) {
            true => &self.tokenizer,
            false => &self.map,
        };
        let value = file.get(role)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    /// The names of all special tokens, in the reference's order.
    pub fn special(&self) -> impl Iterator<Item = &str> {
        let more = [&self.tokenizer, &self.map]
            .into_iter()
            .filter_map(|file| file.get("additional_special_tokens")?.as_array())
            .flatten()
            .filter_map(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        SPECIAL
            .iter()
            .filter_map(|role| self.name(role))
            .chain(more)
    }

    /// The id that config.json gives a role, if the vocabulary has it.
    pub fn configured(&self, role: &str, n: usize) -> Option<u32> {
        let value = self.config.get(format!("{role}_id"))?;
        let value = value
            .as_array()
            .and_then(|list| list.first())
            .unwrap_or(value);
        let id = u32::try_from(value.as_u64()?).ok()?;
        ((id as usize) < n).then_some(id)
    }

    /// An option of tokenizer_config.json.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.tokenizer.get(name)?.as_bool()
    }

    /// A number of tokenizer_config.json.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.tokenizer.get(name)?.as_u64()
    }

    /// The tokenizer's class, if it is named.
    pub fn class(&self) -> Option<&str> {
        self.tokenizer.get("tokenizer_class")?.as_str()
    }

    /// The ids of the roles by their keys: as `find` knows the names the files give, else as
    /// config.json has it, else `fallback` of the role.
    pub fn ids(
        &self,
        n: usize,
        find: impl Fn(&str) -> Option<u32>,
        fallback: impl Fn(&str) -> Option<u32>,
    ) -> Vec<(&'static str, u32)> {
        ROLES
            .iter()
            .filter_map(|&(role, key)| {
                let named = self.name(role).and_then(&find);
                let id = named
                    .or_else(|| self.configured(role, n))
                    .or_else(|| fallback(role))?;
                Some((key, id))
            })
            .collect()
    }
}

/// Whether the tokenizer's class is one that only has a tokenizer.json.
pub(super) fn is_fast(dir: &Path) -> Result<bool, Error> {
    let path = dir.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(false);
    }
    let config = json_file(&path)?;
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    Ok(class.is_some_and(|class| class.ends_with("Fast")))
}

/// One token of `added_tokens` or `added_tokens_decoder`.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn added_token(token: &Value) -> Result<Added, String> {
    let flag = |name: &str| token.get(name).and_then(Value::as_bool);
    let content = token.get("content").and_then(Value::as_str);
    let content = content.ok_or("has no content")?.to_string();
    let special = flag("special").unwrap_or(false);
    for name in ["lstrip", "rstrip", "single_word"] {
        if flag(name) == Some(true) && !special {
            return Err(format!("('{content}') has {name}, which is not supported"));
        }
    }
    Ok(Added {
        content,
        special,
        normalized: flag("normalized").unwrap_or(!special),
    })
}
