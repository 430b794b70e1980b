//! `*.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use crate::Error;

/// Shard file name -> the tensors it holds, both sorted.
pub fn parse(path: &Path, json: &Value) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| Error::file(path, "has no object 'weight_map'"))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in map {
        let shard = shard.as_str().ok_or_else(|| {
            Error::tensor(
                path,
                tensor,
                format!("its shard is {shard}, expected a file name"),
            )
        })?;
        if !is_plain_file_name(shard) {
            return Err(Error::tensor(
                path,
                tensor,
                format!("its shard '{shard}' is no plain file name; shards lie beside the index"),
            ));
        }
        shards
            .entry(shard.to_string())
            .or_default()
            .push(tensor.clone());
    }
    if shards.is_empty() {
        return Err(Error::file(path, "names no shards"));
    }
    Ok(shards)
}

/// Whether `name` stays in its folder: one normal component, with no other system's separators.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
        let json: Value = serde_json::from_str(text).expect("test JSON");
        parse(Path::new("index.json"), &json).map_err(|e| e.to_string())
    }

    #[test]
    fn shard_outside_the_folder_is_refused() {
        for name in ["../up", "/etc/passwd", "a/b", "..", "a\\\\b", "C:x", ""] {
            let text = format!(r#"{{"weight_map":{{"t":"{name}"}}}}"#);
            let message = parse_text(&text).expect_err(name);
            assert!(message.contains("'t'"), "{message}");
        }
    }

    #[test]
    fn tensors_are_grouped_by_shard() {
        let shards = parse_text(r#"{"weight_map":{"a":"x.bin","b":"y.bin","c":"x.bin"}}"#)
            .expect("a good index");
        assert_eq!(shards["x.bin"], ["a", "c"]);
        assert_eq!(shards["y.bin"], ["b"]);
    }
}
