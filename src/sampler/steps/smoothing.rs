use serde::{Deserialize, Serialize};

use super::super::{Candidates, Context};

/// How much, and how steeply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smoothing {
    /// The higher, the less of unlikely tokens is left.
    pub factor: f32,
    /// 1 is the square alone; from there to 3 the cube takes its place.
    pub curve: f32,
}

pub const EXPECTED: &str = "a factor above 0, at most 100, and a curve from 0 to 10";

pub fn check(smoothing: &Option<Smoothing>) -> bool {
    smoothing.as_ref().is_none_or(|smoothing| {
        let positive = smoothing.factor > 0.0 && smoothing.factor <= 100.0;
        positive && (0.0..=10.0).contains(&smoothing.curve)
    })
}

/// With `d = logit - max`: `max - factor * ((3 - curve) / 2 * d^2 - (curve - 1) / 2 * d^3)`.
pub fn apply(smoothing: &Option<Smoothing>, _: &Context, candidates: &mut Candidates) {
    let Some(smoothing) = smoothing else { return };
    let max = candidates.max();
    if !max.is_finite() {
        return;
    }
    let square = smoothing.factor * (3.0 - smoothing.curve) / 2.0;
    let cube = smoothing.factor * (smoothing.curve - 1.0) / 2.0;
    let logits = candidates.logits_mut().iter_mut();
    for logit in logits.filter(|logit| logit.is_finite()) {
        let d = *logit - max;
        *logit = max - d * d * (square - cube * d);
    }
}
