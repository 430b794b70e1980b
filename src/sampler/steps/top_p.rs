use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a probability from 0 to 1";

pub fn check(p: &f32) -> bool {
    (0.0..=1.0).contains(p)
}

/// Keeps at least the likeliest; among equally likely tokens the lower id goes first.
pub fn apply(p: &f32, _: &Context, candidates: &mut Candidates) {
    if *p == 1.0 {
        return;
    }
    candidates.softmax();
    // Those less likely than this have, all together, at most half of what is left out.
    let unlikely = (1.0 - p) / (2 * candidates.len().max(1)) as f32;
    if candidates.best_p() >= unlikely {
        candidates.retain_from(unlikely);
    }
    let last = candidates.reach(*p, |c| -c.logit);
    if let Some(last) = last {
        candidates.retain(|c| (-c.logit, c.id) <= (last.key, last.id));
    }
}
