use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a count of tokens, 0 for all";

pub fn check(_: &usize) -> bool {
    true
}

/// As in the reference, what is as likely as the last one kept is kept too.
pub fn apply(k: &usize, _: &Context, candidates: &mut Candidates) {
    let Some(last) = k.checked_sub(1) else { return };
    if let Some(last) = candidates.nth(last, |c| -c.logit) {
        candidates.retain(|c| -c.logit <= last.key);
    }
}
