//! One request while it is written: what is still to be evaluated, how tokens are drawn, and
//! how they become text.

use std::sync::Arc;
use std::time::Instant;

use super::phrases::{Drawn, Phrases};
use super::request::{
    Event, Finish, Limits, Logprobs, Request, RequestId, ScheduleError, Timings, WhenContextIsFull,
};
use super::stops::Stops;
use crate::sampler::{Over, Sampler};
use crate::text::{TextStream, Tokenizer};

/// How often a text may go back from banned phrases. One that is so hemmed in ends.
const MAX_TAKEN_BACK: usize = 1000;

/// A request that is being written.
pub(super) struct Writer<'a> {
    pub id: RequestId,
    pub when_full: WhenContextIsFull,
    /// Tokens that the sequence does not have yet, in order: the prompt, later the last token.
    pub todo: Vec<u32>,
    /// Prompt and drawn tokens.
    history: Vec<u32>,
    prompt_len: usize,
    eos: Vec<u32>,
    limits: Limits,
    sampler: Sampler,
    /// What was drawn and not taken yet.
    drawn: Option<Drawn<'a>>,
    logprobs: Option<usize>,
    drawable: Arc<[bool]>,
    stream: TextStream<'a>,
    phrases: Phrases<'a>,
    /// How often tokens were taken back, and how many of the sequence are to go for it.
    taken_back: usize,
    excess: usize,
    stops: Stops,
    timings: Timings,
    /// When its first pass began, and when the prompt's logits were there.
    started: Option<Instant>,
    prompted: Option<Instant>,
}

impl<'a> Writer<'a> {
    /// `request` was checked; its sampling parameters are here.
    pub fn new(
        id: RequestId,
        request: Request,
        tokenizer: &'a Tokenizer,
        drawable: Arc<[bool]>,
    ) -> Result<Self, ScheduleError> {
        Ok(Writer {
            id,
            when_full: request.when_full,
            todo: request.prompt.clone(),
            prompt_len: request.prompt.len(),
            eos: request.sampling.eos.clone(),
            limits: request.limits,
            sampler: Sampler::new(request.sampling, Arc::clone(&drawable), request.seed)?
                .constrained(request.constraint),
            drawn: None,
            logprobs: request.logprobs,
            drawable,
            stream: tokenizer.stream_after(&request.prompt),
            phrases: Phrases::new(&request.banned_phrases),
            taken_back: 0,
            excess: 0,
            stops: Stops::new(request.stop),
            timings: Timings {
                prompt_tokens: request.prompt.len(),
                ..Timings::default()
            },
            started: None,
            prompted: None,
            history: request.prompt,
        })
    }

    /// The tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.history[..self.prompt_len]
    }

    /// Whether the text may have no token more.
    pub fn is_at_limit(&self) -> bool {
        self.limits
            .reached(self.prompt_len, self.history.len() - self.prompt_len)
    }

    /// Whether some of the prompt is still to be evaluated.
    pub fn is_reading(&self) -> bool {
        self.prompted.is_none()
    }

    /// Whether only the token drawn last is to be evaluated.
    pub fn is_writing(&self) -> bool {
        self.prompted.is_some() && self.todo.len() == 1
    }

    /// The sequence it got has the first `cached` tokens of the prompt already.
    pub fn begin(&mut self, cached: usize, now: Instant) {
        self.todo.drain(..cached);
        self.timings.cached_tokens = cached;
        self.started = Some(now);
    }

    /// The first `n` tokens to do are evaluated.
    pub fn fed(&mut self, n: usize, sink: &mut dyn FnMut(RequestId, Event)) {
        self.todo.drain(..n);
        if self.prompted.is_none() {
            let total = self.prompt_len;
            let done = total - self.todo.len();
            sink(self.id, Event::Prompt { done, total });
        }
    }

    /// Draws the token after the last one, from `logits` `[n_vocab]`.
    pub fn draw(&mut self, logits: &[f32]) {
        let before = (self.phrases.any()).then(|| (self.sampler.mark(), self.stream.clone()));
        let token = self.sampler.sample(logits, &self.history, self.prompt_len);
        self.drawn = token.map(|token| Drawn {
            token,
            logprobs: (self.logprobs).map(|n| logprobs(logits, &self.drawable, token, n)),
            text: String::new(),
            before,
        });
    }

    /// Takes the token that was [drawn](Self::draw); says why the text ends if it does.
    pub fn take(&mut self, now: Instant, sink: &mut dyn FnMut(RequestId, Event)) -> Option<Finish> {
        self.prompted.get_or_insert(now);
        let Some(mut drawn) = self.drawn.take() else {
            return Some(match self.sampler.over() {
                Some(Over::Whole) => Finish::Eos,
                Some(Over::Failed(why)) => Finish::ConstraintFailed(why.clone()),
                None => Finish::NothingToDraw,
            });
        };
        if self.eos.contains(&drawn.token) {
            return Some(Finish::Eos);
        }
        self.history.push(drawn.token);
        self.todo.push(drawn.token);
        drawn.text = self.stream.push(drawn.token).to_string();
        if let Some((began, n)) = self.phrases.push(drawn) {
            self.take_back(began, n);
            return (self.taken_back > MAX_TAKEN_BACK).then_some(Finish::NothingToDraw);
        }
        while let Some(drawn) = self.phrases.certain() {
            if let Some(stop) = self.tell(drawn, sink) {
                return Some(Finish::Stop(stop));
            }
        }
        self.is_at_limit().then_some(Finish::Length)
    }

    /// Goes back over the last `n` tokens, to where `began` was drawn. The token before it is
    /// evaluated once more, for its logits.
    fn take_back(&mut self, began: Drawn<'a>, n: usize) {
        if let Some((mark, stream)) = began.before {
            self.sampler.take_back(mark, began.token);
            self.stream = stream;
        }
        self.history.truncate(self.history.len() - n);
        self.todo.clear();
        self.todo.extend(self.history.last());
        // The last of the `n` was not evaluated, but the one before them was.
        self.excess = n;
        self.taken_back += 1;
    }

    /// How many tokens of the sequence are to go, since they were taken back.
    pub fn take_excess(&mut self) -> usize {
        std::mem::take(&mut self.excess)
    }

    /// Tells of a token that is certain; gives the stop string that it completes.
    fn tell(&mut self, drawn: Drawn<'a>, sink: &mut dyn FnMut(RequestId, Event)) -> Option<String> {
        if let Some(logprobs) = drawn.logprobs {
            sink(self.id, Event::Logprobs(logprobs));
        }
        sink(self.id, Event::Token(drawn.token));
        self.timings.generated_tokens += 1;
        let released = self.stops.push(&drawn.text);
        say(self.id, released.text, sink);
        released.stop
    }

    /// The last news: text that was held back, then why it ended.
    pub fn end(mut self, finish: Finish, now: Instant, sink: &mut dyn FnMut(RequestId, Event)) {
        let mut finish = finish;
        while !matches!(finish, Finish::Stop(_))
            && let Some(drawn) = self.phrases.rest()
        {
            if let Some(stop) = self.tell(drawn, sink) {
                finish = Finish::Stop(stop);
            }
        }
        if !matches!(finish, Finish::Stop(_)) {
            let released = self.stops.push(&self.stream.finish());
            say(self.id, released.text, sink);
            match released.stop {
                Some(stop) => finish = Finish::Stop(stop),
                None => say(self.id, self.stops.finish(), sink),
            }
        }
        let prompted = self.prompted.unwrap_or(now);
        if let Some(started) = self.started {
            self.timings.prompt_time = prompted - started;
        }
        self.timings.generation_time = now - prompted;
        sink(self.id, Event::Done(finish, self.timings));
    }
}

/// The `n` likeliest of the drawable tokens, the lower id first among equals.
fn logprobs(logits: &[f32], drawable: &[bool], drawn: u32, n: usize) -> Logprobs {
    let mut ranked: Vec<(u32, f32)> = (0..)
        .zip(logits.iter().zip(drawable))
        .filter(|(_, (logit, drawable))| **drawable && !logit.is_nan())
        .map(|(id, (&logit, _))| (id, logit))
        .collect();
    let max = (ranked.iter()).fold(f32::NEG_INFINITY, |max, &(_, logit)| max.max(logit));
    let sum: f64 = (ranked.iter())
        .map(|&(_, logit)| f64::from(logit - max).exp())
        .sum();
    let log_sum = f64::from(max) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if (1..ranked.len()).contains(&n) {
        ranked.select_nth_unstable_by(n - 1, order);
    }
    ranked.truncate(n);
    ranked.sort_unstable_by(order);
    Logprobs {
        drawn: logprob(logits.get(drawn as usize).copied().unwrap_or(f32::NAN)),
        top: (ranked.into_iter())
            .map(|(id, logit)| (id, logprob(logit)))
            .collect(),
    }
}

fn say(id: RequestId, text: String, sink: &mut dyn FnMut(RequestId, Event)) {
    if !text.is_empty() {
        sink(id, Event::Text(text));
    }
}
