use super::super::{Candidate, Candidates, Context};

pub const EXPECTED: &str = "a probability from 0 to 1";

pub fn check(p: &f32) -> bool {
    (0.0..=1.0).contains(p)
}

/// Keeps at least the most typical token, and what is as typical as the last one kept.
pub fn apply(p: &f32, _: &Context, candidates: &mut Candidates) {
    if *p == 1.0 {
        return;
    }
    candidates.softmax();
    let entropy: f32 = (candidates.iter())
        .filter(|c| c.p > 0.0)
        .map(|c| -c.p * c.p.ln())
        .sum();
    let distance = |c: &Candidate| (-c.p.ln() - entropy).abs();
    let last = candidates.reach(*p, distance);
    if let Some(last) = last {
        candidates.retain(|c| distance(c) <= last.key);
    }
}
