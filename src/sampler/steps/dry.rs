use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::super::{Candidates, Context};

/// How much a token is penalised that would go on a repetition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dry {
    /// The penalty of the shortest repetition that has one. 0 is off.
    pub multiplier: f32,
    /// By what the penalty grows with each token of the repetition more.
    pub base: f32,
    /// Tokens of the shortest repetition that has a penalty.
    pub allowed_length: usize,
    /// How many of the last tokens are looked at; all where `None`.
    pub window: Option<usize>,
    /// Tokens that no repetition reaches across.
    pub breakers: BTreeSet<u32>,
}

impl Default for Dry {
    fn default() -> Self {
        Dry {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            window: None,
            breakers: BTreeSet::new(),
        }
    }
}

/// A longer repetition counts as one of so many tokens, as in the reference.
const LONGEST: usize = 50;

pub const EXPECTED: &str =
    "a multiplier from 0 to 100, a base from 1 to 10, a length of at least 1";

pub fn check(dry: &Dry) -> bool {
    (0.0..=100.0).contains(&dry.multiplier)
        && (1.0..=10.0).contains(&dry.base)
        && dry.allowed_length >= 1
}

/// Takes `multiplier * base^(n - allowed_length)` from a token that would make a repetition of
/// the last `n` tokens one longer; the longest repetition counts.
pub fn apply(dry: &Dry, context: &Context, candidates: &mut Candidates) {
    if dry.multiplier == 0.0 {
        return;
    }
    let history = context.history;
    let window = dry.window.unwrap_or(history.len());
    let seen = &history[history.len().saturating_sub(window)..];
    let breaks = |token: &u32| dry.breakers.contains(token);
    let Some((last, before)) = seen.split_last().filter(|(last, _)| !breaks(last)) else {
        return;
    };
    let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
    for (i, _) in before
        .iter()
        .enumerate()
        .filter(|(_, token)| *token == last)
    {
        // The token that came after `i` the last time; for the last one `i`, that is `last`.
        let next = seen[i + 1];
        if breaks(&next) {
            continue;
        }
        let earlier = before[..i].iter().rev().zip(before.iter().rev());
        let more = earlier
            .take_while(|(a, b)| a == b && !breaks(b))
            .take(LONGEST - 1);
        let length = 1 + more.count();
        let entry = longest.entry(next).or_default();
        *entry = length.max(*entry);
    }
    for (id, length) in longest {
        if let Some(beyond) = length.checked_sub(dry.allowed_length)
            && let Some(logit) = candidates.get_mut(id)
        {
            *logit -= dry.multiplier * dry.base.powi(beyond as i32);
        }
    }
}
