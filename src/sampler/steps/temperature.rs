use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number from 0 to 100";

pub fn check(temperature: &f32) -> bool {
    (0.0..=100.0).contains(temperature)
}

pub fn apply(temperature: &f32, _: &Context, candidates: &mut Candidates) {
    let max = candidates.max();
    // Below some 1e-37 quotients overflow, and only the likeliest would have a chance.
    let is_greedy = max.is_finite() && (max / temperature).is_infinite();
    if *temperature == 0.0 || is_greedy {
        let best = candidates.likeliest();
        candidates.retain(|c| best.is_none_or(|best| c.id == best));
    } else if *temperature != 1.0 {
        for logit in candidates.logits_mut() {
            *logit /= temperature;
        }
    }
}
