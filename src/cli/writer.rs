//! Runs one request to its end, and reports on it.

use std::time::Duration;

use katari::schedule::{Event, Finish, Request, Schedule, Timings, WhenContextIsFull};
use serde::Serialize;

use super::failure::Failure;
use super::generation::Settings;
use super::interrupt::Watch;
use super::model::Model;
use super::output::note;
use super::progress::Progress;

/// From how many tokens on reading a prompt shows its progress.
const LONG_PROMPT: usize = 512;

/// A text that was written.
#[derive(Debug)]
pub struct Written {
    /// What followed the prompt.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub timings: Timings,
}

impl Written {
    /// Whether Ctrl-C ended it.
    pub fn interrupted(&self) -> bool {
        self.finish == Finish::Cancelled
    }
}

/// Writes on from `prompt`; `sink` gets the text as it comes. Ctrl-C, or a sink that fails,
/// ends it early.
pub fn write(
    model: &mut Model,
    prompt: Vec<u32>,
    settings: &Settings,
    mut sink: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Written, Failure> {
    check_room(model, prompt.len(), settings)?;
    let watch = Watch::start();
    let mut schedule = Schedule::new(&mut model.engine, &model.tokenizer);
    let request = schedule.submit(Request {
        prompt,
        sampling: settings.params.clone(),
        limits: settings.limits,
        stop: settings.stop.clone(),
        seed: settings.seed,
        when_full: settings.when_full,
        constraint: settings.constraint.clone(),
        ..Request::default()
    })?;
    let mut progress = None;
    let (mut text, mut ids) = (String::new(), Vec::new());
    let (mut done, mut failed) = (None, Ok(()));
    while done.is_none() {
        if watch.requested() || failed.is_err() {
            schedule.cancel(request);
        }
        schedule.step(&mut |_, event| match event {
            Event::Prompt { done, total } if total >= LONG_PROMPT && done < total => {
                (progress.get_or_insert_with(|| Progress::new("reading the prompt", total as u64)))
                    .at(done as u64, "");
            }
            Event::Prompt { .. } => progress = None,
            Event::Logprobs(_) => {}
            Event::Token(id) => ids.push(id),
            Event::Text(piece) => {
                if failed.is_ok() {
                    failed = sink(&piece);
                }
                text.push_str(&piece);
            }
            Event::Done(finish, timings) => done = Some((finish, timings)),
        })?;
    }
    failed?;
    let (finish, timings) = done.unwrap_or((Finish::Cancelled, Timings::default()));
    if let Finish::ConstraintFailed(why) = finish {
        return Err(Failure::with_code(1, why));
    }
    if finish == Finish::NothingToDraw {
        return Err(Failure::with_code(
            1,
            "no token can be drawn: every one is banned, or the model's logits are not numbers",
        ));
    }
    Ok(Written {
        text,
        ids,
        finish,
        timings,
    })
}

/// An error where the prompt leaves no token to write, a warning where it leaves fewer than asked.
fn check_room(model: &Model, prompt_len: usize, settings: &Settings) -> Result<(), Failure> {
    let (limits, n_ctx) = (&settings.limits, model.engine.n_ctx());
    if prompt_len > n_ctx {
        return Err(Failure::usage(format_args!(
            "the prompt has {prompt_len} tokens, and the context {n_ctx}; \
             give a shorter prompt, or a longer --ctx"
        )));
    }
    if let Some(max) = limits.max_length.filter(|&max| max <= prompt_len) {
        return Err(Failure::usage(format_args!(
            "the prompt has {prompt_len} tokens, and --max-length (or the file's card) allows \
             {max} with it; say how much to write with --max-new-tokens"
        )));
    }
    let by_length = limits.max_length.map(|max| max - prompt_len);
    let wanted = limits.max_new.into_iter().chain(by_length).min();
    // The last token is written without being read.
    let room = n_ctx + 1 - prompt_len;
    if settings.when_full == WhenContextIsFull::Stop && wanted.is_some_and(|n| n > room) {
        note(format_args!(
            "warning: after the prompt the context of {n_ctx} tokens has room for {room} more; \
             the text stops there (see --ctx and --shift)"
        ));
    }
    Ok(())
}

/// A written text as JSON.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    prompt: &'a str,
    text: &'a str,
    ids: &'a [u32],
    finish: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<&'a str>,
    seed: u64,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    load_seconds: f64,
    prompt_seconds: f64,
    generation_seconds: f64,
}

impl<'a> Report<'a> {
    pub fn new(prompt: &'a str, written: &'a Written, seed: u64, load_time: Duration) -> Self {
        let timings = &written.timings;
        let (finish, stop) = match &written.finish {
            Finish::Eos => ("eos", None),
            Finish::Stop(stop) => ("stop", Some(stop.as_str())),
            Finish::Length => ("length", None),
            Finish::Context => ("context", None),
            Finish::Cancelled => ("interrupted", None),
            Finish::NothingToDraw => ("nothing_to_draw", None),
            Finish::ConstraintFailed(_) => ("constraint_failed", None),
        };
        Self {
            prompt,
            text: &written.text,
            ids: &written.ids,
            finish,
            stop,
            seed,
            prompt_tokens: timings.prompt_tokens,
            cached_tokens: timings.cached_tokens,
            generated_tokens: timings.generated_tokens,
            load_seconds: load_time.as_secs_f64(),
            prompt_seconds: timings.prompt_time.as_secs_f64(),
            generation_seconds: timings.generation_time.as_secs_f64(),
        }
    }
}

/// Says on standard error how fast it went, and with which seed.
pub fn summarize(written: &Written, seed: u64, load_time: Option<Duration>) {
    let timings = &written.timings;
    let mut parts = Vec::new();
    if let Some(time) = load_time {
        parts.push(format!("loaded in {:.2} s", time.as_secs_f64()));
    }
    let evaluated = timings.prompt_tokens.saturating_sub(timings.cached_tokens);
    parts.push(format!("prompt {}", speed(evaluated, timings.prompt_time)));
    parts.push(format!(
        "generated {}",
        speed(timings.generated_tokens, timings.generation_time)
    ));
    parts.push(format!("seed {seed}"));
    if written.finish == Finish::Context {
        parts.push("stopped because the context is full (see --ctx and --shift)".to_string());
    }
    note(format_args!("[{}]", parts.join("; ")));
}

fn speed(tokens: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if tokens == 0 || seconds == 0.0 {
        return format!("{tokens} tokens");
    }
    format!("{tokens} tokens at {:.1} tokens/s", tokens as f64 / seconds)
}
