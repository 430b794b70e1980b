use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number from 0 to 100";

pub fn check(temperature: &f32) -> bool {
    (0.0..=100.0).contains(temperature)
}

pub fn apply(temperature: &f32, _: &Context, candidates: &mut Candidates) {
    if *temperature == 0.0 {
        let best = candidates.nth(0, |c| -c.logit);
        candidates.retain(|c| best.is_none_or(|best| c.id == best.id));
    } else if *temperature != 1.0 {
        for c in candidates.iter_mut() {
            c.logit /= temperature;
        }
    }
}
