//! The softmax, a chunk of cells at a time (Milakov and Gimelshein 2018).

use super::functions::exp;
use crate::cpu::lanes::{LANES, tree};

/// What is known of some cells' scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::cpu) struct Softmax {
    /// The largest.
    pub max: f32,
    /// The sum of `e^(score - max)`.
    pub sum: f32,
}

impl Softmax {
    /// Of no cells.
    pub(in crate::cpu) const EMPTY: Softmax = Softmax {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

/// Turns the first `n` of `scores`, times `scale`, into weights relative to the largest of them,
/// and those after, up to whole lanes, into 0.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], n: usize, scale: f32) -> Softmax {
    let scores = &mut scores[..n.next_multiple_of(LANES)];
    scores[n..].fill(f32::NEG_INFINITY);
    let mut max = [f32::NEG_INFINITY; LANES];
    for scores in scores.chunks_exact_mut(LANES) {
        for (max, score) in max.iter_mut().zip(scores) {
            *score *= scale;
            *max = if *score > *max { *score } else { *max };
        }
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, larger);
    let mut sum = [0.0; LANES];
    for scores in scores.chunks_exact_mut(LANES) {
        for (sum, score) in sum.iter_mut().zip(scores) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    Softmax {
        max,
        sum: tree(sum),
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Makes `total` and its weighted sum of values `acc` those of its cells and the next ones',
/// which are `part` and `part_acc`.
#[inline(always)]
pub(super) fn merge(total: &mut Softmax, acc: &mut [f32], part: Softmax, part_acc: &[f32]) {
    let max = larger(total.max, part.max);
    let (before, now) = (exp(total.max - max), exp(part.max - max));
    total.max = max;
    total.sum = part.sum.mul_add(now, total.sum * before);
    for (acc, part) in acc.iter_mut().zip(part_acc) {
        *acc = part.mul_add(now, *acc * before);
    }
}
