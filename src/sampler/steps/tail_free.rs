use super::super::{Candidates, Context};

pub const EXPECTED: &str = "a fraction from 0 to 1";

pub fn check(z: &f32) -> bool {
    (0.0..=1.0).contains(z)
}

/// The likeliest always stays, and the least likely never does: it has no second difference.
pub fn apply(z: &f32, _: &Context, candidates: &mut Candidates) {
    if *z == 1.0 {
        return;
    }
    candidates.softmax();
    let mut sorted = Vec::with_capacity(candidates.len());
    candidates.visit(
        |c| -c.logit,
        |ranked| {
            sorted.push(*ranked);
            true
        },
    );
    let bends: Vec<f64> = (sorted.windows(3))
        .map(|w| f64::from(w[0].p) - 2.0 * f64::from(w[1].p) + f64::from(w[2].p))
        .map(f64::abs)
        .collect();
    let total: f64 = bends.iter().sum();
    if total == 0.0 {
        return;
    }
    let mut sum = 0.0;
    let within = bends.iter().take_while(|bend| {
        sum += **bend / total;
        sum <= f64::from(*z)
    });
    if let Some(last) = sorted.get(within.count()) {
        candidates.retain(|c| (-c.logit, c.id) <= (last.key, last.id));
    }
}
