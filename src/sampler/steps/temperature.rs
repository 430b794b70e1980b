use super::super::{Candidate, Candidates, Context};

pub const EXPECTED: &str = "a number from 0 to 100";

pub fn check(temperature: &f32) -> bool {
    (0.0..=100.0).contains(temperature)
}

pub fn apply(temperature: &f32, _: &Context, candidates: &mut Candidates) {
    if *temperature == 0.0 {
        let best = (candidates.as_slice().iter().copied()).min_by(Candidate::by_logit);
        candidates.retain(|c| Some(c.id) == best.map(|best| best.id));
    } else if *temperature != 1.0 {
        for c in candidates.iter_mut() {
            c.logit /= temperature;
        }
    }
}
