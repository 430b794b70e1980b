//! OpenAI's API: models, completions and chat completions.
//!
//! <https://platform.openai.com/docs/api-reference>

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{Frame, Framing};
use super::common::{self, Prompt, ask, finish_reason, object, text, unique, unix_time};
use super::endpoints::{About, Answer, Endpoints, Kind};
use super::fields::{Draft, Object};
use super::model::Model;
use super::refusal::{Dialect, Refusal};
use super::state::Server;
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
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let model = server.model()?;
    match id == model.name {
        true => Ok(Json(describe(&server, model)).into_response()),
        false => Err(Refusal::NotFound("such model".into())),
    }
}

/// Whether the last piece of a stream is to say what it took.
fn includes_usage(body: &Object) -> bool {
    let options = body.get("stream_options");
    options.and_then(|o| o.get("include_usage")) == Some(&Value::Bool(true))
}

/// What the texts of a request took together.
fn usage(prompt_tokens: usize, timings: &[Timings]) -> Value {
    let written: usize = timings.iter().map(|t| t.generated_tokens).sum();
    let cached: usize = timings.iter().map(|t| t.cached_tokens).sum();
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
        if likely.is_empty() {
            return Value::Null;
        }
        match self {
            Form::Text => text_logprobs(model, &likely, offset),
            Form::Chat => chat_logprobs(model, &likely),
        }
    }
}

fn text_logprobs(model: &Model, tokens: &[(u32, &Logprobs)], offset: &mut usize) -> Value {
    let mut out = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, logprobs) in tokens {
        let text = model.tokenizer.token_text(*id);
        let top = logprobs.top.iter().map(|(id, logprob)| {
            // Tokens of one text would be one key.
            let mut name = model.tokenizer.token_text(*id);
            if name.is_empty() {
                name = model.tokenizer.piece(*id).to_string();
            }
            (name, json!(logprob))
        });
        out.2.push(Value::Object(top.collect()));
        out.3.push(*offset);
        *offset += text.chars().count();
        out.0.push(text);
        out.1.push(logprobs.drawn);
    }
    json!({
        "tokens": out.0, "token_logprobs": out.1, "top_logprobs": out.2, "text_offset": out.3,
    })
}

fn chat_logprobs(model: &Model, tokens: &[(u32, &Logprobs)]) -> Value {
    let one = |id: u32, logprob: f32| {
        let text = model.tokenizer.token_text(id);
        json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()})
    };
    let content = tokens.iter().map(|(id, logprobs)| {
        let mut entry = one(*id, logprobs.drawn);
        let top = logprobs.top.iter().map(|&(id, logprob)| one(id, logprob));
        entry["top_logprobs"] = top.collect();
        entry
    });
    json!({"content": content.collect::<Vec<_>>()})
}

async fn completions(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let body = object(&server, body).await?;
    let model = Arc::clone(server.model()?);
    let draft = Draft::read(&model, &[&body], Some(model.text_len()))?;
    let prompts = Prompt::read(body.get("prompt"))?;
    let echo = body.get("echo") == Some(&Value::Bool(true));
    let ids = (prompts.into_iter())
        .map(|prompt| prompt.ids(&model))
        .collect::<Result<Vec<_>, _>>()?;
    let mut echoes = Vec::new();
    if echo {
        for ids in &ids {
            let echo = model.tokenizer.text_of_lines(ids);
            echoes.extend(std::iter::repeat_n(echo, draft.n));
        }
    }
    answer(
        &server,
        model.clone(),
        &draft,
        ids,
        echoes,
        &body,
        Form::Text,
    )
    .await
}

async fn chat(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let body = object(&server, body).await?;
    let model = Arc::clone(server.model()?);
    let draft = Draft::read(&model, &[&body], None)?;
    let messages = common::messages(&body)?;
    let ids = tokio::task::block_in_place(|| model.chat_ids(&messages, draft.prompt_room()))?;
    answer(
        &server,
        model.clone(),
        &draft,
        vec![ids],
        Vec::new(),
        &body,
        Form::Chat,
    )
    .await
}

/// `echoes`: what each text begins with before what is written; may be empty.
async fn answer(
    server: &Arc<Server>,
    model: Arc<Model>,
    draft: &Draft<'_>,
    prompts: Vec<Vec<u32>>,
    echoes: Vec<String>,
    body: &Object,
    form: Form,
) -> Result<Response, Refusal> {
    let id = unique(server, form.prefix());
    let name = text(body, "model").ok().flatten();
    let name = name
        .filter(|name| !name.is_empty())
        .unwrap_or(&model.name)
        .to_string();
    let asked = ask(server, draft, prompts, 0, None)?;
    let (prompt_tokens, n) = (asked.prompt_tokens, asked.n);
    if draft.stream != Some(true) {
        let wholes = asked.answers.whole().await?;
        let choices: Vec<Value> = (wholes.iter().enumerate())
            .map(|(i, whole)| {
                let echo = echoes.get(i).map_or("", String::as_str);
                let mut offset = echo.chars().count();
                let logprobs = form.logprobs(&model, &whole.tokens, &mut offset);
                let text = format!("{echo}{}", whole.text);
                form.whole_choice(i, &text, logprobs, finish_reason(&whole.finish))
            })
            .collect();
        let timings: Vec<Timings> = wholes.iter().map(|whole| whole.timings).collect();
        let answer = json!({
            "id": id, "object": form.whole(), "created": unix_time(), "model": name,
            "system_fingerprint": null, "choices": choices,
            "usage": usage(prompt_tokens, &timings),
        });
        return Ok(Json(answer).into_response());
    }

    let include_usage = includes_usage(body);
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
    let mut begun = vec![false; n];
    let mut offsets = vec![0; n];
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
            if let Some(echo) = echoes.get(*i) {
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
                timings.push(took);
                let reason = finish_reason(&finish).into();
                let choice = form.part_choice(i, None, Value::Null, reason);
                frames.push(frame(json!([choice]), Value::Null));
            }
            Some((_, News::Failed(refusal))) => {
                frames.push(Frame::Json(Dialect::OpenAi.error(&refusal)));
            }
            None => {
                if include_usage {
                    frames.push(frame(json!([]), usage(prompt_tokens, &timings)));
                }
                frames.push(Frame::Done);
            }
        }
        frames
    }))
}
