//! Ollama's API, the part that reads and generates.
//!
//! <https://github.com/ollama/ollama/blob/main/docs/api.md>

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{Answers, Frame, Framing};
use super::common::{self, ask, finish_reason, text, unix_time};
use super::endpoints::{About, Answer, Endpoints, Kind};
use super::fields::Draft;
use super::model::Model;
use super::refusal::{Dialect, Refusal};
use super::state::Server;
use super::values::{Object, wrong};
use super::worker::News;
use crate::schedule::{Finish, Timings};
use crate::text::Message;

/// The endpoints.
pub fn routes() -> Endpoints {
    const SHOW: About = About::new("The model in detail").takes(&[("model", Kind::Text, false)]);
    const GENERATE: About = About::new("What follows a prompt")
        .takes(&[
            ("prompt", Kind::Text, false),
            ("model", Kind::Text, false),
            ("system", Kind::Text, false),
            ("raw", Kind::Flag, false),
            ("options", Kind::Options, false),
        ])
        .writes()
        .answers(Answer::Lines);
    const CHAT: About = About::new("What is said next in a conversation")
        .takes(&[
            ("messages", Kind::Messages, true),
            ("model", Kind::Text, false),
            ("options", Kind::Options, false),
        ])
        .writes()
        .answers(Answer::Lines);
    Endpoints::default()
        .get("/api/version", About::new("The program's version"), version)
        .get("/api/tags", About::new("The model, in a list"), tags)
        .get("/api/ps", About::new("The model, which is loaded"), ps)
        .post("/api/show", SHOW, show)
        .post("/api/generate", GENERATE, generate)
        .post("/api/chat", CHAT, chat)
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// The name with the tag that Ollama gives a model without one.
fn tagged(model: &Model) -> String {
    match model.name.contains(':') {
        true => model.name.clone(),
        false => format!("{}:latest", model.name),
    }
}

/// Clients tell models apart by it; of the file's name and size, since reading all of the file
/// would take minutes (FNV-1a, four times 64 bits).
fn digest(model: &Model) -> String {
    (0u8..4)
        .map(|i| {
            let bytes = model.name.bytes().chain(model.file_bytes.to_le_bytes());
            let hash = std::iter::once(i)
                .chain(bytes)
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
            format!("{hash:016x}")
        })
        .collect()
}

fn details(model: &Model) -> Value {
    let billions = model.n_parameters as f64 / 1e9;
    let size = match billions >= 0.95 {
        true => format!("{billions:.1}B"),
        false => format!("{:.1}M", billions * 1e3),
    };
    json!({
        "parent_model": "", "format": "gguf", "family": model.architecture,
        "families": [model.architecture], "parameter_size": size,
        "quantization_level": model.file_type.to_uppercase(),
    })
}

async fn tags(State(server): State<Arc<Server>>) -> Result<Json<Value>, Refusal> {
    let model = server.model()?;
    let name = tagged(model);
    Ok(Json(json!({"models": [{
        "name": name, "model": name, "modified_at": rfc3339(server.began),
        "size": model.file_bytes, "digest": digest(model), "details": details(model),
    }]})))
}

async fn ps(State(server): State<Arc<Server>>) -> Result<Json<Value>, Refusal> {
    let model = server.model()?;
    let name = tagged(model);
    Ok(Json(json!({"models": [{
        "name": name, "model": name, "size": model.file_bytes, "digest": digest(model),
        "details": details(model), "size_vram": 0, "context_length": model.n_ctx,
        // It stays for as long as the server does.
        "expires_at": rfc3339(unix_time() + 86_400),
    }]})))
}

async fn show(State(server): State<Arc<Server>>, body: Body) -> Result<Json<Value>, Refusal> {
    // Which model it asks for does not matter: there is one.
    common::read(&server, body, |_, _| Ok(())).await?;
    let model = server.model()?;
    let key = |name: &str| format!("{}.{name}", model.architecture);
    Ok(Json(json!({
        "modelfile": "", "parameters": "", "template": model.template_source(),
        "modified_at": rfc3339(server.began),
        "details": details(model),
        "model_info": {
            "general.architecture": model.architecture,
            "general.parameter_count": model.n_parameters,
            key("context_length"): model.n_ctx,
            key("embedding_length"): model.n_embd,
        },
        "capabilities": ["completion"],
    })))
}

/// The request's `options`, which is where Ollama has the sampling.
fn options(body: &Object) -> Result<Object, Refusal> {
    match body.get("options") {
        None | Some(Value::Null) => Ok(Object::new()),
        Some(Value::Object(options)) => Ok(options.clone()),
        Some(other) => Err(wrong("options", other, "an object")),
    }
}

/// Where the text goes in an answer: the only difference of the two endpoints.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Chat,
}

impl Form {
    fn piece(self, name: &str, text: &str) -> Value {
        let created = rfc3339(unix_time());
        match self {
            Form::Text => json!({
                "model": name, "created_at": created, "response": text, "done": false,
            }),
            Form::Chat => json!({
                "model": name, "created_at": created,
                "message": {"role": "assistant", "content": text}, "done": false,
            }),
        }
    }

    /// `text` is the whole text, or nothing after pieces.
    fn last(self, name: &str, text: &str, finish: &Finish, took: &Timings) -> Value {
        let mut last = self.piece(name, text);
        let nanoseconds = |time: std::time::Duration| time.as_nanos() as u64;
        last["done"] = true.into();
        last["done_reason"] = finish_reason(finish).into();
        last["total_duration"] = nanoseconds(took.prompt_time + took.generation_time).into();
        last["load_duration"] = 0.into();
        last["prompt_eval_count"] = took.prompt_tokens.into();
        last["prompt_eval_duration"] = nanoseconds(took.prompt_time).into();
        last["eval_count"] = took.generated_tokens.into();
        last["eval_duration"] = nanoseconds(took.generation_time).into();
        last
    }
}

/// What is known of a request when its texts are asked for.
struct Told {
    /// What the request calls the model.
    name: String,
    /// Nothing where the request only loads the model, as an empty one does in Ollama.
    answers: Option<Answers>,
    streams: bool,
}

/// Asks for one text, which is all that an answer has place for.
fn begin(
    server: &Server,
    model: &Model,
    body: &Object,
    max_new: Option<usize>,
    ids: impl FnOnce(&Draft<'_>) -> Result<Option<Vec<u32>>, Refusal>,
) -> Result<Told, Refusal> {
    let mut draft = Draft::read(model, &[body, &options(body)?], max_new)?;
    draft.n = 1;
    let ids = ids(&draft)?;
    Ok(Told {
        name: text(body, "model")?.unwrap_or(&model.name).to_string(),
        answers: match ids {
            Some(ids) => Some(ask(server, &draft, vec![ids], 0, None)?.answers),
            None => None,
        },
        streams: draft.stream != Some(false),
    })
}

async fn generate(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let making = common::read_to_write(&server, body, |model, body| {
        let prompt = text(&body, "prompt")?.unwrap_or("");
        let raw = common::flag(&body, "raw")?;
        begin(&server, model, &body, Some(model.text_len()), |draft| {
            if prompt.is_empty() {
                return Ok(None);
            }
            if model.chat.is_none() || raw {
                return model.prompt_ids(prompt).map(Some);
            }
            let message = |role: &str, content: &str| Message {
                role: role.into(),
                content: content.into(),
            };
            let mut said = Vec::new();
            if let Some(system) = text(&body, "system")?.filter(|system| !system.is_empty()) {
                said.push(message("system", system));
            }
            said.push(message("user", prompt));
            model.chat_ids(&said, draft.prompt_room()).map(Some)
        })
    });
    answer(making.await?, Form::Text).await
}

async fn chat(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let making = common::read_to_write(&server, body, |model, body| {
        let messages = common::messages(&body)?;
        begin(&server, model, &body, None, |draft| {
            match messages.is_empty() {
                true => Ok(None),
                false => model.chat_ids(&messages, draft.prompt_room()).map(Some),
            }
        })
    });
    answer(making.await?, Form::Chat).await
}

async fn answer(told: Told, form: Form) -> Result<Response, Refusal> {
    let Told {
        name,
        answers,
        streams,
    } = told;
    let Some(answers) = answers else {
        let mut loaded = form.last(&name, "", &Finish::Eos, &Timings::default());
        loaded["done_reason"] = "load".into();
        return Ok(Json(loaded).into_response());
    };
    if !streams {
        let wholes = answers.whole().await?;
        let whole = wholes.first().ok_or_else(super::worker::gone)?;
        let answer = form.last(&name, &whole.text, &whole.finish, &whole.timings);
        return Ok(Json(answer).into_response());
    }
    Ok(answers.stream(Framing::Lines, move |news| match news {
        Some((_, News::Text(text, _))) => vec![Frame::Json(form.piece(&name, &text))],
        Some((_, News::Done(finish, took))) => {
            vec![Frame::Json(form.last(&name, "", &finish, &took))]
        }
        Some((_, News::Failed(refusal))) => vec![Frame::Json(Dialect::Ollama.error(&refusal))],
        None => Vec::new(),
    }))
}

/// A time in seconds since 1970 as RFC 3339 has it, in UTC (the days by Howard Hinnant's
/// `civil_from_days`).
fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on, so that a leap day is the last of the year.
    let from_march = (5 * day + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    format!(
        "{:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z",
        era * 400 + year + u64::from(month <= 2),
        day - (153 * from_march + 2) / 5 + 1,
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn times() {
        // `date -u -d @N`
        for (seconds, time) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(super::rfc3339(seconds), time);
        }
    }
}
