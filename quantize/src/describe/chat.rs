//! Chat templates: the checkpoint's own, or those of cards that describe one in words.

use std::path::Path;

use serde_json::Value;

use super::Known;
use crate::Error;
use crate::checkpoint::{read_json, read_text};

/// The templates that a card describes in words, by the name that `--chat-template` takes.
const NAMED: [(&str, &str); 1] = [("rinna", RINNA)];

/// rinna's instruction models: turns `ユーザー: ...` and `システム: ...` joined by `<NL>`, which
/// also stands for the newlines inside a turn. The format knows no instructions outside a turn;
/// a system message goes first as a turn without a speaker.
const RINNA: &str = "\
{%- for message in messages -%}\
{%- if message['role'] == 'user' -%}{{- 'ユーザー: ' -}}\
{%- elif message['role'] == 'assistant' -%}{{- 'システム: ' -}}\
{%- endif -%}\
{{- message['content'] | replace('\\n', '<NL>') -}}\
{%- if not loop.last -%}{{- '<NL>' -}}{%- endif -%}\
{%- endfor -%}\
{%- if add_generation_prompt -%}{{- '<NL>システム: ' -}}{%- endif -%}";

/// The template to write: the one asked for, else the checkpoint's own, else the known card's.
///
/// # Errors
/// Where a file that is asked for cannot be read, or the checkpoint's is damaged.
pub fn template(
    asked: Option<&str>,
    dirs: &[&Path],
    known: Option<&Known>,
) -> Result<Option<String>, Error> {
    match asked {
        Some("none") => return Ok(None),
        Some(name) => {
            if let Some(template) = named(name) {
                return Ok(Some(template.to_string()));
            }
            let path = Path::new(name);
            if !path.exists() {
                return Err(Error::Usage(format!(
                    "--chat-template {name}: neither a file nor a known name (rinna, none)"
                )));
            }
            return read_text(path).map(Some);
        }
        None => {}
    }
    for dir in dirs {
        if let Some(template) = own(dir)? {
            return Ok(Some(template));
        }
    }
    Ok(known
        .and_then(|known| known.chat)
        .and_then(named)
        .map(str::to_string))
}

fn named(name: &str) -> Option<&'static str> {
    NAMED
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, template)| *template)
}

/// chat_template.jinja, or `chat_template` in tokenizer_config.json: a string, or a list of
/// named ones of which `default` counts.
fn own(dir: &Path) -> Result<Option<String>, Error> {
    let jinja = dir.join("chat_template.jinja");
    if jinja.exists() {
        return read_text(&jinja).map(Some);
    }
    let path = dir.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let config = read_json(&path)?;
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(templates)) => Ok(templates
            .iter()
            .find(|t| t.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|t| t.get("template").and_then(Value::as_str))
            .map(str::to_string)),
        Some(_) => Err(Error::file(
            &path,
            "'chat_template' is neither a string nor a list of named ones",
        )),
    }
}
