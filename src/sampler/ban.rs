//! What may not be drawn at this place, before any step: end-of-text tokens that come too
//! early, and banned words.

use super::Context;
use super::candidates::Candidates;

pub(super) fn apply(context: &Context, candidates: &mut Candidates) {
    let params = context.params;
    let too_early = context.history.len() < params.min_length
        || context.generated().len() < params.min_new_tokens;
    if params.ignore_eos || too_early {
        for &id in &params.eos {
            candidates.ban(id);
        }
    }
    for word in &params.banned {
        if let Some((&last, before)) = word.split_last()
            && context.history.ends_with(before)
        {
            candidates.ban(last);
        }
    }
}
