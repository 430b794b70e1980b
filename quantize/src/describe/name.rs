//! The model's name, its parts, and the file's default name.
//!
//! The parts and their order are those of the GGUF naming convention (ggml repository,
//! `docs/gguf.md`): base name, size, fine-tune, version, encoding, joined by hyphens.

use std::path::Path;

use katari_gguf::{Metadata, keys};

use super::Card;
use crate::plan::FileType;

/// A model's name and its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// As published.
    pub full: String,
    base: String,
    size: String,
    finetune: Option<String>,
    version: Option<String>,
    organization: Option<String>,
}

impl Name {
    /// From what the card says, or the folder that the checkpoint is in. A card's title counts
    /// where it is a name and no phrase.
    pub fn new(dir: &Path, card: &Card, n_parameters: u64) -> Self {
        let (organization, folder) = folder_name(dir);
        let title = card.title.as_deref().filter(|t| is_name(t));
        let full = card.first(&["model_name"]).or(title);
        let full = full.map_or(folder, str::to_string);
        Name {
            organization,
            ..Name::of(full, n_parameters)
        }
    }

    fn of(full: String, n_parameters: u64) -> Self {
        let parts: Vec<&str> = full
            .split(['-', ' ', '/', '\\', ':'])
            .filter(|p| !p.is_empty())
            .collect();
        // The size in the name, if it is about the model's.
        let found = parts.iter().enumerate().skip(1).find(|(_, part)| {
            parse_size(part).is_some_and(|size| {
                let ratio = size / n_parameters.max(1) as f64;
                (0.75..1.34).contains(&ratio)
            })
        });
        let (base, size, rest) = match found {
            Some((i, part)) => (&parts[..i], part.to_uppercase(), &parts[i + 1..]),
            None => (&parts[..], size_label(n_parameters), &parts[..0]),
        };
        let is_version = |part: &&str| {
            part.strip_prefix(['v', 'V'])
                .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
        };
        let version = rest.last().filter(|part| is_version(part));
        let finetune = &rest[..rest.len() - usize::from(version.is_some())];
        Name {
            base: base.join("-"),
            size,
            finetune: (!finetune.is_empty()).then(|| finetune.join("-")),
            version: version.map(|v| v.to_string()),
            organization: None,
            full,
        }
    }

    /// The file's name where none is asked for.
    pub fn file_name(&self, file_type: FileType) -> String {
        let encoding = file_type.name().to_uppercase();
        let parts = [
            Some(&self.base),
            Some(&self.size),
            self.finetune.as_ref(),
            self.version.as_ref(),
            Some(&encoding),
        ];
        let name = parts
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("-");
        format!("{name}.gguf")
    }

    /// Writes the `general.*` keys of the name.
    pub fn write(&self, metadata: &mut Metadata) {
        metadata.set(keys::general::NAME, self.full.as_str());
        metadata.set(keys::general::BASENAME, self.base.as_str());
        metadata.set(keys::general::SIZE_LABEL, self.size.as_str());
        for (key, value) in [
            (keys::general::FINETUNE, &self.finetune),
            (keys::general::VERSION, &self.version),
            (keys::general::ORGANIZATION, &self.organization),
        ] {
            if let Some(value) = value {
                metadata.set(key, value.as_str());
            }
        }
    }
}

/// Whether a title is a model's name as published: several parts, no spaces, nothing that a file
/// name cannot hold.
fn is_name(title: &str) -> bool {
    title.contains('-')
        && title
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The organization, where the path tells, and the folder's name. In Hugging Face's cache the
/// folder is `models--ORGANIZATION--NAME/snapshots/REVISION`.
fn folder_name(dir: &Path) -> (Option<String>, String) {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name_of = |path: Option<&Path>| {
        path.and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    if name_of(dir.parent()) == "snapshots" {
        let repository = name_of(dir.parent().and_then(Path::parent));
        let mut parts = repository.splitn(3, "--");
        if let (Some("models"), Some(organization), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        {
            return (Some(organization.to_string()), name.to_string());
        }
    }
    let name = name_of(Some(&dir));
    let name = if name.is_empty() {
        "model".to_string()
    } else {
        name
    };
    (None, name)
}

/// `3.6b` -> 3.6e9.
fn parse_size(part: &str) -> Option<f64> {
    let unit = match part.chars().last()?.to_ascii_lowercase() {
        'k' => 1e3,
        'm' => 1e6,
        'b' => 1e9,
        't' => 1e12,
        _ => return None,
    };
    let number = part.get(..part.len() - 1)?;
    let is_number =
        number.starts_with(|c: char| c.is_ascii_digit()) && !number.contains(['e', 'E']);
    let number: f64 = number.parse().ok()?;
    is_number.then_some(number * unit)
}

/// `6053381344` -> `6.1B`: two digits at least, as llama.cpp's converter writes it.
fn size_label(n: u64) -> String {
    let n = n as f64;
    let (scaled, unit) = match n {
        n if n > 1e12 => (n * 1e-12, 'T'),
        n if n > 1e9 => (n * 1e-9, 'B'),
        n if n > 1e6 => (n * 1e-6, 'M'),
        n => (n * 1e-3, 'K'),
    };
    let decimals = match scaled.round() as u64 {
        0 => 2,
        1..=9 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_names_become_file_names_of_the_convention() {
        for (full, n, expected) in [
            ("genji-jp", 6_053_381_344, "genji-jp-6.1B-Q4_K_M.gguf"),
            (
                "japanese-gpt-neox-3.6b",
                3_607_000_000,
                "japanese-gpt-neox-3.6B-Q4_K_M.gguf",
            ),
            (
                "japanese-gpt-neox-3.6b-instruction-sft-v2",
                3_607_000_000,
                "japanese-gpt-neox-3.6B-instruction-sft-v2-Q4_K_M.gguf",
            ),
            (
                "gpt-neox-japanese-2.7b",
                2_680_000_000,
                "gpt-neox-japanese-2.7B-Q4_K_M.gguf",
            ),
            (
                "japanese-gpt-1b",
                1_300_000_000,
                "japanese-gpt-1B-Q4_K_M.gguf",
            ),
            ("katari-demo", 7_800_000, "katari-demo-7.8M-Q4_K_M.gguf"),
        ] {
            let name = Name::of(full.to_string(), n);
            assert_eq!(name.file_name(FileType::Q4_K_M), expected);
        }
    }

    #[test]
    fn size_in_the_name_that_is_not_the_models_is_part_of_the_name() {
        let name = Name::of("tiny-3.6b".to_string(), 300_000);
        assert_eq!(name.file_name(FileType::F16), "tiny-3.6b-300K-F16.gguf");
    }

    #[test]
    fn cache_folder_tells_organization_and_name() {
        let dir = Path::new("/hub/models--rinna--japanese-gpt-1b/snapshots/0123abc");
        assert_eq!(
            folder_name(dir),
            (Some("rinna".to_string()), "japanese-gpt-1b".to_string())
        );
    }
}
