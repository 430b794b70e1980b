//! What is asked of a schedule, and its news.

use std::time::Duration;

use crate::engine::SessionError;
use crate::sampler::{Constraint, Invalid, Params};

/// Text to be written.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The tokens to go on from; at least one.
    pub prompt: Vec<u32>,
    /// How each token is drawn, and how long the text must be at least.
    pub sampling: Params,
    /// How long the text may be.
    pub limits: Limits,
    /// The text ends before any of these.
    pub stop: Vec<String>,
    /// Phrases that the text never has, however their tokens are cut; capital letters do not
    /// matter. Where one comes, the text goes back to the token that began it and takes another.
    pub banned_phrases: Vec<String>,
    /// Same seed, same text.
    pub seed: u64,
    /// What to do when the context is full.
    pub when_full: WhenContextIsFull,
    /// Tell how likely each drawn token was, and this many of the likeliest in its place.
    pub logprobs: Option<usize>,
    /// What the text must look like.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// How much to write. (At least how much, is in the sampling parameters.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// At most this many new tokens.
    pub max_new: Option<usize>,
    /// At most this many tokens, the prompt's among them, as Hugging Face's `generate` counts.
    pub max_length: Option<usize>,
}

impl Limits {
    /// Whether a text of `prompt_len` and `generated` tokens may not grow.
    pub(super) fn reached(&self, prompt_len: usize, generated: usize) -> bool {
        self.max_new.is_some_and(|max| generated >= max)
            || self
                .max_length
                .is_some_and(|max| prompt_len + generated >= max)
    }
}

/// What to do when a sequence has as many tokens as the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenContextIsFull {
    /// End the text.
    #[default]
    Stop,
    /// Forget half of the tokens after the first `keep`, and go on.
    Shift {
        /// How many of the first tokens stay.
        keep: usize,
    },
}

/// Names a submitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model drew its end-of-text token, or what constrains the text allows nothing more.
    Eos,
    /// This stop string was written (it is not part of the text).
    Stop(String),
    /// One of [`Limits`] was reached.
    Length,
    /// The context is full.
    Context,
    /// Every token is banned, or the logits are not numbers.
    NothingToDraw,
    /// What constrains the text could not say what may come next, and why.
    ConstraintFailed(String),
    /// [`Schedule::cancel`](super::Schedule::cancel).
    Cancelled,
}

impl Finish {
    /// What it is, without any text of the request.
    pub fn name(&self) -> &'static str {
        match self {
            Finish::Eos => "eos",
            Finish::Stop(_) => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Cancelled => "cancelled",
            Finish::NothingToDraw => "nothing to draw",
            Finish::ConstraintFailed(_) => "constraint failed",
        }
    }
}

/// What a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the cache held already.
    pub cached_tokens: usize,
    /// Until the prompt's logits were there, from the beginning of the request's first pass.
    pub prompt_time: Duration,
    /// Tokens drawn, the end-of-text token not among them.
    pub generated_tokens: usize,
    /// From the prompt's logits to the end.
    pub generation_time: Duration,
}

/// How likely the model found a drawn token, and what it found likelier: natural logarithms of
/// the softmax of its logits, before any sampling.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logprobs {
    /// Of the token that was drawn.
    pub drawn: f32,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// News of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// So much of the prompt is evaluated.
    Prompt {
        /// Tokens evaluated, or found in the cache.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// How likely the token was that comes next; where the request asks for it.
    Logprobs(Logprobs),
    /// This token was drawn.
    Token(u32),
    /// Text that is certain: whole characters, no part of a stop string; never empty.
    Text(String),
    /// The last news.
    Done(Finish, Timings),
}

/// What a schedule refuses.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// A prompt without tokens.
    #[error("the prompt has no tokens (expected at least one to go on from)")]
    EmptyPrompt,
    /// A prompt longer than the context.
    #[error("the prompt has {found} tokens, expected at most {n_ctx}, the context length")]
    LongPrompt {
        /// Tokens of the prompt.
        found: usize,
        /// The longest a sequence may be.
        n_ctx: usize,
    },
    /// A token that the model does not have.
    #[error("the prompt has token {token}, beyond the embedding's {n_vocab} rows")]
    NoToken {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        n_vocab: usize,
    },
    /// A stop string that would stop at once.
    #[error("a stop string is empty")]
    EmptyStop,
    /// A banned phrase that every text has.
    #[error("a banned phrase is empty")]
    EmptyPhrase,
    /// Going back over what was forgotten.
    #[error("banned phrases and a context shift cannot be had together")]
    ShiftsPhrases,
    /// A context shift that would keep everything.
    #[error(
        "a context shift that keeps {keep} tokens has nothing to forget (expected less than {n_ctx}, the context length)"
    )]
    KeepsAll {
        /// Tokens to keep.
        keep: usize,
        /// The longest a sequence may be.
        n_ctx: usize,
    },
    /// A sampling parameter out of range.
    #[error(transparent)]
    Sampling(#[from] Invalid),
    /// The engine failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Request {
    pub(super) fn check(&self, n_ctx: usize, n_vocab: usize) -> Result<(), ScheduleError> {
        if self.prompt.is_empty() {
            return Err(ScheduleError::EmptyPrompt);
        }
        let found = self.prompt.len();
        if found > n_ctx {
            return Err(ScheduleError::LongPrompt { found, n_ctx });
        }
        if let Some(&token) = self.prompt.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(ScheduleError::NoToken { token, n_vocab });
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(ScheduleError::EmptyStop);
        }
        if self.banned_phrases.iter().any(String::is_empty) {
            return Err(ScheduleError::EmptyPhrase);
        }
        match self.when_full {
            WhenContextIsFull::Shift { .. } if !self.banned_phrases.is_empty() => {
                Err(ScheduleError::ShiftsPhrases)
            }
            WhenContextIsFull::Shift { keep } if keep >= n_ctx => {
                Err(ScheduleError::KeepsAll { keep, n_ctx })
            }
            _ => Ok(()),
        }
    }
}
