//! What a text must look like: rules from outside the chain, which follow the text token by
//! token.

use super::Params;
use super::candidates::Candidates;

/// Follows a text and says what may come next. Implemented elsewhere.
pub trait Constraint: Send + Sync {
    /// What may come next.
    ///
    /// # Errors
    /// It cannot be said (it would take too long, say), and never again.
    fn next(&mut self) -> Result<Next<'_>, String>;

    /// `id`, which was allowed, was drawn. Where that cannot be followed, [`next`](Self::next)
    /// says so.
    fn take(&mut self, id: u32);

    /// Another at the same place of the same text.
    fn boxed(&self) -> Box<dyn Constraint>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

impl std::fmt::Debug for dyn Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Constraint")
    }
}

/// What may come next in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// Some tokens, or the text's end.
    Tokens {
        /// `id` may come where bit `id % 32` of word `id / 32` is set; ids beyond may not.
        allowed: &'a [u32],
        /// Whether the text may end here.
        may_end: bool,
    },
    /// Nothing: the text is whole.
    End,
}

/// Why a constrained text cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// It is whole.
    Whole,
    /// What may come next cannot be said.
    Failed(String),
}

/// Rules out what may not come next. Says so where that leaves nothing because the text is over.
pub(super) fn apply(
    constraint: &mut dyn Constraint,
    params: &Params,
    candidates: &mut Candidates,
) -> Option<Over> {
    let (allowed, may_end) = match constraint.next() {
        Ok(Next::Tokens { allowed, may_end }) => (allowed, may_end),
        Ok(Next::End) => return Some(Over::Whole),
        Err(error) => return Some(Over::Failed(error)),
    };
    let mut any = false;
    for (id, logit) in candidates.iter_mut() {
        let word = allowed.get(id as usize / 32).copied().unwrap_or(0);
        let allowed = match params.eos.contains(&id) {
            true => may_end,
            false => word >> (id % 32) & 1 == 1,
        };
        if !allowed {
            *logit = f32::NEG_INFINITY;
        }
        any |= *logit > f32::NEG_INFINITY;
    }
    // Its end is banned (it comes too early, say), but nothing else can come.
    (!any && may_end).then_some(Over::Whole)
}
