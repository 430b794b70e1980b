use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number above 0, at most 100";

pub fn check(penalty: &f32) -> bool {
    *penalty > 0.0 && *penalty <= 100.0
}

/// Once for each token, however often it occurred. Tokens that are only in the older half of the
/// window get `1 + slope * (penalty - 1)` in place of a penalty above 1.
pub fn apply(penalty: &f32, context: &Context, candidates: &mut Candidates) {
    if *penalty == 1.0 {
        return;
    }
    let history = context.history;
    let window = context.params.repetition_window.unwrap_or(history.len());
    let seen = &history[history.len().saturating_sub(window)..];
    let slope = context.params.repetition_slope;
    let punish = |penalty: f32| {
        move |logit: &mut f32, _: u32| {
            if *logit < 0.0 {
                *logit *= penalty;
            } else {
                *logit /= penalty;
            }
        }
    };
    if slope == 1.0 || *penalty < 1.0 {
        return candidates.for_each_in(seen, punish(*penalty));
    }
    let (far, near) = seen.split_at(seen.len().div_ceil(2));
    candidates.for_each_in(near, punish(*penalty));
    candidates.for_each_only_in(far, near, punish(1.0 + slope * (penalty - 1.0)));
}
