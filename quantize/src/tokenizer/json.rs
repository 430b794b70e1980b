//! tokenizer.json, the format of the `tokenizers` library: byte-level BPE, and unigram models
//! with the steps that published Japanese tokenizers use. What is not supported is refused by
//! its name in the file.

use std::path::Path;

use katari_gguf::keys::{katari, token_type, tokenizer as keys};
use serde_json::Value;

use super::byte_bpe::ByteBpe;
use super::list::{Kind, TokenList};
use super::roles::{Added, Roles, added_token};
use super::{Entries, json_file};
use crate::Error;

/// A component without a type.
const NONE: &str = "none";

/// A tokenizer.json as metadata.
pub(super) fn read(path: &Path, roles: &Roles, rows: usize) -> Result<Entries, Error> {
    let json = json_file(path)?;
    let file = File { path, json: &json };
    let mut added = Vec::new();
    for token in json["added_tokens"].as_array().unwrap_or(&Vec::new()) {
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| file.fault("an added token has no id"))?;
        let token = added_token(token).map_err(|m| file.fault(format!("added token {id} {m}")))?;
        added.push((id, token));
    }
    added.sort_by_key(|&(id, _)| id);
    match json["model"]["type"].as_str() {
        Some("BPE") => file.byte_bpe(&added, roles, rows),
        Some("Unigram") => file.unigram(&added, roles, rows),
        // Files of older versions do not name the type.
        None if json["model"]["merges"].is_array() => file.byte_bpe(&added, roles, rows),
        other => Err(file.fault(format!(
            "the model type '{}' is not supported (expected BPE or Unigram)",
            other.unwrap_or(NONE)
        ))),
    }
}

struct File<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl File<'_> {
    fn fault(&self, message: impl Into<String>) -> Error {
        Error::file(self.path, message)
    }

    fn unsupported(&self, what: &str, found: &Value, expected: &str) -> Error {
        let found = match found {
            Value::Null => NONE.to_string(),
            value => match value["type"].as_str() {
                Some(kind) => kind.to_string(),
                None => value.to_string(),
            },
        };
        self.fault(format!(
            "the {what} '{found}' is not supported (expected {expected})"
        ))
    }

    fn byte_bpe(
        &self,
        added: &[(u32, Added)],
        roles: &Roles,
        rows: usize,
    ) -> Result<Entries, Error> {
        let model = &self.json["model"];
        let zero = |value: &Value| value.is_null() || value.as_f64() == Some(0.0);
        if !zero(&model["dropout"]) {
            return Err(self.unsupported("dropout", &model["dropout"], "none"));
        }
        for option in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if !matches!(model[option].as_str(), None | Some("")) {
                return Err(self.unsupported(option, &model[option], "none"));
            }
        }
        if model["byte_fallback"].as_bool() == Some(true) {
            return Err(self.fault(
                "a BPE with byte_fallback is not supported in this form; put the tokenizer.model it was made from beside it",
            ));
        }
        let byte_level = one(&self.json["pre_tokenizer"], "pretokenizers");
        if byte_level["type"] != "ByteLevel" {
            return Err(self.unsupported("pre-tokenizer", byte_level, "ByteLevel"));
        }
        let decoder = one(&self.json["decoder"], "decoders");
        if decoder["type"] != "ByteLevel" {
            return Err(self.unsupported("decoder", decoder, "ByteLevel"));
        }
        let normalizer = self.normalizer()?;
        let mut list = TokenList::from_vocab(self.path, &model["vocab"])?;
        if let Some(id) = model["unk_token"].as_str().and_then(|unk| list.find(unk)) {
            list.set_type(id, token_type::UNKNOWN);
        }
        list.add(self.path, added.iter().map(|(id, t)| (*id, t)), rows)?;
        list.add_special(roles, true, rows);
        let bpe = ByteBpe {
            // llama.cpp knows the tokenizer of GPT-NeoX by the model it saw it in first.
            pre: if normalizer.is_empty() {
                "gpt-2"
            } else {
                "olmo"
            },
            merges: self.merges()?,
            add_prefix_space: byte_level["add_prefix_space"].as_bool().unwrap_or(true),
            ignore_merges: model["ignore_merges"].as_bool().unwrap_or(false),
            words: byte_level["use_regex"].as_bool().unwrap_or(true),
            normalizer,
        };
        bpe.finish(self.path, list, rows, roles)
    }

    /// The merges, each `"left right"` or `["left", "right"]`.
    fn merges(&self) -> Result<Vec<(String, String)>, Error> {
        let merges = self.json["model"]["merges"].as_array();
        let merges = merges.ok_or_else(|| self.fault("the model has no list of merges"))?;
        merges
            .iter()
            .enumerate()
            .map(|(rank, merge)| {
                let pair = match merge {
                    Value::String(line) => line.split_once(' '),
                    merge => merge[0].as_str().zip(merge[1].as_str()),
                };
                let bad = || self.fault(format!("merge {rank}: {merge} is no pair of pieces"));
                let (left, right) = pair.ok_or_else(bad)?;
                Ok((left.to_string(), right.to_string()))
            })
            .collect()
    }

    /// The normaliser as steps: names and arguments.
    fn normalizer(&self) -> Result<Vec<String>, Error> {
        let root = &self.json["normalizer"];
        let single = [root.clone()];
        let parts = match root["type"].as_str() {
            Some("Sequence") => root["normalizers"].as_array().map(Vec::as_slice),
            _ if root.is_null() => Some(&[][..]),
            _ => Some(&single[..]),
        };
        let mut steps = Vec::new();
        for part in parts.unwrap_or_default() {
            let step = match part["type"].as_str() {
                Some("NFC") => Some(vec!["nfc".to_string()]),
                Some("NFKC") => Some(vec!["nfkc".to_string()]),
                Some("Prepend") => part["prepend"]
                    .as_str()
                    .map(|prefix| vec!["prepend".into(), prefix.into()]),
                Some("Replace") => replace(part),
                _ => None,
            };
            steps.extend(step.ok_or_else(|| {
                let shown = match part["pattern"].is_object() {
                    true => Value::from(format!("Replace {}", part["pattern"])),
                    false => part.clone(),
                };
                self.unsupported(
                    "normalizer",
                    &shown,
                    "NFC, NFKC, Prepend, or Replace of a plain string or of a line's beginning",
                )
            })?);
        }
        Ok(steps)
    }

    fn unigram(
        &self,
        added: &[(u32, Added)],
        roles: &Roles,
        rows: usize,
    ) -> Result<Entries, Error> {
        let model = &self.json["model"];
        let fallback = model["byte_fallback"].as_bool().unwrap_or(false);
        let unk = model["unk_id"].as_u64();
        let unk = unk.ok_or_else(|| self.fault("the unigram model names no unknown token"))?;
        let pieces = model["vocab"].as_array();
        let pieces = pieces.ok_or_else(|| self.fault("the unigram model has no vocabulary"))?;
        let mut list = TokenList::default();
        let mut scores = Vec::with_capacity(rows);
        for (id, piece) in pieces.iter().enumerate() {
            let (Some(name), Some(score)) = (piece[0].as_str(), piece[1].as_f64()) else {
                return Err(self.fault(format!("piece {id} is no pair of a name and a score")));
            };
            let kind = match is_byte(name) && fallback {
                _ if id as u64 == unk => token_type::UNKNOWN,
                true => token_type::BYTE,
                false => token_type::NORMAL,
            };
            list.push(name, kind, score as f32);
            scores.push(score);
        }
        let unknown = u32::try_from(unk)
            .ok()
            .filter(|&id| (id as usize) < list.len());
        let unknown = unknown.ok_or_else(|| {
            self.fault(format!(
                "the unknown token's id {unk} is outside the vocabulary"
            ))
        })?;
        list.add(self.path, added.iter().map(|(id, t)| (*id, t)), rows)?;
        list.add_special(roles, true, rows);
        // The model's own unknown token stays that, whatever role the files give it.
        list.set_type(unknown, token_type::UNKNOWN);

        let steps = self.normalizer()?;
        let mut more: Entries = vec![
            (keys::PRE.into(), "default".into()),
            (katari::TOKENIZER_METASPACE.into(), self.metaspace()?.into()),
            (katari::TOKENIZER_BYTE_FALLBACK.into(), fallback.into()),
        ];
        if !steps.is_empty() {
            more.push((katari::TOKENIZER_NORMALIZER.into(), steps.into()));
        }
        if scores.iter().any(|&score| f64::from(score as f32) != score) {
            scores.resize(rows.max(scores.len()), 0.0);
            more.push((katari::TOKENIZER_SCORES.into(), scores.into()));
        }
        let kind = Kind {
            model: "t5",
            more,
            scored: true,
        };
        list.finish(kind, self.path, rows, roles, |role| {
            (role == "unk_token").then_some(unknown)
        })
    }

    /// How spaces are treated, as the three words of the metadata key.
    fn metaspace(&self) -> Result<String, Error> {
        let pre = one(&self.json["pre_tokenizer"], "pretokenizers");
        let spaces = match pre["type"].as_str() {
            None if pre.is_null() => "none whole".to_string(),
            Some("Metaspace") if pre["replacement"] == "\u{2581}" => {
                let split = match pre["split"].as_bool() {
                    Some(false) => "whole",
                    _ => "split",
                };
                format!("{} {split}", prepend(pre))
            }
            _ => {
                return Err(self.unsupported("pre-tokenizer", pre, "Metaspace with ▁, or none"));
            }
        };
        Ok(format!("{spaces} {}", self.first_space()?))
    }

    /// Which space a decoded text loses.
    fn first_space(&self) -> Result<&'static str, Error> {
        let root = &self.json["decoder"];
        let single = [root.clone()];
        let parts: &[Value] = match root["type"].as_str() {
            Some("Sequence") => root["decoders"].as_array().map_or(&[], Vec::as_slice),
            _ => &single,
        };
        let unsupported = |part: &Value| {
            self.unsupported(
                "decoder",
                part,
                "Metaspace, or ByteFallback, Replace of ▁ by a space, Fuse and Strip",
            )
        };
        let (mut rule, mut spaces) = ("keep", false);
        // A space that is put after each line break goes again at each line's beginning, but for
        // the first line's own.
        let mut lines = false;
        for part in parts {
            match part["type"].as_str() {
                Some("ByteFallback" | "Fuse") => {}
                Some("Metaspace") if part["replacement"] == "\u{2581}" => {
                    spaces = true;
                    rule = if prepend(part) == "never" {
                        "keep"
                    } else {
                        "token"
                    };
                }
                Some("Replace") => match (pattern(part), part["content"].as_str()) {
                    (Some("\u{2581}"), Some(" ")) => spaces = true,
                    (Some("\n" | r"\n"), Some("\n ")) => lines = true,
                    (Some("^ "), Some("")) if lines => rule = "text",
                    (Some(r"(?<!\n)^ "), Some("")) => rule = "text",
                    _ => return Err(unsupported(part)),
                },
                Some("Strip")
                    if part["content"] == " " && part["start"] == 1 && part["stop"] == 0 =>
                {
                    rule = "text";
                }
                _ => return Err(unsupported(part)),
            }
        }
        match spaces {
            true => Ok(rule),
            false => Err(unsupported(root)),
        }
    }
}

/// The only member of a sequence of one, else the component itself.
fn one<'a>(component: &'a Value, members: &str) -> &'a Value {
    match component[members].as_array().map(Vec::as_slice) {
        Some([only]) if component["type"] == "Sequence" => only,
        _ => component,
    }
}

/// A Metaspace's rule for the first space, of old files (`add_prefix_space`) and new ones.
fn prepend(metaspace: &Value) -> &str {
    match metaspace["prepend_scheme"].as_str() {
        Some(scheme) => scheme,
        None if metaspace["add_prefix_space"] == false => "never",
        None => "always",
    }
}

/// What a Replace looks for.
fn pattern(part: &Value) -> Option<&str> {
    let pattern = &part["pattern"];
    pattern["String"].as_str().or(pattern["Regex"].as_str())
}

/// A Replace as a step: of a plain string, or an insertion where a text or a line begins. (`^`
/// is every line's beginning in the reference's regular expressions.)
fn replace(part: &Value) -> Option<Vec<String>> {
    let content = part["content"].as_str()?.to_string();
    if let Some(plain) = part["pattern"]["String"].as_str() {
        let plain = Some(plain).filter(|plain| !plain.is_empty())?;
        return Some(vec!["replace".into(), plain.into(), content]);
    }
    match part["pattern"]["Regex"].as_str()? {
        r"(?<!\n)^" => Some(vec!["prepend".into(), content]),
        "^" => Some(vec!["prepend-lines".into(), content]),
        regex => {
            let plain = regex.replace(r"\n", "\n");
            let meta = |c: char| r"\.+*?()|[]{}^$".contains(c);
            let plain = Some(plain).filter(|plain| !plain.is_empty() && !plain.contains(meta))?;
            Some(vec!["replace".into(), plain, content])
        }
    }
}

/// Whether a piece is named as a byte is: `<0xE3>`.
fn is_byte(name: &str) -> bool {
    let digits = name.strip_prefix("<0x").and_then(|n| n.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}
