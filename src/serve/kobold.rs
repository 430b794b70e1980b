//! KoboldAI's API and KoboldCpp's additions to it.
//!
//! <https://lite.koboldai.net/koboldcpp_api>

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::answer::{Frame, Framing};
use super::common::{self, Asked, ask, finish_reason, text};
use super::endpoints::{About, Answer, Endpoints, Kind};
use super::fields::Draft;
use super::llama::short_text;
use super::model::Model;
use super::refusal::{Dialect, Refusal};
use super::state::Server;
use super::values::Object;
use super::worker::News;
use crate::schedule::Finish;
use crate::text::SpecialTokens;

/// The versions whose fields this server understands; clients hide what older ones lacked.
const KOBOLD_AI: &str = "1.2.5";
const KOBOLD_CPP: &str = "1.74.0";

/// The endpoints.
pub fn routes() -> Endpoints {
    const GENERATE: About = About::new("What follows a prompt")
        .takes(&[
            ("prompt", Kind::Text, false),
            ("memory", Kind::Text, false),
            ("genkey", Kind::Text, false),
        ])
        .writes();
    const CONTEXT: About = About::new("Tokens of the longest text, the prompt included");
    const KEYED: &[(&str, Kind, bool)] = &[("genkey", Kind::Text, false)];
    const COUNT: About =
        About::new("How many tokens a text has").takes(&[("prompt", Kind::Text, false)]);
    const CHECK: About = About::new("What was written so far");
    const LOGPROBS: About = About::new("Nothing: no text's probabilities are kept");
    let mut endpoints = Endpoints::default();
    for base in ["/api/v1", "/api/latest"] {
        let path = |path: &str| format!("{base}{path}");
        endpoints = endpoints
            .get(&path("/model"), About::new("The model's name"), model)
            .get(
                &path("/info/version"),
                About::new("The version of KoboldAI's API"),
                version,
            )
            .get(&path("/config/max_context_length"), CONTEXT, context)
            .get(
                &path("/config/max_length"),
                About::new("Tokens that are written by default"),
                length,
            )
            .get(
                &path("/config/soft_prompts_list"),
                About::new("There are none"),
                soft_prompts,
            )
            .post(&path("/generate"), GENERATE, generate);
    }
    endpoints
        .get(
            "/api/extra/version",
            About::new("The version of KoboldCpp's API"),
            extra_version,
        )
        .get("/api/extra/true_max_context_length", CONTEXT, context)
        .get(
            "/api/extra/preloadstory",
            About::new("There is none"),
            preload,
        )
        .get(
            "/api/extra/perf",
            About::new("What the server did and does"),
            perf,
        )
        .post(
            "/api/extra/generate/stream",
            GENERATE.answers(Answer::Kind("text/event-stream")),
            stream,
        )
        .get("/api/extra/generate/check", CHECK, check)
        .post("/api/extra/generate/check", CHECK.takes(KEYED), check)
        .post(
            "/api/extra/abort",
            About::new("Ends texts").takes(KEYED),
            abort,
        )
        .post("/api/extra/tokencount", COUNT, count)
        .get("/api/extra/last_logprobs", LOGPROBS, logprobs)
        .post("/api/extra/last_logprobs", LOGPROBS, logprobs)
}

async fn model(State(server): State<Arc<Server>>) -> Result<Json<Value>, Refusal> {
    Ok(Json(
        json!({"result": format!("katari/{}", server.model()?.name)}),
    ))
}

async fn version() -> Json<Value> {
    Json(json!({"result": KOBOLD_AI}))
}

async fn extra_version(State(server): State<Arc<Server>>) -> Json<Value> {
    Json(json!({
        "result": "KoboldCpp", "version": KOBOLD_CPP, "protected": server.protected, "llm": true,
        "txt2img": false, "vision": false, "audio": false, "transcribe": false,
        "multiplayer": false, "websearch": false, "tts": false, "embeddings": false,
        "savedata": false, "admin": 0,
    }))
}

async fn context(State(server): State<Arc<Server>>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({"value": server.model()?.n_ctx})))
}

async fn length(State(server): State<Arc<Server>>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({"value": server.model()?.text_len()})))
}

async fn soft_prompts() -> Json<Value> {
    Json(json!({"values": []}))
}

async fn preload() -> Json<Value> {
    Json(json!({}))
}

async fn logprobs() -> Json<Value> {
    Json(json!({"logprobs": null}))
}

async fn perf(State(server): State<Arc<Server>>) -> Result<Json<Value>, Refusal> {
    let slots = server.worker()?.slots();
    let idle = slots.iter().all(|slot| !slot.busy);
    let load =
        |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    Ok(Json(json!({
        "total_gens": load(&server.metrics.requests_total),
        "queue": load(&server.metrics.requests_waiting),
        "idle": u8::from(idle),
        "uptime": server.since.elapsed().as_secs(),
        "stop_reason": 1, "last_process": 0, "last_eval": 0, "last_token_count": 0,
    })))
}

async fn count(State(server): State<Arc<Server>>, body: Body) -> Result<Json<Value>, Refusal> {
    common::read(&server, body, |model, body| {
        let ids = model.tokenizer.prompt_ids(short_text(&body, "prompt")?);
        Ok(Json(json!({"value": ids.len(), "ids": ids})))
    })
    .await
}

/// The key of a text that may be looked at or aborted: KoboldCpp's clients make one up.
fn key(body: &Object) -> &str {
    body.get("genkey").and_then(Value::as_str).unwrap_or("")
}

async fn check(State(server): State<Arc<Server>>, body: Body) -> Result<Json<Value>, Refusal> {
    common::read(&server, body, |_, body| {
        let text = server.running.text(key(&body)).unwrap_or_default();
        Ok(Json(json!({"results": [{"text": text}]})))
    })
    .await
}

async fn abort(State(server): State<Arc<Server>>, body: Body) -> Result<Json<Value>, Refusal> {
    common::read(&server, body, |_, body| {
        let n = server.running.abort(key(&body));
        Ok(Json(json!({"success": n > 0, "done": n > 0})))
    })
    .await
}

/// Asks for what `body` says: `memory` goes before the prompt and stays when it is cut.
fn begin(server: &Server, model: &Model, body: &Object) -> Result<Asked, Refusal> {
    let draft = Draft::read(model, &[body], Some(model.text_len()))?;
    let memory = text(body, "memory")?.unwrap_or("");
    let prompt = text(body, "prompt")?.unwrap_or("");
    let ids = model.prompt_ids(&format!("{memory}{prompt}"))?;
    // Beside a bos, which stays in any case.
    let kept = (model.tokenizer).ids_of_lines(memory, SpecialTokens::Reference);
    let kept = kept.len();
    ask(server, &draft, vec![ids], kept, Some(key(body)))
}

async fn generate(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let making = common::read_to_write(&server, body, |model, body| begin(&server, model, &body));
    let results: Vec<Value> = (making.await?.answers.whole().await?.iter())
        .map(|whole| {
            let mut result = json!({
                "text": whole.text, "finish_reason": finish_reason(&whole.finish),
            });
            // Who aborts a text does not wait for what it took.
            if whole.finish != Finish::Cancelled {
                result["prompt_tokens"] = whole.timings.prompt_tokens.into();
                result["completion_tokens"] = whole.timings.generated_tokens.into();
            }
            result
        })
        .collect();
    Ok(Json(json!({"results": results})).into_response())
}

async fn stream(State(server): State<Arc<Server>>, body: Body) -> Result<Response, Refusal> {
    let making = common::read_to_write(&server, body, |model, mut body| {
        // Pieces do not say which text they are of.
        body.remove("n");
        begin(&server, model, &body)
    });
    let asked = making.await?;
    let frame = |token: &str, reason: Value| {
        vec![Frame::Json(
            json!({"token": token, "finish_reason": reason}),
        )]
    };
    Ok(asked
        .answers
        .stream(Framing::NamedEvents, move |news| match news {
            Some((_, News::Text(text, _))) => frame(&text, Value::Null),
            Some((_, News::Done(finish, _))) => frame("", finish_reason(&finish).into()),
            Some((_, News::Failed(refusal))) => vec![Frame::Json(Dialect::Kobold.error(&refusal))],
            None => Vec::new(),
        }))
}
