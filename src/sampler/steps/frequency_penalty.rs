use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a number from -100 to 100";

pub fn check(penalty: &f32) -> bool {
    (-100.0..=100.0).contains(penalty)
}

pub fn apply(penalty: &f32, context: &Context, candidates: &mut Candidates) {
    if *penalty != 0.0 {
        candidates.for_each_in(context.generated(), |logit, count| {
            *logit -= penalty * count as f32;
        });
    }
}
