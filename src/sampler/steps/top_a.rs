use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number from 0 to 1";

pub fn check(a: &f32) -> bool {
    (0.0..=1.0).contains(a)
}

pub fn apply(a: &f32, _: &Context, candidates: &mut Candidates) {
    if *a == 0.0 {
        return;
    }
    candidates.softmax();
    let best = candidates.best_p();
    candidates.retain_from(a * best * best);
}
