use serde::{Deserialize, Serialize};

use super::super::{Candidates, Context};

/// Between which temperatures, and how fast from one to the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicTemperature {
    /// Where the model is certain.
    pub low: f32,
    /// Where all tokens are equally likely.
    pub high: f32,
    /// The power of the relative entropy.
    pub exponent: f32,
}

pub const EXPECTED: &str = "temperatures above 0, at most 100, and an exponent from 0 to 100";

pub fn check(dynamic: &Option<DynamicTemperature>) -> bool {
    dynamic.as_ref().is_none_or(|d| {
        let positive = |t: f32| t > 0.0 && t <= 100.0;
        positive(d.low) && positive(d.high) && (0.0..=100.0).contains(&d.exponent)
    })
}

/// Divides logits by `low + (high - low) * (H / H_max)^exponent`, where `H` is the entropy of
/// the candidates' softmax and `H_max` what it would be were they equally likely.
pub fn apply(dynamic: &Option<DynamicTemperature>, _: &Context, candidates: &mut Candidates) {
    let Some(dynamic) = dynamic else { return };
    candidates.softmax();
    let entropy = candidates.entropy();
    let possible = candidates.iter().filter(|c| c.logit > f32::NEG_INFINITY);
    let highest = (possible.count().max(1) as f64).ln();
    let relative = if highest > 0.0 {
        (entropy / highest).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let (low, high) = (f64::from(dynamic.low), f64::from(dynamic.high));
    let temperature = low + (high - low) * relative.powf(f64::from(dynamic.exponent));
    for logit in candidates.logits_mut() {
        *logit = (f64::from(*logit) / temperature) as f32;
    }
}
