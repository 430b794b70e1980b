//! What the protocols share: reading a body, finding the model, asking for texts.

use std::sync::Arc;

use axum::body::Body;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;

use super::answer::Answers;
use super::fields::Draft;
use super::model::Model;
use super::refusal::Refusal;
use super::state::Server;
use super::values::{self, Object, wrong};
use super::worker::Drawn;
use crate::schedule::Finish;
use crate::text::Message;

/// JSON values of a body: room for a prompt of tokens, or for a conversation of years. A value
/// takes some hundred bytes, whatever the text took.
const MAX_VALUES: usize = 1 << 18;

/// Reads a body as a JSON object, within the server's limits, and makes of it what `make` does.
/// An empty body is an empty object. What kind of content its header says does not matter:
/// clients write all sorts.
///
/// # Errors
/// Those of `make`; or there is no model yet, or the body is not what it should be.
pub async fn read<T>(
    server: &Server,
    body: Body,
    make: impl FnOnce(&Arc<Model>, Object) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    read_if(server, body, || Ok(()), make).await
}

/// As [`read`], for texts: nothing is made of a JSON object while the queue is full.
///
/// # Errors
/// As [`read`]; or there is no place for a text.
pub async fn read_to_write<T>(
    server: &Server,
    body: Body,
    make: impl FnOnce(&Arc<Model>, Object) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let has_room = || match server.worker()?.has_room(1) {
        true => Ok(()),
        false => Err(Refusal::Busy),
    };
    read_if(server, body, has_room, make).await
}

async fn read_if<T>(
    server: &Server,
    body: Body,
    check: impl FnOnce() -> Result<(), Refusal>,
    make: impl FnOnce(&Arc<Model>, Object) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let received = tokio::time::timeout(server.limits.body_time, receive(server, body)).await;
    let (bytes, _held) = received.map_err(|_| Refusal::TooSlow)??;
    let model = server.model()?;
    let work = || {
        let object = parse(&bytes)?;
        check()?;
        make(model, object)
    };
    server.apart(work).await
}

/// The bytes of a body, and their share of what all may take.
async fn receive(
    server: &Server,
    body: Body,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), Refusal> {
    let max = server.limits.max_body;
    let mut parts = body.into_data_stream();
    let (mut bytes, mut held) = (Vec::new(), None::<SemaphorePermit<'_>>);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| {
            Refusal::Invalid("the body broke off, or is not framed as HTTP has it".into())
        })?;
        if part.len() > max - bytes.len() {
            return Err(Refusal::TooLarge(max));
        }
        let n = u32::try_from(part.len()).map_err(|_| Refusal::TooLarge(max))?;
        let share = server.bodies.try_acquire_many(n);
        let share = share.map_err(|_| Refusal::Busy)?;
        match &mut held {
            Some(held) => held.merge(share),
            None => held = Some(share),
        }
        bytes.extend_from_slice(&part);
    }
    Ok((bytes, held))
}

fn parse(bytes: &[u8]) -> Result<Object, Refusal> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Object::new());
    }
    let n = most_values(bytes);
    if n > MAX_VALUES {
        return Err(Refusal::Invalid(format!(
            "the body has up to {n} JSON values, expected at most {MAX_VALUES}"
        )));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::Invalid(
            "the body is JSON, but no object (expected {...})".into(),
        )),
        Err(error) => Err(Refusal::Invalid(format!("the body is no JSON: {error}"))),
    }
}

/// No fewer than there are JSON values in `bytes`: what is opened, and what a comma follows.
fn most_values(bytes: &[u8]) -> usize {
    let (mut n, mut in_string, mut escaped) = (1, false, false);
    for &byte in bytes {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b',' | b'[' | b'{') => n += 1,
            _ => {}
        }
    }
    n
}

/// The text in `name`; nothing where it is null or absent.
pub fn text<'a>(body: &'a Object, name: &str) -> Result<Option<&'a str>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(name, other, "a string")),
    }
}

/// Whether `name` says so; not where it is null or absent.
pub fn flag(body: &Object, name: &str) -> Result<bool, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => values::flag(value).map_err(|expected| wrong(name, value, expected)),
    }
}

/// A prompt before it is cut to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Tokens.
    Ids(Vec<u32>),
}

impl Prompt {
    /// The prompts in `value`: text, tokens, or a list of either.
    pub fn read(value: Option<&Value>) -> Result<Vec<Prompt>, Refusal> {
        const EXPECTED: &str = "a string, token ids, or a list of either";
        const MAX: usize = 64;
        let value = match value {
            None | Some(Value::Null) => return Ok(vec![Prompt::Text(String::new())]),
            Some(value) => value,
        };
        let one = |value: &Value| match value {
            Value::String(text) => Some(Prompt::Text(text.clone())),
            Value::Array(ids) => (ids.iter())
                .map(values::id)
                .collect::<Option<_>>()
                .map(Prompt::Ids),
            _ => None,
        };
        let list = match value {
            Value::Array(list) if !list.first().is_some_and(Value::is_number) => {
                list.iter().map(one).collect()
            }
            value => one(value).map(|prompt| vec![prompt]),
        };
        let list: Vec<Prompt> = list.ok_or_else(|| wrong("prompt", value, EXPECTED))?;
        match list.len() {
            0 => Ok(vec![Prompt::Text(String::new())]),
            1..=MAX => Ok(list),
            n => Err(Refusal::Invalid(format!(
                "prompt: found {n}, expected at most {MAX}"
            ))),
        }
    }

    /// Its tokens.
    pub fn ids(self, model: &Model) -> Result<Vec<u32>, Refusal> {
        match self {
            Prompt::Text(text) => model.prompt_ids(&text),
            Prompt::Ids(ids) if ids.is_empty() => model.prompt_ids(""),
            Prompt::Ids(ids) => match ids.iter().find(|&&id| id as usize >= model.n_vocab) {
                Some(id) => Err(Refusal::Invalid(format!(
                    "prompt: found the token id {id}, expected ids below {}",
                    model.n_vocab
                ))),
                None => Ok(ids),
            },
        }
    }
}

/// The conversation in `messages`; a message's content is text or a list of parts, of which
/// texts count.
pub fn messages(body: &Object) -> Result<Vec<Message>, Refusal> {
    const EXPECTED: &str = "a list of {\"role\": ..., \"content\": ...}";
    let value = body.get("messages").unwrap_or(&Value::Null);
    let list = value.as_array();
    let list = list.ok_or_else(|| wrong("messages", value, EXPECTED))?;
    let one = |value: &Value| {
        let role = value.get("role")?.as_str()?.to_string();
        let content = match value.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => (parts.iter())
                .filter_map(|part| part.get("text")?.as_str())
                .collect(),
            Some(_) => return None,
        };
        Some(Message { role, content })
    };
    (list.iter())
        .map(|message| one(message).ok_or_else(|| wrong("messages", message, EXPECTED)))
        .collect()
}

/// Texts that were asked for.
pub struct Asked {
    /// Their news.
    pub answers: Answers,
    /// The seed of the first.
    pub seed: u64,
    /// How many there are.
    pub n: usize,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Whether a prompt was cut.
    pub truncated: bool,
}

/// Asks for the texts of `prompts`, `draft.n` of each. `kept`: how many first tokens of a
/// prompt that is too long stay. `key`: that of [`Running`](super::running::Running).
pub fn ask(
    server: &Server,
    draft: &Draft<'_>,
    prompts: Vec<Vec<u32>>,
    kept: usize,
    key: Option<&str>,
) -> Result<Asked, Refusal> {
    let worker = server.worker()?;
    let n = prompts.len().saturating_mul(draft.n);
    if n > worker.n_places {
        return Err(Refusal::Invalid(format!(
            "found {n} texts asked for at once, expected at most {} (see --slots and --queue)",
            worker.n_places
        )));
    }
    if !worker.has_room(n) {
        return Err(Refusal::Busy);
    }
    let mut requests = Vec::new();
    let (mut first_seed, mut prompt_tokens, mut truncated) = (None, 0, false);
    for mut prompt in prompts {
        truncated |= draft.fit(&mut prompt, kept);
        prompt_tokens += prompt.len();
        let (more, seed) = draft.requests(prompt)?;
        first_seed.get_or_insert(seed);
        requests.extend(more);
    }
    let n = requests.len();
    let watched = key.map(|key| server.running.enter(key));
    let news = worker.submit(requests)?;
    Ok(Asked {
        answers: Answers::new(news, n, watched),
        seed: first_seed.unwrap_or(0),
        n,
        prompt_tokens,
        truncated,
    })
}

/// How likely `tokens` were and what else was, as llama.cpp and OpenAI's chats tell it.
pub fn probabilities(model: &Model, tokens: &[Drawn]) -> Vec<Value> {
    let one = |id: u32, logprob: f32| {
        // A token may be part of a character: the bytes of several make it.
        let (text, bytes) = (
            model.tokenizer.token_text(id),
            model.tokenizer.token_bytes(id),
        );
        json!({"id": id, "token": text, "bytes": bytes, "logprob": logprob})
    };
    (tokens.iter())
        .filter_map(|token| {
            let logprobs = token.logprobs.as_ref()?;
            let mut entry = one(token.id, logprobs.drawn);
            let top = logprobs.top.iter().map(|&(id, logprob)| one(id, logprob));
            entry["top_logprobs"] = top.collect();
            Some(entry)
        })
        .collect()
}

/// Why a text ended, as `stop` or `length`, which is all that most protocols know.
pub fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop(_) | Finish::Cancelled => "stop",
        Finish::Length | Finish::Context | Finish::NothingToDraw => "length",
        // Answered as an error.
        Finish::ConstraintFailed(_) => "error",
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |t| t.as_secs())
}

/// A name that no other answer has: a count after the time the server began.
pub fn unique(server: &Server, prefix: &str) -> String {
    format!("{prefix}-{:x}-{:x}", server.began, server.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (body, least) in [
            ("{}", 1),
            ("[0,0,0]", 4),
            (r#"{"a": ",,[[{{", "b": "\",,"}"#, 3),
            (r#"[{"":0},{"":0}]"#, 5),
        ] {
            let n = most_values(body.as_bytes());
            assert!((least..=least + 1).contains(&n), "{body}: {n}");
        }
        let many = format!("{{\"a\":[{}]}}", vec!["0"; MAX_VALUES].join(","));
        assert!(matches!(parse(many.as_bytes()), Err(Refusal::Invalid(_))));
        let text = format!("{{\"a\":\"{}\"}}", ",".repeat(2 * MAX_VALUES));
        assert!(parse(text.as_bytes()).is_ok());
    }
}
