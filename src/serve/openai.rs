//! OpenAI's API: models, completions and chat completions.
//!
//! <https://platform.openai.com/docs/api-reference>

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::answer::{Frame, Framing};
use super::common::{
    self, Asked, Prompt, ask, finish_reason, probabilities, text, unique, unix_time,
};
use super::endpoints::{About, Answer, Endpoints, Kind};
use super::fields::Draft;
use super::model::Model;
use super::refusal::{Dialect, Refusal};
use super::state::Server;
use super::values::Object;
use super::worker::{Drawn, News};
use crate::schedule::{Logprobs, Timings};

/// The endpoints, with `/v1` and without.
pub fn routes() -> Endpoints {
    const MODELS: About = About::new("The model, in a list");
    const MODEL: About = About::new("The model");
    const CHAT: About = About::new("What is said next in a conversation")
        .takes(&[
            ("messages", Kind::Messages, true),
            ("model", Kind::Text, false),
            ("stream_options", Kind::Object, false),
        ])
        .writes()
        .answers(Answer::Events);
    const COMPLETIONS: About = About::new("What follows each prompt")
        .takes(&[
            ("prompt", Kind::Prompt, false),
            ("model", Kind::Text, false),
            ("echo", Kind::Flag, false),
            ("stream_options", Kind::Object, false),
        ])
        .writes()
        .answers(Answer::Events);
    let mut endpoints = Endpoints::default();
    for base in ["/v1", ""] {
        endpoints = endpoints
            .get(&format!("{base}/models"), MODELS, models)
            .get(&format!("{base}/models/{{id}}"), MODEL, model)
            .post(&format!("{base}/chat/completions"), CHAT, chat);
    }
    // Without `/v1` it is llama.cpp's.
    endpoints.post("/v1/completions", COMPLETIONS, completions)
}

fn describe(server: &Server, model: &Model) -> Value {
    json!({
        "id": model.name, "object": "model", "created": server.began, "owned_by": "katari",
        "meta": {
            "n_vocab": model.n_vocab, "n_ctx_train": model.n_ctx_train, "n_ctx": model.n_ctx,
            "n_embd": model.n_embd, "n_params": model.n_parameters, "size": model.file_bytes,
        },
    })
}

async fn models(State(server): State<Arc<Server>>) -> Result<Response, Refusal> {
    let model = describe(&server, server.model()?);
    Ok(Json(json!({"object": "list", "data": [model]})).into_response())
}

async fn model(
    State(server): State<Arc<Server>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let model = server.model()?;
    match id {
        Ok(Path(id)) if id == model.name => Ok(Json(describe(&server, model)).into_response()),
        _ => Err(Refusal::NotFound("such model".into())),
    }
}

/// Whether the last piece of a stream is to say what it took.
fn includes_usage(body: &Object) -> Result<bool, Refusal> {
    match body.get("stream_options").and_then(Value::as_object) {
        Some(options) => common::flag(options, "include_usage"),
        None => Ok(false),
    }
}

/// What the texts of a request took together: each is told with its index, and `n` of them have
/// one prompt.
fn usage(prompt_tokens: usize, n: usize, timings: &[(usize, Timings)]) -> Value {
    let written: usize = timings.iter().map(|(_, t)| t.generated_tokens).sum();
    // A prompt counts once: what the first of its texts had to read, the others shared.
    let mut cached = BTreeMap::new();
    for (index, took) in timings {
        let least = cached.entry(index / n.max(1)).or_insert(took.cached_tokens);
        *least = took.cached_tokens.min(*least);
    }
    let cached: usize = cached.into_values().sum();
    json!({
        "prompt_tokens": prompt_tokens, "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

/// The two endpoints differ in names alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Chat,
}

impl Form {
    fn prefix(self) -> &'static str {
        match self {
            Form::Text => "cmpl",
            Form::Chat => "chatcmpl",
        }
    }

    fn whole(self) -> &'static str {
        match self {
            Form::Text => "text_completion",
            Form::Chat => "chat.completion",
        }
    }

    fn chunk(self) -> &'static str {
        match self {
            Form::Text => "text_completion",
            Form::Chat => "chat.completion.chunk",
        }
    }

    fn whole_choice(self, index: usize, text: &str, logprobs: Value, reason: &str) -> Value {
        match self {
            Form::Text => json!({
                "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason,
            }),
            Form::Chat => json!({
                "index": index, "message": {"role": "assistant", "content": text},
                "logprobs": logprobs, "finish_reason": reason,
            }),
        }
    }

    fn part_choice(
        self,
        index: usize,
        text: Option<&str>,
        logprobs: Value,
        reason: Value,
    ) -> Value {
        match self {
            Form::Text => json!({
                "index": index, "text": text.unwrap_or(""), "logprobs": logprobs,
                "finish_reason": reason,
            }),
            Form::Chat => json!({
                "index": index,
                "delta": text.map_or(json!({}), |text| json!({"content": text})),
                "logprobs": logprobs, "finish_reason": reason,
            }),
        }
    }

    /// `offset`: characters of the text before these tokens; moved on.
    fn logprobs(self, model: &Model, tokens: &[Drawn], offset: &mut usize) -> Value {
        let likely: Vec<(u32, &Logprobs)> = (tokens.iter())
            .filter_map(|token| Some((token.id, token.logprobs.as_ref()?)))
            .collect();
        match self {
            _ if likely.is_empty() => Value::Null,
            Form::Text => text_logprobs(model, &likely, offset),
            Form::Chat => json!({"content": probabilities(model, tokens)}),
        }
    }
}

fn text_logprobs(model: &Model, tokens: &[(u32, &Logprobs)], offset: &mut usize) -> Value {
    // What has no text of its own, such as a byte, has a name.
    let name = |id: u32| match model.tokenizer.token_text(id) {
        text if text.is_empty() => model.tokenizer.piece(id).to_string(),
        text => text,
    };
    let mut out = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, logprobs) in tokens {
        let mut top = Map::new();
        for (id, logprob) in &logprobs.top {
            let name = match name(*id) {
                // Tokens of one text would be one key.
                name if top.contains_key(&name) => format!("{name}<{id}>"),
                name => name,
            };
            top.insert(name, json!(logprob));
        }
        out.2.push(Value::Object(top));
        out.3.push(*offset);
        *offset += model.tokenizer.token_text(*id).chars().count();
        out.0.push(name(*id));
        out.1.push(logprobs.drawn);
    }
    json!({
        "tokens": out.0, "token_logprobs": out.1, "top_logprobs": out.2, "text_offset": out.3,
    })
}

/// What is known of a request when its texts are asked for.
struct Told {
    form: Form,
    model: Arc<Model>,
    asked: Asked,
    /// What the request calls the model.
    name: String,
    /// Texts of each prompt.
    n: usize,
    /// What the texts of each prompt begin with before what is written; may be empty.
    echoes: Vec<String>,
    streams: bool,
    include_usage: bool,
}

async fn completions(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let making = common::read_to_write(&server, body, |model, body| {
        let draft = Draft::read(model, &[&body], Some(model.text_len()))?;
        let prompts = Prompt::read(body.get("prompt"))?;
        let ids = (prompts.into_iter())
            .map(|prompt| prompt.ids(model))
            .collect::<Result<Vec<_>, _>>()?;
        let echoes = match common::flag(&body, "echo")? {
            true => (ids.iter())
                .map(|ids| model.tokenizer.text_of_lines(ids))
                .collect(),
            false => Vec::new(),
        };
        tell(&server, model, &body, &draft, ids, echoes, Form::Text)
    });
    answer(&server, making.await?).await
}

async fn chat(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let making = common::read_to_write(&server, body, |model, body| {
        let draft = Draft::read(model, &[&body], None)?;
        let messages = common::messages(&body)?;
        let ids = model.chat_ids(&messages, draft.prompt_room())?;
        let ids = vec![ids];
        tell(&server, model, &body, &draft, ids, Vec::new(), Form::Chat)
    });
    answer(&server, making.await?).await
}

/// Asks for the texts of `prompts`.
fn tell(
    server: &Server,
    model: &Arc<Model>,
    body: &Object,
    draft: &Draft<'_>,
    prompts: Vec<Vec<u32>>,
    echoes: Vec<String>,
    form: Form,
) -> Result<Told, Refusal> {
    let name = text(body, "model").ok().flatten();
    let name = name.filter(|name| !name.is_empty());
    Ok(Told {
        form,
        model: Arc::clone(model),
        include_usage: includes_usage(body)?,
        asked: ask(server, draft, prompts, 0, None)?,
        name: name.unwrap_or(&model.name).to_string(),
        n: draft.n,
        echoes,
        streams: draft.stream == Some(true),
    })
}

async fn answer(server: &Server, told: Told) -> Result<Response, Refusal> {
    let Told {
        form,
        model,
        asked,
        name,
        n,
        echoes,
        streams,
        include_usage,
    } = told;
    let id = unique(server, form.prefix());
    let (prompt_tokens, n_texts) = (asked.prompt_tokens, asked.n);
    if !streams {
        let wholes = asked.answers.whole().await?;
        let choices: Vec<Value> = (wholes.iter().enumerate())
            .map(|(i, whole)| {
                let echo = echoes.get(i / n.max(1)).map_or("", String::as_str);
                let mut offset = echo.chars().count();
                let logprobs = form.logprobs(&model, &whole.tokens, &mut offset);
                let text = format!("{echo}{}", whole.text);
                form.whole_choice(i, &text, logprobs, finish_reason(&whole.finish))
            })
            .collect();
        let timings = wholes.iter().map(|whole| whole.timings);
        let timings: Vec<_> = timings.enumerate().collect();
        let answer = json!({
            "id": id, "object": form.whole(), "created": unix_time(), "model": name,
            "system_fingerprint": null, "choices": choices,
            "usage": usage(prompt_tokens, n, &timings),
        });
        return Ok(Json(answer).into_response());
    }

    let created = unix_time();
    let frame = move |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": id, "object": form.chunk(), "created": created, "model": name,
            "system_fingerprint": null, "choices": choices,
        });
        if include_usage {
            chunk["usage"] = usage;
        }
        Frame::Json(chunk)
    };
    let mut begun = vec![false; n_texts];
    let mut offsets = vec![0; n_texts];
    let mut timings = Vec::new();
    Ok(asked.answers.stream(Framing::Events, move |news| {
        let mut frames = Vec::new();
        if let Some((i, _)) = &news
            && let Some(begun) = begun.get_mut(*i).filter(|begun| !**begun)
        {
            *begun = true;
            if form == Form::Chat {
                let delta = json!({"role": "assistant", "content": ""});
                let choice = json!([{
                    "index": i, "delta": delta, "logprobs": null, "finish_reason": null,
                }]);
                frames.push(frame(choice, Value::Null));
            }
            if let Some(echo) = echoes.get(*i / n.max(1)) {
                offsets[*i] = echo.chars().count();
                let choice = form.part_choice(*i, Some(echo), Value::Null, Value::Null);
                frames.push(frame(json!([choice]), Value::Null));
            }
        }
        match news {
            Some((i, News::Text(text, tokens))) => {
                let logprobs = match offsets.get_mut(i) {
                    Some(offset) => form.logprobs(&model, &tokens, offset),
                    None => Value::Null,
                };
                let choice = form.part_choice(i, Some(&text), logprobs, Value::Null);
                frames.push(frame(json!([choice]), Value::Null));
            }
            Some((i, News::Done(finish, took))) => {
                timings.push((i, took));
                let reason = finish_reason(&finish).into();
                let choice = form.part_choice(i, None, Value::Null, reason);
                frames.push(frame(json!([choice]), Value::Null));
            }
            Some((_, News::Failed(refusal))) => {
                frames.push(Frame::Json(Dialect::OpenAi.error(&refusal)));
            }
            None => {
                if include_usage {
                    frames.push(frame(json!([]), usage(prompt_tokens, n, &timings)));
                }
                frames.push(Frame::Done);
            }
        }
        frames
    }))
}
