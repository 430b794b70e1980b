//! What is left of the vocabulary while the chain runs.

use std::cmp::Ordering;

use super::softmax::{largest, softmax};

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
    ids: Vec<u32>,
    /// The logit of each.
    logits: Vec<f32>,
    /// The probability of each, as [`softmax`](Self::softmax) wrote it last.
    p: Vec<f32>,
    /// Some or all of them in another order.
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
        let n_first = n_first.min(logits.len());
        let (first, others) = logits.split_at(n_first);
        let known = |logit: &f32| {
            if logit.is_nan() {
                f32::NEG_INFINITY
            } else {
                *logit
            }
        };
        self.ids.clear();
        self.ids.extend(0..n_first as u32);
        self.logits.clear();
        self.logits.extend(first.iter().map(known));
        let others = (n_first as u32..).zip(others).zip(&drawable[n_first..]);
        for ((id, logit), _) in others.filter(|(_, drawable)| **drawable) {
            self.ids.push(id);
            self.logits.push(known(logit));
        }
        self.p.clear();
        self.p.resize(self.ids.len(), 0.0);
        self.counts.resize(logits.len(), 0);
        self.log_sum = None;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// In order of id.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> {
        let all = self.ids.iter().zip(&self.logits).zip(&self.p);
        all.map(|((&id, &logit), &p)| Candidate { id, logit, p })
    }

    /// The id and the logit of each, in order of id.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut f32)> {
        self.ids.iter().copied().zip(&mut self.logits)
    }

    /// The logit of each, in order of id.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits
    }

    /// The highest logit; minus infinity where there is none.
    pub fn max(&self) -> f32 {
        largest(&self.logits)
    }

    /// The highest of the probabilities that [`softmax`](Self::softmax) wrote.
    pub fn best_p(&self) -> f32 {
        largest(&self.p).max(0.0)
    }

    /// The logit of `id`, if it is a candidate.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut f32> {
        let i = self.ids.binary_search(&id).ok()?;
        self.logits.get_mut(i)
    }

    /// Rules `id` out.
    pub fn ban(&mut self, id: u32) {
        if let Some(logit) = self.get_mut(id) {
            *logit = f32::NEG_INFINITY;
        }
    }

    /// The id of the highest logit, the lowest among equals.
    pub fn likeliest(&self) -> Option<u32> {
        let max = self.max();
        let i = self.logits.iter().position(|&logit| logit == max)?;
        self.ids.get(i).copied()
    }

    /// Removes those that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&Candidate) -> bool) {
        let mut kept = 0;
        for i in 0..self.len() {
            kept = self.keep(kept, i, &mut keep);
        }
        self.truncate(kept);
    }

    /// Removes those with a smaller probability than `least`; as [`retain`](Self::retain), but
    /// faster where most go.
    pub fn retain_from(&mut self, least: f32) {
        const PIECE: usize = 32;
        let mut kept = 0;
        for start in (0..self.len()).step_by(PIECE) {
            let end = self.len().min(start + PIECE);
            let any = |any: bool, p: &f32| any | (*p >= least);
            if self.p[start..end].iter().fold(false, any) {
                for i in start..end {
                    kept = self.keep(kept, i, &mut |c: &Candidate| c.p >= least);
                }
            }
        }
        self.truncate(kept);
    }

    /// Moves candidate `i` behind the first `kept` if it is to be kept; returns how many are kept
    /// with it. Written first and counted then: a processor cannot guess which are kept.
    #[inline(always)]
    fn keep(&mut self, kept: usize, i: usize, keep: &mut impl FnMut(&Candidate) -> bool) -> usize {
        let (id, logit, p) = (self.ids[i], self.logits[i], self.p[i]);
        (self.ids[kept], self.logits[kept], self.p[kept]) = (id, logit, p);
        kept + usize::from(keep(&Candidate { id, logit, p }))
    }

    fn truncate(&mut self, n: usize) {
        self.ids.truncate(n);
        self.logits.truncate(n);
        self.p.truncate(n);
    }

    /// Calls `change` once for the logit of each candidate that is among `ids`, with how often it
    /// is.
    pub fn for_each_in(&mut self, ids: &[u32], change: impl FnMut(&mut f32, u32)) {
        self.for_each_only_in(ids, &[], change);
    }

    /// The same, but not for those that are among `others` too.
    pub fn for_each_only_in(
        &mut self,
        ids: &[u32],
        others: &[u32],
        mut change: impl FnMut(&mut f32, u32),
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
                && let Some(logit) = self.get_mut(id)
            {
                change(logit, count);
            }
        }
    }

    /// The entropy of the probabilities that [`softmax`](Self::softmax) wrote, in nats.
    pub fn entropy(&self) -> f64 {
        let p = self.p.iter().map(|&p| f64::from(p));
        p.filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
    }

    /// Remembers how surprising each candidate is among those there are now.
    pub fn remember_surprise(&mut self) {
        let max = self.max();
        let exp = |logit: &f32| f64::from(logit - max).exp();
        self.log_sum = Some(f64::from(max) + self.logits.iter().map(exp).sum::<f64>().ln());
    }

    /// The surprise of `id` in bits, as [`remember_surprise`](Self::remember_surprise) had it.
    pub fn surprise(&mut self, id: u32) -> Option<f64> {
        let log_sum = self.log_sum?;
        let logit = self.get_mut(id)?;
        let surprise = (log_sum - f64::from(*logit)) / std::f64::consts::LN_2;
        Some(surprise).filter(|s| s.is_finite())
    }

    /// Writes each candidate's probability. Where logits are plus infinity, those share it;
    /// where all are ruled out, every probability is 0.
    pub fn softmax(&mut self) {
        softmax(&self.logits, &mut self.p);
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
        let mut rest = self.rank(key).as_mut_slice();
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
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.clear();
        ranges.resize(N_RANGES, 0.0);
        for c in self.iter() {
            if let Some(sum) = ranges.get_mut(range(key(&c))) {
                *sum += f64::from(c.p);
            }
        }
        let mut sum = 0.0;
        let reached = ranges.iter().position(|&of_range| {
            let before = sum;
            sum += of_range;
            let reached = sum >= p && of_range > 0.0;
            if reached {
                sum = before;
            }
            reached
        });
        self.ranges = ranges;
        let ranked = self.rank(&key);
        let Some(reached) = reached else {
            return ranked.iter().copied().max_by(Ranked::order);
        };
        ranked.retain(|ranked| range(ranked.key) == reached);
        ranked.sort_unstable_by(Ranked::order);
        let enough = ranked.iter().find(|ranked| {
            sum += f64::from(ranked.p);
            sum >= p
        });
        // Sums in another order may differ in their last bits.
        enough.or(ranked.last()).copied()
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

    fn rank(&mut self, key: impl Fn(&Candidate) -> f32) -> &mut Vec<Ranked> {
        let mut ranked = std::mem::take(&mut self.ranked);
        ranked.clear();
        ranked.extend(self.iter().map(|c| Ranked {
            key: key(&c),
            id: c.id,
            p: c.p,
        }));
        self.ranked = ranked;
        &mut self.ranked
    }
}
