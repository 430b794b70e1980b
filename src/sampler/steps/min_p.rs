use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a fraction from 0 to 1";

pub fn check(p: &f32) -> bool {
    (0.0..=1.0).contains(p)
}

pub fn apply(p: &f32, _: &Context, candidates: &mut Candidates) {
    if *p == 0.0 {
        return;
    }
    candidates.softmax();
    let best = candidates.best_p();
    candidates.retain_from(p * best);
}
