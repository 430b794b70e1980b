use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number from 0 to 100";

pub fn check(n: &f32) -> bool {
    (0.0..=100.0).contains(n)
}

/// The deviation is that of a whole population: of the logits that are not ruled out.
pub fn apply(n: &f32, _: &Context, candidates: &mut Candidates) {
    if *n == 0.0 {
        return;
    }
    let finite = || {
        let logits = candidates.iter().map(|c| f64::from(c.logit));
        logits.filter(|logit| logit.is_finite())
    };
    let count = finite().count();
    if count == 0 {
        return;
    }
    let mean = finite().sum::<f64>() / count as f64;
    let variance = finite().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count as f64;
    let max = finite().fold(f64::NEG_INFINITY, f64::max);
    let least = max - f64::from(*n) * variance.sqrt();
    candidates.retain(|c| f64::from(c.logit) >= least);
}
