//! The only loop that forms batches: requests join and leave token by token, share forward
//! passes and cached prefixes. `run` is a schedule of one.
//!
//! A request waits until a sequence is idle, then takes the one with the longest common prefix
//! (or shares that prefix into another). Each [`step`](Schedule::step) is one forward pass: the
//! next token of every request that writes, then pieces of the prompts of those that do not yet.

mod phrases;
mod request;
mod stops;
mod writer;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use request::{
    Event, Finish, Limits, Logprobs, Request, RequestId, ScheduleError, Timings, WhenContextIsFull,
};

use crate::engine::{Engine, Feed, Logits, Session};
use crate::text::Tokenizer;
use writer::Writer;

/// So many tokens more than any sequence has are waited for, where one is about to have them.
const WORTH_WAITING: usize = 16;

/// How many tokens one pass may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSizes {
    /// Tokens of a pass while nobody writes: the larger, the better weights are shared.
    pub prefill: usize,
    /// Tokens of prompts in a pass in which somebody writes, who waits for it.
    pub prefill_beside: usize,
}

impl Default for BatchSizes {
    fn default() -> Self {
        BatchSizes {
            prefill: 512,
            prefill_beside: 64,
        }
    }
}

/// Who has a sequence. Without a writer it is idle, its tokens there for others to reuse.
#[derive(Default)]
struct Slot<'a> {
    writer: Option<Writer<'a>>,
    /// The step in which it was last needed.
    last_used: u64,
    /// How many tokens of it the pass being formed holds.
    fed: usize,
    /// Which row of the pass's logits is its.
    output: Option<usize>,
}

/// Requests on one engine.
pub struct Schedule<'a> {
    session: &'a mut Session,
    tokenizer: &'a Tokenizer,
    /// `drawable[id]`: whether the id is a token; the embedding's surplus rows are not.
    drawable: Arc<[bool]>,
    batch_sizes: BatchSizes,
    waiting: VecDeque<Writer<'a>>,
    cancelled: Vec<RequestId>,
    /// `slots[sequence]`.
    slots: Vec<Slot<'a>>,
    submitted: u64,
    steps: u64,
    /// The pass being formed; kept to allocate nothing while decoding.
    feeds: Vec<Feed>,
}

impl<'a> Schedule<'a> {
    /// A schedule without requests. What the engine's sequences hold already is reused.
    pub fn new(engine: &'a mut Engine, tokenizer: &'a Tokenizer) -> Self {
        let drawable = (0..engine.n_vocab())
            .map(|id| tokenizer.is_drawable(id as u32))
            .collect();
        let session = engine.session();
        let slots = (0..session.n_sequences()).map(|_| Slot::default());
        Schedule {
            tokenizer,
            drawable,
            batch_sizes: BatchSizes::default(),
            waiting: VecDeque::new(),
            cancelled: Vec::new(),
            slots: slots.collect(),
            submitted: 0,
            steps: 0,
            feeds: Vec::new(),
            session,
        }
    }

    /// Sets how many tokens a pass may hold; at least one each.
    pub fn set_batch_sizes(&mut self, sizes: BatchSizes) {
        self.batch_sizes = BatchSizes {
            prefill: sizes.prefill.max(1),
            prefill_beside: sizes.prefill_beside.max(1),
        };
    }

    /// Takes a request on; its events come from [`step`](Schedule::step).
    ///
    /// Where `sampling.eos` is empty, the vocabulary's own end-of-text token ends the text.
    ///
    /// # Errors
    /// A prompt that is empty, too long or has tokens the model does not; sampling parameters
    /// out of range; an empty stop string.
    pub fn submit(&mut self, mut request: Request) -> Result<RequestId, ScheduleError> {
        if request.sampling.eos.is_empty() {
            request.sampling.eos.extend(self.tokenizer.eos());
        }
        request.check(self.session.n_ctx(), self.drawable.len())?;
        let id = RequestId(self.submitted);
        let drawable = Arc::clone(&self.drawable);
        let writer = Writer::new(id, request, self.tokenizer, drawable)?;
        self.submitted += 1;
        self.waiting.push_back(writer);
        Ok(id)
    }

    /// Ends a request; its `Done` comes with the next step.
    pub fn cancel(&mut self, request: RequestId) {
        self.cancelled.push(request);
    }

    /// How many requests wait for a sequence, and how many have one.
    pub fn load(&self) -> (usize, usize) {
        let running = self.slots.iter().filter(|slot| slot.writer.is_some());
        (self.waiting.len(), running.count())
    }

    /// Who has each sequence, and how many tokens it holds.
    pub fn slots(&self) -> impl Iterator<Item = (Option<RequestId>, usize)> {
        self.slots.iter().enumerate().map(|(i, slot)| {
            let id = slot.writer.as_ref().map(|writer| writer.id);
            (id, self.session.len(i as u32))
        })
    }

    /// Tokens that the last pass held.
    pub fn batch_len(&self) -> usize {
        self.feeds.len()
    }

    /// Whether any request is left.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.slots.iter().any(|slot| slot.writer.is_some())
    }

    /// Runs every request to its end.
    ///
    /// # Errors
    /// As [`step`](Schedule::step).
    pub fn run(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> Result<(), ScheduleError> {
        while self.is_busy() {
            self.step(sink)?;
        }
        Ok(())
    }

    /// One forward pass, and its news for `sink`. Does nothing where no request is left.
    ///
    /// # Errors
    /// What the device could not do; the requests stay as they were.
    pub fn step(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> Result<(), ScheduleError> {
        self.steps += 1;
        self.end_cancelled(sink);
        self.admit(sink)?;
        self.make_room(sink)?;
        self.form_batch();
        if self.feeds.is_empty() {
            return Ok(());
        }
        let logits = self.session.evaluate(&self.feeds)?;
        let now = Instant::now();
        for slot in &mut self.slots {
            if let (Some(writer), 1..) = (&mut slot.writer, slot.fed) {
                writer.fed(slot.fed, sink);
                slot.last_used = self.steps;
            }
        }
        draw(&mut self.slots, &logits);
        for slot in &mut self.slots {
            if let (Some(writer), Some(_)) = (&mut slot.writer, slot.output)
                && let Some(finish) = writer.take(now, sink)
            {
                slot.end(finish, now, sink);
            }
        }
        for (sequence, slot) in (0..).zip(&mut self.slots) {
            if let Some(excess @ 1..) = slot.writer.as_mut().map(Writer::take_excess) {
                let len = self.session.len(sequence);
                self.session
                    .truncate(sequence, len.saturating_sub(excess))?;
            }
        }
        Ok(())
    }

    fn end_cancelled(&mut self, sink: &mut dyn FnMut(RequestId, Event)) {
        if self.cancelled.is_empty() {
            return;
        }
        let cancelled = std::mem::take(&mut self.cancelled);
        let now = Instant::now();
        for slot in &mut self.slots {
            let writer = slot.writer.as_ref();
            if writer.is_some_and(|w| cancelled.contains(&w.id)) {
                slot.end(Finish::Cancelled, now, sink);
            }
        }
        for writer in std::mem::take(&mut self.waiting) {
            if cancelled.contains(&writer.id) {
                writer.end(Finish::Cancelled, now, sink);
            } else {
                self.waiting.push_back(writer);
            }
        }
    }

    /// Gives idle sequences to those who wait, in order, but for those whose prompt begins as one
    /// does that is being read: they wait for it, so that it is read once.
    fn admit(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> Result<(), ScheduleError> {
        let mut place = 0;
        while let Some(writer) = self.waiting.get(place) {
            let taken = if writer.is_at_limit() {
                None
            } else {
                match self.choose(writer.prompt()) {
                    Some(choice)
                        if self.comes(writer.prompt()) >= choice.common + WORTH_WAITING =>
                    {
                        place += 1;
                        continue;
                    }
                    Some(choice) => Some(choice),
                    None => return Ok(()),
                }
            };
            let Some(mut writer) = self.waiting.remove(place) else {
                return Ok(());
            };
            let now = Instant::now();
            let Some(choice) = taken else {
                writer.end(Finish::Length, now, sink);
                continue;
            };
            let (from, to) = (choice.from as u32, choice.to as u32);
            let shared = match from == to {
                true => self.session.truncate(to, choice.common),
                false => self.session.share(from, to, choice.common),
            };
            if let Err(error) = shared {
                self.waiting.insert(place, writer);
                return Err(error.into());
            }
            writer.begin(choice.common, now);
            let slot = &mut self.slots[choice.to];
            slot.last_used = self.steps;
            slot.writer = Some(writer);
        }
        Ok(())
    }

    /// The idle sequence that `prompt` should get, and whose beginning it should share; `None`
    /// where no sequence is idle.
    fn choose(&self, prompt: &[u32]) -> Option<Choice> {
        let idle = (0..self.slots.len()).filter(|&i| self.slots[i].writer.is_none());
        let used = |i: usize| (!self.session.is_empty(i as u32), self.slots[i].last_used);
        let oldest = idle.min_by_key(|&i| used(i))?;
        // The last token is evaluated in any case, for its logits.
        let wanted = &prompt[..prompt.len().saturating_sub(1)];
        let common = |i: usize| common(self.session.reusable(i as u32), wanted);
        let best = (0..self.slots.len()).max_by_key(|&i| common(i))?;
        let shared = common(best);
        // A sequence that goes on from all it has is taken as it is; otherwise it keeps what
        // it has, for the next one that begins so, and the oldest makes place.
        let goes_on = self.slots[best].writer.is_none() && shared == self.session.len(best as u32);
        Some(Choice {
            from: best,
            to: if goes_on && shared > 0 { best } else { oldest },
            common: shared,
        })
    }

    /// How much of `prompt` a sequence will have when the prompt that it reads is read.
    fn comes(&self, prompt: &[u32]) -> usize {
        let writers = self.slots.iter().filter_map(|slot| slot.writer.as_ref());
        let read = writers.filter(|writer| writer.is_reading());
        let most = read.map(|writer| common(writer.prompt(), prompt)).max();
        most.unwrap_or(0)
    }

    /// Ends or shifts those whose next token has no place in the context.
    fn make_room(&mut self, sink: &mut dyn FnMut(RequestId, Event)) -> Result<(), ScheduleError> {
        let n_ctx = self.session.n_ctx();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            let len = self.session.len(i as u32);
            let Some(writer) = slot.writer.as_mut().filter(|w| len + w.todo.len() > n_ctx) else {
                continue;
            };
            match writer.when_full {
                WhenContextIsFull::Stop => slot.end(Finish::Context, Instant::now(), sink),
                WhenContextIsFull::Shift { keep } => {
                    let keep = keep.min(len.saturating_sub(1));
                    let discard = (len - keep).div_ceil(2);
                    let mut todo = self.session.shift(i as u32, keep, discard)?;
                    todo.append(&mut writer.todo);
                    writer.todo = todo;
                }
            }
        }
        Ok(())
    }

    /// Fills `feeds`: a token of each that writes, and a fair share of each prompt.
    fn form_batch(&mut self) {
        self.feeds.clear();
        let mut n_outputs = 0;
        let writers = || self.slots.iter().filter_map(|slot| slot.writer.as_ref());
        let n_writing = writers().filter(|w| w.is_writing()).count();
        let mut n_prompts = writers().count() - n_writing;
        let mut left = match n_writing {
            0 => self.batch_sizes.prefill,
            _ => self.batch_sizes.prefill_beside,
        };
        let n = self.slots.len();
        // Begins with another one each time, for when there are more prompts than places.
        let first = (self.steps % n.max(1) as u64) as usize;
        for sequence in (first..n).chain(0..first) {
            let slot = &mut self.slots[sequence];
            (slot.fed, slot.output) = (0, None);
            let Some(writer) = &slot.writer else {
                continue;
            };
            slot.fed = writer.todo.len();
            if !writer.is_writing() {
                slot.fed = slot.fed.min(left.div_ceil(n_prompts.max(1)));
                left -= slot.fed;
                n_prompts = n_prompts.saturating_sub(1);
            }
            let last = writer.todo.len() - 1;
            let fed = writer.todo.iter().take(slot.fed).enumerate();
            self.feeds.extend(fed.map(|(i, &token)| Feed {
                sequence: sequence as u32,
                token,
                wants_logits: i == last,
            }));
            if slot.fed > last {
                slot.output = Some(n_outputs);
                n_outputs += 1;
            }
        }
    }
}

/// Draws a token for each that has a row of `logits`, each from its own, whatever the others do.
fn draw(slots: &mut [Slot<'_>], logits: &Logits<'_>) {
    let drawing = slots.iter_mut().filter_map(|slot| {
        let writer = slot.writer.as_mut()?;
        Some((slot.output?, writer))
    });
    if logits.rows().len() == 1 {
        for (row, writer) in drawing {
            logits.row(row).into_iter().for_each(|row| writer.draw(row));
        }
        return;
    }
    let mut drawing: Vec<_> = drawing.map(|(row, w)| (row, Mutex::new(w))).collect();
    drawing.sort_unstable_by_key(|(row, _)| *row);
    logits.for_each(|i, row| {
        if let Some((_, writer)) = drawing.get(i) {
            // Nobody else comes for it.
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.draw(row);
        }
    });
}

/// How many tokens both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What [`Schedule::choose`] chose.
struct Choice {
    from: usize,
    to: usize,
    common: usize,
}

impl Slot<'_> {
    /// Tells the writer's last news and leaves the sequence idle.
    fn end(&mut self, finish: Finish, now: Instant, sink: &mut dyn FnMut(RequestId, Event)) {
        if let Some(writer) = self.writer.take() {
            writer.end(finish, now, sink);
        }
    }
}
