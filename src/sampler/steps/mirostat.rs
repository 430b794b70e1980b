use serde::{Deserialize, Serialize};

use super::super::{Candidates, Context};

/// How surprising the text is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirostat {
    /// Which of the paper's algorithms.
    pub version: MirostatVersion,
    /// The surprise to hold, in bits: tau.
    pub target: f32,
    /// How fast the bound follows: eta.
    pub rate: f32,
}

/// How the bound on surprise becomes a choice of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirostatVersion {
    /// Tokens are taken to be distributed as Zipf's law has it; top-k with the k that follows.
    #[serde(rename = "1")]
    Zipf,
    /// Tokens more surprising than the bound are left out.
    #[serde(rename = "2")]
    Bound,
}

/// Tokens that Zipf's exponent is estimated from.
const ESTIMATED_FROM: usize = 100;

pub const EXPECTED: &str = "a target above 0, at most 100, and a rate from 0 to 10";

pub fn check(mirostat: &Option<Mirostat>) -> bool {
    mirostat
        .as_ref()
        .is_none_or(|m| m.target > 0.0 && m.target <= 100.0 && (0.0..=10.0).contains(&m.rate))
}

impl Mirostat {
    /// The bound on surprise before the first token, in bits.
    pub(in crate::sampler) fn first_bound(&self) -> f64 {
        2.0 * f64::from(self.target)
    }

    /// The bound after a token that surprised by so many bits.
    pub(in crate::sampler) fn next_bound(&self, bound: f64, surprise: f64) -> f64 {
        bound - f64::from(self.rate) * (surprise - f64::from(self.target))
    }
}

/// Keeps at least the likeliest token.
pub fn apply(mirostat: &Option<Mirostat>, context: &Context, candidates: &mut Candidates) {
    let Some(mirostat) = mirostat else { return };
    candidates.softmax();
    candidates.remember_surprise();
    let kept = match mirostat.version {
        MirostatVersion::Zipf => {
            let k = zipf_k(context.bound, candidates);
            candidates.nth(k - 1, |c| -c.logit)
        }
        MirostatVersion::Bound => {
            let mut last = None;
            candidates.visit(
                |c| -c.logit,
                |ranked| {
                    let within = -f64::from(ranked.p).log2() <= context.bound;
                    if within || last.is_none() {
                        last = Some(*ranked);
                    }
                    within
                },
            );
            last
        }
    };
    if let Some(last) = kept {
        candidates.retain(|c| (-c.logit, c.id) <= (last.key, last.id));
    }
}

/// How many tokens make texts of the surprise `bound`, in bits, if the candidates follow Zipf's
/// law; from 1 to all. (Equations 5 and 7 of the paper.)
fn zipf_k(bound: f64, candidates: &mut Candidates) -> usize {
    let n = candidates.len();
    let mut top = Vec::with_capacity(ESTIMATED_FROM);
    candidates.visit(
        |c| -c.logit,
        |ranked| {
            top.push(f64::from(ranked.p));
            top.len() < ESTIMATED_FROM
        },
    );
    let (mut products, mut squares) = (0.0, 0.0);
    for (i, pair) in top.windows(2).enumerate().filter(|(_, pair)| pair[1] > 0.0) {
        let t = ((i as f64 + 2.0) / (i as f64 + 1.0)).ln();
        products += t * (pair[0] / pair[1]).ln();
        squares += t * t;
    }
    let s = products / squares;
    let epsilon = s - 1.0;
    let k = (epsilon * bound.exp2() / (1.0 - (n as f64).powf(-epsilon))).powf(1.0 / s);
    // Not a number where there is one token: s is 0 / 0.
    if k.is_nan() {
        n.max(1)
    } else {
        k.round().clamp(1.0, n.max(1) as f64) as usize
    }
}
