use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number above 0, at most 100";

pub fn check(penalty: &f32) -> bool {
    *penalty > 0.0 && *penalty <= 100.0
}

/// Once for each token, however often it occurred.
pub fn apply(penalty: &f32, context: &Context, candidates: &mut Candidates) {
    if *penalty == 1.0 {
        return;
    }
    let history = context.history;
    let window = context.params.repetition_window.unwrap_or(history.len());
    let seen = &history[history.len().saturating_sub(window)..];
    candidates.for_each_in(seen, |c, _| {
        if c.logit < 0.0 {
            c.logit *= penalty;
        } else {
            c.logit /= penalty;
        }
    });
}
