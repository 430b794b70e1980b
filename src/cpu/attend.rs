//! Causal attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! A row takes its sequence's cells in order of position, [`CHUNK`] at a time counted from
//! position 0, whatever else is in the batch. Rows of one sequence that follow one another in
//! the batch are done together, so that keys and values are unpacked once for all of them.

use std::cell::RefCell;
use std::ops::Range;

use katari_gguf::Format;

use super::arena::Buffer;
use super::disjoint::Disjoint;
use super::dot::Weights;
use super::dot::float::Floats;
use super::isa::Kernels;
use super::kv::{Layer, Store};
use super::math::{CHUNK, Softmax};
use super::pool::Pool;
use crate::ops::{Batch, Heads};

/// Rows that are done together at most.
const BLOCK: usize = 32;

/// Rows from which on f16 keys are unpacked once for all.
const UNPACK_ROWS: usize = 6;

/// Rows of one sequence that follow one another in the batch.
struct Block {
    /// In the batch.
    rows: Range<usize>,
    /// The sequence's cells, in [`Plan::cells`].
    cells: Range<usize>,
}

/// Who attends to what in one pass; the same for every layer.
#[derive(Default)]
pub(super) struct Plan {
    blocks: Vec<Block>,
    /// The cells of the batch's sequences, each in order of position.
    cells: Vec<u32>,
    /// How many of its sequence's cells each row sees, `[n_tokens]`.
    visible: Vec<usize>,
    /// (sequence, where its cells are in `cells`).
    sequences: Vec<(u32, Range<usize>)>,
}

impl Plan {
    /// Plans for `batch`.
    pub(super) fn set(&mut self, batch: &Batch<'_>) {
        self.blocks.clear();
        self.cells.clear();
        self.visible.clear();
        self.sequences.clear();
        for (i, row) in batch.rows.iter().enumerate() {
            self.visible.push(row.position as usize + 1);
            let known = self.sequences.iter().find(|(s, _)| *s == row.sequence);
            let cells = known.map(|(_, cells)| cells.clone()).unwrap_or_else(|| {
                let start = self.cells.len();
                self.cells
                    .extend_from_slice(batch.ledger.cells(row.sequence));
                let cells = start..self.cells.len();
                self.sequences.push((row.sequence, cells.clone()));
                cells
            });
            match self.blocks.last_mut() {
                Some(last) if last.cells == cells && last.rows.len() < BLOCK => last.rows.end += 1,
                _ => self.blocks.push(Block {
                    rows: i..i + 1,
                    cells,
                }),
            }
        }
    }
}

thread_local! {
    /// A worker's own memory, kept from call to call.
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// What all heads and blocks of one call share.
pub(super) struct Attention<'a> {
    pub kernels: &'a Kernels,
    pub plan: &'a Plan,
    pub layer: &'a Layer,
    pub heads: &'a Heads,
    /// `[n_tokens, n_head * head_dim]`.
    pub q: &'a [f32],
}

impl Attention<'_> {
    /// Attends with every row; `out` is `[n_tokens, n_head * head_dim]`.
    pub(super) fn run(&self, pool: &Pool, out: &mut [f32]) {
        let out = Disjoint::new(out);
        // The last rows see most: begin with them, so that none is left with a long one alone.
        let n = self.plan.blocks.len() * self.heads.n_head;
        pool.for_each(n, 1, |items| {
            for item in items {
                let block = self.plan.blocks.len() - 1 - item / self.heads.n_head;
                self.head(&self.plan.blocks[block], item % self.heads.n_head, &out);
            }
        });
    }

    /// One head of one block's rows.
    fn head(&self, block: &Block, head: usize, out: &Disjoint<'_, f32>) {
        let dim = self.heads.head_dim;
        let row_width = self.heads.n_head * dim;
        let n = block.rows.len();
        let cells = &self.plan.cells[block.cells.clone()];
        let visible = &self.plan.visible[block.rows.clone()];
        let (keys, values) = (&self.layer.keys, &self.layer.values);
        let (k_width, v_width) = (keys.head_width(), values.head_width());

        SCRATCH.with_borrow_mut(|scratch| {
            scratch.reserve(CHUNK * k_width + CHUNK * v_width + n * CHUNK + n * v_width);
            let (k, rest) = scratch.of_mut::<f32>().split_at_mut(CHUNK * k_width);
            let (v, rest) = rest.split_at_mut(CHUNK * v_width);
            let (scores, rest) = rest.split_at_mut(n * CHUNK);
            let acc = &mut rest[..n * v_width];
            acc.fill(0.0);
            let mut states = [Softmax::EMPTY; BLOCK];

            let most = visible.iter().copied().max().unwrap_or(0).min(cells.len());
            for start in (0..most).step_by(CHUNK) {
                let cells = &cells[start..most.min(start + CHUNK)];
                let q = Floats {
                    data: &self.q[block.rows.start * row_width + head * dim..],
                    stride: row_width,
                    n,
                    width: dim,
                };
                let (format, w) = in_place(keys, head, cells, n).unwrap_or_else(|| {
                    self.unpack(keys, head, cells, k);
                    let w = Weights {
                        bytes: bytemuck::cast_slice(k),
                        stride: k_width * 4,
                        rows: cells.len(),
                    };
                    (Format::F32, w)
                });
                self.kernels.float_product(format, w, q, scores, CHUNK);
                self.unpack(values, head, cells, v);
                let rows = scores
                    .chunks_exact_mut(CHUNK)
                    .zip(acc.chunks_exact_mut(v_width));
                for (((scores, acc), state), visible) in rows.zip(&mut states).zip(visible) {
                    let seen = visible.saturating_sub(start).min(cells.len());
                    let Ok(scores) = <&mut [f32; CHUNK]>::try_from(scores) else {
                        continue;
                    };
                    if seen > 0 {
                        let math = self.kernels.math();
                        let factor = math.softmax_chunk(scores, seen, self.heads.scale, state);
                        math.weighted_sum(&scores[..seen], v, factor, acc);
                    }
                }
            }

            for ((row, acc), state) in block
                .rows
                .clone()
                .zip(acc.chunks_exact(v_width))
                .zip(&states)
            {
                let start = row * row_width + head * dim;
                // SAFETY: this row's part for this head, which no other item writes.
                let out = unsafe { out.part(start..start + dim) };
                for (out, acc) in out.iter_mut().zip(acc) {
                    *out = acc / state.sum;
                }
            }
        });
    }

    /// Unpacks one head of `cells` to `out`, `[cells, head_width]`.
    fn unpack(&self, store: &Store, head: usize, cells: &[u32], out: &mut [f32]) {
        let (width, mut done) = (store.head_width(), 0);
        for run in cells.chunk_by(neighbours) {
            let bytes = store.heads(head, run[0], run.len());
            let out = &mut out[done * width..(done + run.len()) * width];
            self.kernels.unpack(store.format(), bytes, out);
            done += run.len();
        }
    }
}

/// Whether cell `b` lies right after `a`.
fn neighbours(&a: &u32, &b: &u32) -> bool {
    a.checked_add(1) == Some(b)
}

/// The keys of `cells` where they lie, if they lie in a row, are floats, and are too few to be
/// worth unpacking once for all of `n` rows.
fn in_place<'a>(
    keys: &'a Store,
    head: usize,
    cells: &[u32],
    n: usize,
) -> Option<(Format, Weights<'a>)> {
    let as_they_lie = match keys.format() {
        Format::F32 => true,
        Format::F16 => n < UNPACK_ROWS,
        _ => false,
    };
    if !as_they_lie || !cells.is_sorted_by(neighbours) {
        return None;
    }
    let w = Weights {
        bytes: keys.heads(head, cells[0], cells.len()),
        stride: keys.head_bytes(),
        rows: cells.len(),
    };
    Some((keys.format(), w))
}
