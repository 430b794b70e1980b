//! The unigram language model: the cut of a text whose pieces' log probabilities sum highest
//! (Kudo 2018, "Subword Regularization", section 3.2), by Viterbi over byte positions.
//!
//! Sums are rounded exactly where the reference rounds them, since a tie or a last bit decides
//! which of two cuts wins.

use std::ops::Range;

use super::trie::Trie;

/// What an unknown character costs more than the unlikeliest piece, in both references.
pub(super) const UNKNOWN_PENALTY: f32 = 10.0;

/// A cut of a text: each stretch's bytes and its id, `None` where no piece covers it.
pub(super) type Cut = Vec<(Range<usize>, Option<u32>)>;

/// How sums are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// sentencepiece: a path's score is an f32.
    Single,
    /// The `tokenizers` library: everything is an f64.
    Double,
}

/// A unigram model.
pub(super) struct Unigram {
    trie: Trie,
    /// What each piece adds to a path, by id.
    scores: Vec<f64>,
    /// What an unknown character adds.
    unknown: f64,
    arithmetic: Arithmetic,
}

/// The best path that ends at a place.
#[derive(Clone, Copy)]
struct Node {
    score: f64,
    start: usize,
    /// The piece that ends here; `None` for an unknown character.
    id: Option<u32>,
}

impl Unigram {
    /// `pieces`: names and ids of what may be used; `scores`: what each adds to a path, by id;
    /// `unknown`: what an unknown character adds.
    pub fn new<'a>(
        pieces: impl IntoIterator<Item = (&'a [u8], u32)>,
        scores: Vec<f64>,
        unknown: f64,
        arithmetic: Arithmetic,
    ) -> Unigram {
        Unigram {
            trie: Trie::new(pieces),
            scores,
            unknown,
            arithmetic,
        }
    }

    /// The best cut of `text`, unknown characters one by one.
    pub fn cut(&self, text: &str) -> Cut {
        let bytes = text.as_bytes();
        let mut best: Vec<Option<Node>> = vec![None; bytes.len() + 1];
        for (start, character) in text.char_indices() {
            let so_far = best[start].map_or(0.0, |node| node.score);
            let width = character.len_utf8();
            let mut covered = false;
            for (length, id) in self.trie.prefixes(&bytes[start..]) {
                let Some(&score) = self.scores.get(id as usize) else {
                    continue;
                };
                self.offer(&mut best[start + length], so_far + score, start, Some(id));
                covered |= length == width;
            }
            if !covered {
                let mut score = so_far + self.unknown;
                if self.arithmetic == Arithmetic::Single {
                    score = f64::from(score as f32);
                }
                self.offer(&mut best[start + width], score, start, None);
            }
        }
        let mut cut = Cut::new();
        let mut end = bytes.len();
        while let Some(node) = best.get(end).copied().flatten() {
            cut.push((node.start..end, node.id));
            end = node.start;
        }
        cut.reverse();
        cut
    }

    /// Keeps the path if it beats what ends there so far; the earlier one wins a tie.
    fn offer(&self, place: &mut Option<Node>, score: f64, start: usize, id: Option<u32>) {
        // The reference compares before it rounds: the new sum in f64 with the kept f32.
        if place.is_some_and(|node| score <= node.score) {
            return;
        }
        let score = match self.arithmetic {
            Arithmetic::Single => f64::from(score as f32),
            Arithmetic::Double => score,
        };
        *place = Some(Node { score, start, id });
    }
}
