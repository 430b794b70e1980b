//! What is left of the vocabulary while the chain runs.

use std::cmp::Ordering;

/// A token that can still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: u32,
    /// Its logit as the steps so far left it; minus infinity where it is ruled out.
    pub logit: f32,
    /// Its probability among the candidates, where a step has asked for it; see
    /// [`Sampler::probabilities`](super::Sampler::probabilities).
    pub p: f32,
}

/// A candidate in another order than that of ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    /// The smaller, the earlier.
    pub key: f32,
    /// Of candidates with one key, the lower id is earlier.
    pub id: u32,
    /// Its probability.
    pub p: f32,
}

impl Ranked {
    fn order(a: &Ranked, b: &Ranked) -> Ordering {
        a.key.total_cmp(&b.key).then(a.id.cmp(&b.id))
    }
}

/// Ranges of keys that [`Candidates::reach`] tells apart: by their sign, exponent and the first
/// three bits of the fraction.
const N_RANGES: usize = 1 << 12;

/// The range of a key, in order of `f32::total_cmp`.
fn range(key: f32) -> usize {
    let bits = key.to_bits();
    let ordered = match key.is_sign_negative() {
        true => !bits,
        false => bits | 1 << 31,
    };
    (ordered >> 20) as usize
}

/// The candidates, always in order of id, and buffers that steps share.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    /// What of `list` is put in another order.
    ranked: Vec<Ranked>,
    /// `[N_RANGES]`: the probability in each range of keys.
    ranges: Vec<f64>,
    /// `[n_vocab]`: how often an id occurs; all zero between uses.
    counts: Vec<u32>,
    /// The logarithm of the sum of the logits' exponentials, when a step asked to remember it.
    log_sum: Option<f64>,
}

impl Candidates {
    /// All drawable ids with their logits. What is not a number counts as ruled out.
    ///
    /// The first `n_first` ids are known to be drawable: usually all but a few, and looking at
    /// each would take longer than the rest.
    pub fn fill(&mut self, logits: &[f32], drawable: &[bool], n_first: usize) {
        let candidate = |(&logit, id): (&f32, u32)| Candidate {
            id,
            logit: if logit.is_nan() {
                f32::NEG_INFINITY
            } else {
                logit
            },
            p: 0.0,
        };
        let all = logits.iter().zip(0..);
        self.list.clear();
        self.list.extend(all.clone().take(n_first).map(candidate));
        let others = all.zip(drawable).skip(n_first);
        let drawable = others.filter(|(_, drawable)| **drawable);
        self.list.extend(drawable.map(|(one, _)| candidate(one)));
        self.counts.resize(logits.len(), 0);
        self.log_sum = None;
    }

    /// In order of id.
    pub fn as_slice(&self) -> &[Candidate] {
        &self.list
    }

    /// In order of id; the ids may not be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Candidate> {
        self.list.iter_mut()
    }

    /// The candidate `id`, if it is one.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Candidate> {
        let i = self.list.binary_search_by_key(&id, |c| c.id).ok()?;
        self.list.get_mut(i)
    }

    /// Rules `id` out.
    pub fn ban(&mut self, id: u32) {
        if let Some(candidate) = self.get_mut(id) {
            candidate.logit = f32::NEG_INFINITY;
        }
    }

    /// The id of the highest logit, the lowest among equals.
    pub fn likeliest(&self) -> Option<u32> {
        let order = |a: &&Candidate, b: &&Candidate| a.logit.total_cmp(&b.logit);
        // Of equals the last one met is the greatest.
        self.list.iter().rev().max_by(order).map(|c| c.id)
    }

    /// Removes those that are not to be kept.
    pub fn retain(&mut self, keep: impl FnMut(&Candidate) -> bool) {
        self.list.retain(keep);
    }

    /// Calls `change` once for each candidate that is among `ids`, with how often it is.
    pub fn for_each_in(&mut self, ids: &[u32], change: impl FnMut(&mut Candidate, u32)) {
        self.for_each_only_in(ids, &[], change);
    }

    /// The same, but not for those that are among `others` too.
    pub fn for_each_only_in(
        &mut self,
        ids: &[u32],
        others: &[u32],
        mut change: impl FnMut(&mut Candidate, u32),
    ) {
        for &id in ids {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        for &id in others {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count = 0;
            }
        }
        for &id in ids {
            let count = (self.counts.get_mut(id as usize)).map_or(0, std::mem::take);
            if count > 0
                && let Some(candidate) = self.get_mut(id)
            {
                change(candidate, count);
            }
        }
    }

    /// The entropy of the probabilities that [`softmax`](Self::softmax) wrote, in nats.
    pub fn entropy(&self) -> f64 {
        let p = self.list.iter().map(|c| f64::from(c.p));
        p.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
    }

    /// Remembers how surprising each candidate is among those there are now.
    pub fn remember_surprise(&mut self) {
        let max = (self.list.iter()).fold(f32::NEG_INFINITY, |max, c| max.max(c.logit));
        let exp = |c: &Candidate| f64::from(c.logit - max).exp();
        self.log_sum = Some(f64::from(max) + self.list.iter().map(exp).sum::<f64>().ln());
    }

    /// The surprise of `id` in bits, as [`remember_surprise`](Self::remember_surprise) had it.
    pub fn surprise(&mut self, id: u32) -> Option<f64> {
        let log_sum = self.log_sum?;
        let candidate = self.get_mut(id)?;
        let surprise = (log_sum - f64::from(candidate.logit)) / std::f64::consts::LN_2;
        Some(surprise).filter(|s| s.is_finite())
    }

    /// Writes each candidate's probability. Where logits are plus infinity, those share it;
    /// where all are ruled out, every probability is 0.
    pub fn softmax(&mut self) {
        let max = (self.list.iter()).fold(f32::NEG_INFINITY, |max, c| max.max(c.logit));
        let mut sum = 0.0f64;
        for c in &mut self.list {
            c.p = if c.logit == max {
                (max > f32::NEG_INFINITY) as u32 as f32
            } else {
                (c.logit - max).exp()
            };
            sum += f64::from(c.p);
        }
        if sum > 0.0 {
            for c in &mut self.list {
                c.p = (f64::from(c.p) / sum) as f32;
            }
        }
    }

    /// Visits candidates, those with the smallest key first, while `go_on` says so; returns the
    /// last one visited. Sorts only as far as it is visited.
    pub fn visit(
        &mut self,
        key: impl Fn(&Candidate) -> f32,
        mut go_on: impl FnMut(&Ranked) -> bool,
    ) -> Option<Ranked> {
        // What a nucleus usually holds; each further piece is larger, so that the whole costs
        // not much more than sorting everything.
        const FIRST_PIECE: usize = 64;
        let mut rest = self.rank(key);
        let mut piece = FIRST_PIECE;
        let mut last = None;
        while !rest.is_empty() {
            let n = piece.min(rest.len());
            if n < rest.len() {
                rest.select_nth_unstable_by(n, Ranked::order);
            }
            let (head, tail) = rest.split_at_mut(n);
            head.sort_unstable_by(Ranked::order);
            for ranked in head.iter() {
                last = Some(*ranked);
                if !go_on(ranked) {
                    return last;
                }
            }
            rest = tail;
            piece *= 8;
        }
        last
    }

    /// The last of the candidates with the smallest keys that together reach the probability `p`,
    /// which [`softmax`](Self::softmax) wrote; the last of all where they do not. Sorts only those
    /// whose keys are near its.
    pub fn reach(&mut self, p: f32, key: impl Fn(&Candidate) -> f32) -> Option<Ranked> {
        let p = f64::from(p);
        self.ranges.clear();
        self.ranges.resize(N_RANGES, 0.0);
        for c in &self.list {
            if let Some(sum) = self.ranges.get_mut(range(key(c))) {
                *sum += f64::from(c.p);
            }
        }
        let mut sum = 0.0;
        let reached = self.ranges.iter().position(|&of_range| {
            let before = sum;
            sum += of_range;
            let reached = sum >= p && of_range > 0.0;
            if reached {
                sum = before;
            }
            reached
        });
        let all = self.list.iter().map(|c| Ranked {
            key: key(c),
            id: c.id,
            p: c.p,
        });
        let Some(reached) = reached else {
            return all.max_by(Ranked::order);
        };
        self.ranked.clear();
        self.ranked.extend(all.filter(|c| range(c.key) == reached));
        self.ranked.sort_unstable_by(Ranked::order);
        let enough = self.ranked.iter().find(|ranked| {
            sum += f64::from(ranked.p);
            sum >= p
        });
        // Sums in another order may differ in their last bits.
        enough.or(self.ranked.last()).copied()
    }

    /// The candidate that has `n` before it by `key`, without sorting.
    pub fn nth(&mut self, n: usize, key: impl Fn(&Candidate) -> f32) -> Option<Ranked> {
        let ranked = self.rank(key);
        if n >= ranked.len() {
            return None;
        }
        let (_, nth, _) = ranked.select_nth_unstable_by(n, Ranked::order);
        Some(*nth)
    }

    fn rank(&mut self, key: impl Fn(&Candidate) -> f32) -> &mut [Ranked] {
        self.ranked.clear();
        self.ranked.extend(self.list.iter().map(|c| Ranked {
            key: key(c),
            id: c.id,
            p: c.p,
        }));
        &mut self.ranked
    }
}
