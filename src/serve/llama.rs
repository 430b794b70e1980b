//! llama.cpp's own endpoints, as its server has them.
//!
//! <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Frame, Framing};
use super::common::{self, Prompt, ask, probabilities, text};
use super::endpoints::{About, Answer, Endpoints, Kind};
use super::fields::Draft;
use super::model::Model;
use super::refusal::{Dialect, Refusal};
use super::state::Server;
use super::values::{Object, id, wrong};
use super::worker::News;
use crate::schedule::{Finish, Timings};
use crate::text::SpecialTokens;

/// The endpoints.
pub fn routes() -> Endpoints {
    const HEALTH: About = About::new("Whether texts can be asked for");
    const METRICS: About = About::new("Figures for Prometheus").answers(Answer::Kind("text/plain"));
    const TOKENIZE: About = About::new("The tokens of a text").takes(&[
        ("content", Kind::Text, false),
        ("add_special", Kind::Flag, false),
        ("with_pieces", Kind::Flag, false),
    ]);
    const DETOKENIZE: About =
        About::new("The text of tokens").takes(&[("tokens", Kind::Ids, true)]);
    const TEMPLATE: About = About::new("A conversation as the text that the model reads")
        .takes(&[("messages", Kind::Messages, true)]);
    const COMPLETION: About = About::new("What follows a prompt")
        .takes(&[
            ("prompt", Kind::Prompt, false),
            ("n_keep", Kind::Count, false),
        ])
        .writes()
        .answers(Answer::Events);
    Endpoints::default()
        .get("/health", HEALTH, health)
        .get("/v1/health", HEALTH, health)
        .get("/metrics", METRICS, metrics)
        .get("/props", About::new("The model and its settings"), props)
        .get(
            "/slots",
            About::new("The texts that are written at once"),
            slots,
        )
        .post("/tokenize", TOKENIZE, tokenize)
        .post("/detokenize", DETOKENIZE, detokenize)
        .post("/apply-template", TEMPLATE, apply_template)
        .post("/completion", COMPLETION, completion)
        .post("/completions", COMPLETION, completion)
}

/// 200 when texts can be asked for, 503 before the model is loaded and while the server ends.
async fn health(State(server): State<Arc<Server>>) -> Result<Response, Refusal> {
    server.worker()?;
    Ok(Json(json!({"status": "ok"})).into_response())
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, server.metrics.render()).into_response()
}

async fn props(State(server): State<Arc<Server>>) -> Result<Response, Refusal> {
    let model = server.model()?;
    let draft = Draft::read(model, &[], None)?;
    let mut settings = settings(&draft, -1);
    settings["n_ctx"] = model.n_ctx.into();
    let props = json!({
        "default_generation_settings": {"n_ctx": model.n_ctx, "params": settings},
        "total_slots": server.n_slots,
        "model_path": model.name,
        "chat_template": model.template_source(),
        "bos_token": piece(model, model.tokenizer.bos()),
        "eos_token": piece(model, model.tokenizer.eos()),
        "modalities": {"vision": false, "audio": false},
        "build_info": concat!("katari ", env!("CARGO_PKG_VERSION")),
    });
    Ok(Json(props).into_response())
}

fn piece(model: &Model, id: Option<u32>) -> &str {
    id.map_or("", |id| model.tokenizer.piece(id))
}

async fn slots(State(server): State<Arc<Server>>) -> Result<Response, Refusal> {
    let n_ctx = server.model()?.n_ctx;
    let slots = server.worker()?.slots();
    let slots: Vec<Value> = (slots.iter().enumerate())
        .map(|(id, slot)| {
            json!({
                "id": id, "n_ctx": n_ctx, "is_processing": slot.busy, "n_tokens": slot.n_tokens,
            })
        })
        .collect();
    Ok(Json(slots).into_response())
}

/// Bytes of a text that is only cut into tokens; one of them is some ten of the answer.
pub const MAX_TEXT: usize = 1 << 20;

/// The text in `name`, which is to be cut into tokens; empty where it is absent.
pub fn short_text<'a>(body: &'a Object, name: &str) -> Result<&'a str, Refusal> {
    let content = text(body, name)?.unwrap_or("");
    match content.len() <= MAX_TEXT {
        true => Ok(content),
        false => Err(Refusal::Invalid(format!(
            "{name}: found {} bytes, expected at most {MAX_TEXT}",
            content.len()
        ))),
    }
}

/// An answer of tokens.
#[derive(Serialize)]
struct Tokens<T> {
    tokens: Vec<T>,
}

#[derive(Serialize)]
struct Piece {
    id: u32,
    piece: String,
}

async fn tokenize(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    common::read(&server, body, |model, body| {
        let content = short_text(&body, "content")?;
        let ids = match common::flag(&body, "add_special")? {
            true => model.tokenizer.prompt_ids(content),
            false => (model.tokenizer).ids_of_lines(content, SpecialTokens::Reference),
        };
        if !common::flag(&body, "with_pieces")? {
            return Ok(Json(Tokens { tokens: ids }).into_response());
        }
        let piece = |id| Piece {
            id,
            piece: model.tokenizer.token_text(id),
        };
        let tokens = ids.into_iter().map(piece).collect();
        Ok(Json(Tokens { tokens }).into_response())
    })
    .await
}

async fn detokenize(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    common::read(&server, body, |model, body| {
        let tokens = body.get("tokens").unwrap_or(&Value::Null);
        let ids = (tokens.as_array()).and_then(|list| list.iter().map(id).collect());
        let ids: Vec<u32> = ids.ok_or_else(|| wrong("tokens", tokens, "a list of token ids"))?;
        Ok(Json(json!({"content": model.tokenizer.text_of_lines(&ids)})).into_response())
    })
    .await
}

async fn apply_template(
    State(server): State<Arc<Server>>,
    body: Body,
) -> Result<Response, Refusal> {
    common::read(&server, body, |model, body| {
        let prompt = model.chat_text(&common::messages(&body)?)?;
        Ok(Json(json!({"prompt": prompt})).into_response())
    })
    .await
}

/// The settings that a text was written with, in llama.cpp's words.
fn settings(draft: &Draft<'_>, seed: impl Into<Value>) -> Value {
    let p = &draft.sampling;
    let steps: Vec<&str> = p.order.iter().map(|step| step.name()).collect();
    json!({
        "seed": seed.into(), "temperature": p.temperature, "top_k": p.top_k, "top_p": p.top_p,
        "min_p": p.min_p, "typical_p": p.typical_p,
        "repeat_last_n": p.repetition_window.map_or(-1, |n| n as i64),
        "repeat_penalty": p.repetition_penalty, "presence_penalty": p.presence_penalty,
        "frequency_penalty": p.frequency_penalty, "stop": draft.stop,
        "n_predict": draft.max_new.map_or(-1, |n| n as i64), "ignore_eos": p.ignore_eos,
        "n_probs": draft.logprobs.unwrap_or(0), "samplers": steps,
    })
}

/// How fast it went, in milliseconds.
fn timings(took: &Timings) -> Value {
    let rate = |n: usize, ms: f64| if ms > 0.0 { 1e3 * n as f64 / ms } else { 0.0 };
    let each = |n: usize, ms: f64| if n > 0 { ms / n as f64 } else { 0.0 };
    let prompt_n = took.prompt_tokens.saturating_sub(took.cached_tokens);
    let prompt_ms = took.prompt_time.as_secs_f64() * 1e3;
    let (predicted_n, predicted_ms) = (
        took.generated_tokens,
        took.generation_time.as_secs_f64() * 1e3,
    );
    json!({
        "cache_n": took.cached_tokens,
        "prompt_n": prompt_n, "prompt_ms": prompt_ms,
        "prompt_per_token_ms": each(prompt_n, prompt_ms),
        "prompt_per_second": rate(prompt_n, prompt_ms),
        "predicted_n": predicted_n, "predicted_ms": predicted_ms,
        "predicted_per_token_ms": each(predicted_n, predicted_ms),
        "predicted_per_second": rate(predicted_n, predicted_ms),
    })
}

fn stop_type(finish: &Finish) -> &'static str {
    match finish {
        Finish::Eos => "eos",
        Finish::Stop(_) => "word",
        Finish::Length | Finish::Context => "limit",
        Finish::NothingToDraw | Finish::Cancelled | Finish::ConstraintFailed(_) => "none",
    }
}

async fn completion(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let model = Arc::clone(server.model()?);
    let making = common::read_to_write(&server, body, |model, body| {
        let mut draft = Draft::read(model, &[&body], Some(model.text_len()))?;
        draft.n = 1;
        let mut prompts = Prompt::read(body.get("prompt"))?;
        let (Some(prompt), true) = (prompts.pop(), prompts.is_empty()) else {
            return Err(Refusal::Invalid(
                "prompt: found several, expected one".into(),
            ));
        };
        let shown = match &prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Ids(ids) => model.tokenizer.text_of_lines(ids),
        };
        let kept = body.get("n_keep").and_then(Value::as_u64);
        let kept = kept.map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let ids = prompt.ids(model)?;
        let asked = ask(&server, &draft, vec![ids], kept.min(model.n_ctx), None)?;
        let settings = settings(&draft, asked.seed);
        let streams = draft.stream == Some(true);
        Ok((asked, settings, shown, streams, draft.logprobs.is_some()))
    });
    let (asked, settings, shown, streams, with_probabilities) = making.await?;
    let (prompt_tokens, truncated) = (asked.prompt_tokens, asked.truncated);
    let last = {
        let model = Arc::clone(&model);
        move |content: &str, whole: &str, finish: &Finish, took: &Timings| {
            json!({
                "index": 0, "content": content, "tokens": [], "id_slot": -1, "stop": true,
                "model": model.name, "tokens_predicted": took.generated_tokens,
                "tokens_evaluated": prompt_tokens, "generation_settings": settings,
                "prompt": shown, "has_new_line": whole.contains('\n'), "truncated": truncated,
                "stop_type": stop_type(finish), "stopping_word": match finish {
                    Finish::Stop(word) => word.as_str(),
                    _ => "",
                },
                "tokens_cached": took.prompt_tokens + took.generated_tokens,
                "timings": timings(took),
            })
        }
    };
    if !streams {
        let wholes = asked.answers.whole().await?;
        let whole = wholes.first().ok_or_else(super::worker::gone)?;
        let mut answer = last(&whole.text, &whole.text, &whole.finish, &whole.timings);
        answer["tokens"] = whole.tokens.iter().map(|token| token.id).collect();
        if with_probabilities {
            answer["completion_probabilities"] = probabilities(&model, &whole.tokens).into();
        }
        return Ok(Json(answer).into_response());
    }
    let (mut whole, mut n_tokens) = (String::new(), 0);
    Ok(asked
        .answers
        .stream(Framing::Events, move |news| match news {
            Some((_, News::Text(text, tokens))) => {
                whole.push_str(&text);
                n_tokens += tokens.len();
                let mut piece = json!({
                    "index": 0, "content": text, "stop": false, "id_slot": -1,
                    "tokens": tokens.iter().map(|token| token.id).collect::<Vec<_>>(),
                    "tokens_predicted": n_tokens, "tokens_evaluated": prompt_tokens,
                });
                if with_probabilities {
                    piece["completion_probabilities"] = probabilities(&model, &tokens).into();
                }
                vec![Frame::Json(piece)]
            }
            Some((_, News::Done(finish, took))) => {
                vec![Frame::Json(last("", &whole, &finish, &took))]
            }
            Some((_, News::Failed(refusal))) => {
                vec![Frame::Json(Dialect::Llama.error(&refusal))]
            }
            None => Vec::new(),
        }))
}
