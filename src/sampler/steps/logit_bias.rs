use std::collections::BTreeMap;

use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a finite number for each id";

pub fn check(bias: &BTreeMap<u32, f32>) -> bool {
    bias.values().all(|b| b.is_finite())
}

pub fn apply(bias: &BTreeMap<u32, f32>, _: &Context, candidates: &mut Candidates) {
    for (&id, bias) in bias {
        if let Some(logit) = candidates.get_mut(id) {
            *logit += bias;
        }
    }
}
