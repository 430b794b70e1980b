//! Logits to a token: one chain for every device and every API.
//!
//! A [`Sampler`] is pure over its inputs: what it draws depends on its parameters, its seed,
//! the logits and the tokens so far, and on nothing it did before. (But with mirostat, whose
//! bound follows what was drawn, with a [`Constraint`], which follows the text, and where tokens
//! were [taken back](Sampler::take_back).) First the surplus rows of the embedding, end-of-text
//! tokens that come too early, banned words and what the constraint does not allow are ruled
//! out; then the steps of [`Params::order`] change or remove what is left, each in a file of its
//! own; then a token is drawn from the softmax.
//!
//! The default order and the arithmetic of each step are those of `generate()` in Hugging
//! Face's transformers, so that a model card's settings mean the same here.

mod ban;
mod candidates;
mod constraint;
mod draw;
mod softmax;
mod steps;

pub use candidates::Candidate;
pub use constraint::{Constraint, Next, Over};
pub use draw::random_seed;
pub use steps::{
    Dry, DynamicTemperature, Invalid, Mirostat, MirostatVersion, Params, Smoothing, Step, Xtc,
};

use std::cell::RefCell;
use std::sync::Arc;

use candidates::Candidates;

/// What the steps of the chain see of the text.
#[derive(Clone, Copy)]
struct Context<'a> {
    params: &'a Params,
    /// Prompt and generated tokens.
    history: &'a [u32],
    /// How many of `history` are the prompt.
    prompt_len: usize,
    /// Mirostat's bound on surprise, in bits.
    bound: f64,
    draw: &'a draw::Draw,
}

impl<'a> Context<'a> {
    /// The tokens that were generated after the prompt.
    fn generated(&self) -> &'a [u32] {
        self.history.get(self.prompt_len..).unwrap_or_default()
    }

    /// A number for this place, uniform in `[0, 1)`, independent of that which draws the token.
    fn chance(&self) -> f64 {
        self.draw.chance(self.generated().len())
    }
}

/// Draws the tokens of one text.
///
/// Buffers are reused: after a thread's first token only DRY, tail-free sampling and mirostat 1
/// allocate.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: Params,
    drawable: Arc<[bool]>,
    /// How many ids, from 0 on, are drawable without a gap.
    n_first: usize,
    draw: draw::Draw,
    bound: f64,
    constraint: Option<Box<dyn Constraint>>,
    over: Option<Over>,
    /// Tokens that were drawn at this place and taken back.
    taken_back: Vec<u32>,
}

thread_local! {
    /// Of whatever text draws next on this thread: those of all texts together would take the place
    /// of the model's weights in the caches.
    static CANDIDATES: RefCell<Candidates> = RefCell::default();
}

/// What a [`Sampler`] knows at one place of its text beside the tokens.
#[derive(Debug, Clone)]
pub struct Mark {
    bound: f64,
    constraint: Option<Box<dyn Constraint>>,
    taken_back: Vec<u32>,
}

impl Sampler {
    /// `drawable[id]` says whether `id` is a token of the vocabulary; false for the embedding's
    /// surplus rows, which are never drawn whatever the parameters are.
    ///
    /// # Errors
    /// The first field of `params` that is out of its range, or names an id that the embedding
    /// has no row for.
    pub fn new(params: Params, drawable: Arc<[bool]>, seed: u64) -> Result<Self, Invalid> {
        params.validate()?;
        params.validate_ids(drawable.len())?;
        Ok(Self {
            bound: params.mirostat.as_ref().map_or(0.0, Mirostat::first_bound),
            params,
            n_first: drawable.iter().take_while(|drawable| **drawable).count(),
            drawable,
            draw: draw::Draw::new(seed),
            constraint: None,
            over: None,
            taken_back: Vec::new(),
        })
    }

    /// Draws only what `constraint`, which is at the beginning of the text, allows. An
    /// end-of-text token is allowed where the text may end, whatever it shows.
    pub fn constrained(mut self, constraint: Option<Box<dyn Constraint>>) -> Self {
        self.constraint = constraint;
        self
    }

    /// Why nothing can be drawn, where that is the constraint's doing.
    pub fn over(&self) -> Option<&Over> {
        self.over.as_ref()
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The seed it was made with.
    pub fn seed(&self) -> u64 {
        self.draw.seed()
    }

    /// What the chain leaves of `logits` (`[n_vocab]`, the last position's), in order of id.
    /// The probabilities add up to 1, or are all 0 where nothing can be drawn.
    ///
    /// `history` is the prompt's tokens and those generated so far; `prompt_len` is how many
    /// are the prompt's.
    pub fn probabilities(
        &mut self,
        logits: &[f32],
        history: &[u32],
        prompt_len: usize,
    ) -> Vec<Candidate> {
        CANDIDATES.with_borrow_mut(|candidates| {
            self.run_chain(candidates, logits, history, prompt_len);
            candidates.iter().collect()
        })
    }

    fn run_chain(
        &mut self,
        candidates: &mut Candidates,
        logits: &[f32],
        history: &[u32],
        prompt_len: usize,
    ) {
        candidates.fill(logits, &self.drawable, self.n_first);
        let context = Context {
            params: &self.params,
            history,
            prompt_len,
            bound: self.bound,
            draw: &self.draw,
        };
        ban::apply(&context, candidates);
        for &id in &self.taken_back {
            candidates.ban(id);
        }
        if let Some(constraint) = &mut self.constraint {
            self.over = constraint::apply(constraint.as_mut(), &self.params, candidates);
            if self.over.is_some() {
                candidates.retain(|_| false);
            }
        }
        for step in &self.params.order {
            step.apply(&context, candidates);
        }
        candidates.softmax();
    }

    /// The next token, or `None` where nothing can be drawn: every token is banned, the
    /// logits are not numbers, or the text is [`over`](Self::over).
    pub fn sample(&mut self, logits: &[f32], history: &[u32], prompt_len: usize) -> Option<u32> {
        let n_generated = history.len().saturating_sub(prompt_len);
        let drawn = CANDIDATES.with_borrow_mut(|candidates| {
            self.run_chain(candidates, logits, history, prompt_len);
            let drawn = self.draw.draw(candidates, n_generated)?;
            if let Some(mirostat) = &self.params.mirostat
                && let Some(surprise) = candidates.surprise(drawn)
            {
                self.bound = mirostat.next_bound(self.bound, surprise);
            }
            Some(drawn)
        })?;
        if let Some(constraint) = &mut self.constraint
            && !self.params.eos.contains(&drawn)
        {
            constraint.take(drawn);
        }
        self.taken_back.clear();
        Some(drawn)
    }

    /// This place of the text, to come back to.
    pub fn mark(&self) -> Mark {
        Mark {
            bound: self.bound,
            constraint: self.constraint.clone(),
            taken_back: self.taken_back.clone(),
        }
    }

    /// Goes back to `mark`, where `id` was drawn: it is not drawn there again. What is drawn
    /// from here on is independent of what was drawn before, as it must be for the other tokens
    /// to keep their shares.
    pub fn take_back(&mut self, mark: Mark, id: u32) {
        self.bound = mark.bound;
        self.constraint = mark.constraint;
        self.over = None;
        self.taken_back = mark.taken_back;
        self.taken_back.push(id);
        self.draw.begin_anew();
    }
}
