use serde::{Deserialize, Serialize};

use super::super::{Candidate, Candidates, Context};

/// When the likeliest tokens are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Xtc {
    /// How probable it is at each place. 0 is off.
    pub probability: f32,
    /// From what probability on a token is one of the likeliest.
    pub threshold: f32,
}

impl Default for Xtc {
    fn default() -> Self {
        Xtc {
            probability: 0.0,
            threshold: 0.1,
        }
    }
}

pub const EXPECTED: &str = "a probability and a threshold from 0 to 1";

pub fn check(xtc: &Xtc) -> bool {
    (0.0..=1.0).contains(&xtc.probability) && (0.0..=1.0).contains(&xtc.threshold)
}

/// Leaves out all tokens of at least `threshold` but the least likely of them (of equals, that
/// of the highest id). Line breaks and the end of the text are tokens like others, as in
/// llama.cpp and koboldcpp; the pull request's own code keeps all where one of them would go.
pub fn apply(xtc: &Xtc, context: &Context, candidates: &mut Candidates) {
    if xtc.probability == 0.0 || context.chance() >= f64::from(xtc.probability) {
        return;
    }
    candidates.softmax();
    // What is ruled out is there with a probability of 0, which a threshold may be.
    let likely = |c: &Candidate| c.p > 0.0 && c.p >= xtc.threshold;
    let all = candidates.iter().filter(likely);
    let least = all.min_by(|a, b| a.p.total_cmp(&b.p).then(b.id.cmp(&a.id)));
    if let Some(least) = least.map(|c| c.id) {
        candidates.retain(|c| !likely(c) || c.id == least);
    }
}
