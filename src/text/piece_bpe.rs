//! sentencepiece's BPE: neighbours merge in order of their piece's score.
//!
//! The pair whose piece scores highest merges first, the leftmost of equals; pieces of type
//! UNUSED take part in merges and are taken apart again at the end.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use katari_gguf::keys::token_type;

use super::trie::Trie;
use super::unigram::Cut;
use super::vocab::Vocab;

/// No neighbour.
const NONE: usize = usize::MAX;

/// A sentencepiece BPE model.
pub(super) struct PieceBpe {
    /// Pieces that merges may make: normal, user-defined and unused ones.
    pieces: HashMap<Box<[u8]>, Piece>,
    /// All others by name (control, byte and unknown tokens).
    reserved: HashMap<Box<[u8]>, u32>,
    symbols: Trie,
}

#[derive(Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
    unused: bool,
}

/// A stretch of the text between its neighbours.
struct Symbol {
    start: usize,
    /// `start` where the symbol was merged into its left neighbour.
    end: usize,
    left: usize,
    right: usize,
    /// A user-defined symbol merges with nothing.
    frozen: bool,
}

/// Two neighbours that could merge.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when the pair was found; if they have other sizes now, the pair is gone.
    size: usize,
}

impl PieceBpe {
    pub fn new(vocab: &Vocab, scores: &[f32], symbols: Trie) -> PieceBpe {
        let mut pieces = HashMap::with_capacity(vocab.len());
        let mut reserved = HashMap::new();
        for ((id, token, kind), &score) in vocab.iter().zip(scores) {
            let name = Box::from(token.as_bytes());
            match kind {
                token_type::NORMAL | token_type::USER_DEFINED | token_type::UNUSED => {
                    let unused = kind == token_type::UNUSED;
                    pieces.insert(name, Piece { id, score, unused });
                }
                _ => {
                    reserved.insert(name, id);
                }
            }
        }
        PieceBpe {
            pieces,
            reserved,
            symbols,
        }
    }

    /// The cut of `text`: each piece's bytes and id, `None` where it is unknown.
    pub fn cut(&self, text: &str) -> Cut {
        let bytes = text.as_bytes();
        let mut symbols = self.characters(text);
        let mut pairs = BinaryHeap::new();
        // How each UNUSED piece came about last: the length of its left half.
        let mut halves: HashMap<&[u8], usize> = HashMap::new();
        let mut add =
            |symbols: &[Symbol], left: usize, right: usize, pairs: &mut BinaryHeap<Pair>| {
                let (Some(a), Some(b)) = (symbols.get(left), symbols.get(right)) else {
                    return;
                };
                if a.frozen || b.frozen {
                    return;
                }
                let name = bytes.get(a.start..b.end).unwrap_or_default();
                if let Some(piece) = self.pieces.get(name) {
                    if piece.unused {
                        halves.insert(name, b.start - a.start);
                    }
                    pairs.push(Pair {
                        score: piece.score,
                        left,
                        right,
                        size: b.end - a.start,
                    });
                }
            };
        for right in 1..symbols.len() {
            add(&symbols, right - 1, right, &mut pairs);
        }
        while let Some(pair) = pairs.pop() {
            let (a, b) = (&symbols[pair.left], &symbols[pair.right]);
            let gone = a.start == a.end || b.start == b.end;
            if gone || b.end - b.start + a.end - a.start != pair.size {
                continue;
            }
            let (end, right) = (b.end, b.right);
            symbols[pair.left].end = end;
            symbols[pair.left].right = right;
            symbols[pair.right].end = symbols[pair.right].start;
            if let Some(next) = symbols.get_mut(right) {
                next.left = pair.left;
            }
            let left = symbols[pair.left].left;
            add(&symbols, left, pair.left, &mut pairs);
            add(&symbols, pair.left, right, &mut pairs);
        }
        let mut cut = Cut::new();
        let mut at = 0;
        while let Some(symbol) = symbols.get(at) {
            self.settle(bytes, symbol.start, symbol.end, &halves, &mut cut);
            at = symbol.right;
        }
        cut
    }

    /// The text's characters and user-defined symbols.
    fn characters(&self, text: &str) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(character) = text.get(start..).and_then(|t| t.chars().next()) {
            let found = self.symbols.longest(&text.as_bytes()[start..]);
            let length = found.map_or(character.len_utf8(), |(length, _)| length);
            let here = symbols.len();
            symbols.push(Symbol {
                start,
                end: start + length,
                left: here.checked_sub(1).unwrap_or(NONE),
                right: here + 1,
                frozen: found.is_some(),
            });
            start += length;
        }
        if let Some(last) = symbols.last_mut() {
            last.right = NONE;
        }
        symbols
    }

    /// Appends the piece of a stretch, or, where it is UNUSED, its halves' pieces.
    fn settle(
        &self,
        bytes: &[u8],
        start: usize,
        end: usize,
        halves: &HashMap<&[u8], usize>,
        cut: &mut Cut,
    ) {
        let mut stack = vec![(start, end)];
        while let Some((start, end)) = stack.pop() {
            let name = bytes.get(start..end).unwrap_or_default();
            let piece = match self.reserved.get(name) {
                Some(&id) => Some((id, false)),
                None => self.pieces.get(name).map(|p| (p.id, p.unused)),
            };
            match (piece, halves.get(name)) {
                (Some((_, true)), Some(&left)) => {
                    stack.push((start + left, end));
                    stack.push((start, start + left));
                }
                (piece, _) => cut.push((start..end, piece.map(|(id, _)| id))),
            }
        }
    }
}

impl Ord for Pair {
    /// The pair to merge first is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .partial_cmp(&other.score)
            .unwrap_or(Ordering::Equal) // scores are finite: `Vocab::read` saw to it
            .then_with(|| other.left.cmp(&self.left))
            .then_with(|| other.size.cmp(&self.size))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
