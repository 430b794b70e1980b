//! What the protocols share: reading a body, finding the model, asking for texts.

use axum::body::{Body, to_bytes};
use serde_json::Value;

use super::answer::Answers;
use super::fields::{Draft, Object, wrong};
use super::model::Model;
use super::refusal::Refusal;
use super::state::Server;
use crate::schedule::Finish;
use crate::text::Message;

/// Reads a body as a JSON object, within the server's limits. An empty body is an empty object.
/// What kind of content its header says does not matter: clients write all sorts.
pub async fn object(server: &Server, body: Body) -> Result<Object, Refusal> {
    let max = server.limits.max_body;
    let bytes = tokio::time::timeout(server.limits.body_time, to_bytes(body, max)).await;
    let bytes = bytes
        .map_err(|_| Refusal::TooSlow)?
        .map_err(|_| Refusal::TooLarge(max))?;
    if bytes.trim_ascii().is_empty() {
        return Ok(Object::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::Invalid(
            "the body is JSON, but no object (expected {...})".into(),
        )),
        Err(error) => Err(Refusal::Invalid(format!("the body is no JSON: {error}"))),
    }
}

/// The text in `name`; nothing where it is null or absent.
pub fn text<'a>(body: &'a Object, name: &str) -> Result<Option<&'a str>, Refusal> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong(name, other, "a string")),
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
                .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
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
    // Before anything is made of them.
    if !worker.has_room(prompts.len().saturating_mul(draft.n)) {
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
