//! Causal attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//!
//! A row takes its sequence's cells in order of position, [`CHUNK`] at a time counted from
//! position 0: a chunk's weights are relative to its own largest score, and the chunks' sums are
//! merged in order. That is so whatever else is in the batch and whoever does it: rows of one
//! sequence that follow one another are done together, keys and values unpacked once for all of
//! them; a single row, as in decoding, takes them as they are stored, its chunks spread over the
//! threads.

mod pack;
mod plan;
pub(super) mod products;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::Ordering;

pub(super) use pack::pack;
pub(super) use plan::Plan;

use self::plan::{Block, Item};
use super::arena::Buffer;
use super::disjoint::Disjoint;
use super::kv::Layer;
use super::lanes::LANES;
use super::math::{Math, Softmax};
use super::pool::Pool;
use crate::ops::Heads;

/// Cells that a softmax takes at once; fixed, so that a row's result does not depend on what
/// else is in the batch. Their keys and values in f16 fit the second-level cache at any width of
/// heads, and merging costs little beside them.
pub(super) const CHUNK: usize = 256;

/// Rows that are done together at most: many enough that unpacking is a small part of the work,
/// and whole tiles of both shapes that products have.
const BLOCK: usize = 48;

/// Cells that are unpacked at once, for the first-level cache.
const UNPACKED: usize = 32;

thread_local! {
    /// A worker's own memory, kept from call to call.
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// What all heads and blocks of one call share.
pub(super) struct Attention<'a> {
    pub math: &'a Math,
    pub plan: &'a Plan,
    pub layer: Layer<'a>,
    pub heads: &'a Heads,
    /// `[n_tokens, n_head * head_dim]`.
    pub q: &'a [f32],
}

/// A thread's memory during an item.
struct Scratch<'a> {
    /// Queries, padded with zeros, `[rows, key width]`.
    q: &'a mut [f32],
    /// `[rows, CHUNK]`.
    scores: &'a mut [f32],
    /// A chunk's weighted sum, `[rows, value width]`.
    part: &'a mut [f32],
    /// That of all chunks so far, `[rows, value width]`.
    total: &'a mut [f32],
    /// Unpacked keys or values, `[UNPACKED, width]`.
    unpacked: &'a mut [f32],
}

impl Attention<'_> {
    /// f32s of the memory that [`run`](Attention::run) needs; doubled where it grows, so that it
    /// seldom does.
    pub(super) fn memory(&self) -> usize {
        match self.plan.parts {
            0 => 0,
            parts => parts.next_power_of_two() * self.part_len(),
        }
    }

    /// A part in memory: a weighted sum and what it is relative to.
    fn part_len(&self) -> usize {
        self.layer.values.head_width() + LANES
    }

    /// Attends with every row; `out` is `[n_tokens, n_head * head_dim]`.
    pub(super) fn run(&self, pool: &Pool, memory: &mut [f32], out: &mut [f32]) {
        let (out, memory) = (Disjoint::new(out), Disjoint::new(memory));
        let (plan, n_head) = (self.plan, self.heads.n_head);
        pool.for_each(plan.items.len() * n_head, 1, |items| {
            for i in items {
                let (item, head) = (plan.items[i / n_head], i % n_head);
                SCRATCH.with_borrow_mut(|scratch| match item {
                    Item::Block(b) => self.block(&plan.blocks[b], head, scratch, &out),
                    Item::Chunk(b, c) => self.chunk(b, c, head, scratch, &memory, &out),
                });
            }
        });
    }

    /// One head of all rows of a block.
    fn block(&self, block: &Block, head: usize, scratch: &mut Buffer, out: &Disjoint<'_, f32>) {
        let mut scratch = self.scratch(scratch, block.rows.len());
        self.queries(block, head, scratch.q);
        let width = self.layer.values.head_width();
        let mut states = [Softmax::EMPTY; BLOCK];
        for start in (0..block.most()).step_by(CHUNK) {
            let parts = self.attend::<BLOCK>(block, head, start, &mut scratch);
            for (row, part) in parts.into_iter().enumerate().take(block.rows.len()) {
                if let Some(part) = part {
                    let row_acc = row * width..(row + 1) * width;
                    let total = &mut scratch.total[row_acc.clone()];
                    let part_acc = &scratch.part[row_acc];
                    self.math.merge(&mut states[row], total, part, part_acc);
                }
            }
        }
        for ((row, total), state) in block
            .rows
            .clone()
            .zip(scratch.total.chunks_exact(width))
            .zip(&states)
        {
            // SAFETY: this row's part for this head, which no other item writes.
            self.finish(unsafe { out.part(self.columns(row, head)) }, total, state);
        }
    }

    /// One head of one chunk of a single row. Who does the last of a head's chunks merges them.
    fn chunk(
        &self,
        b: usize,
        chunk: usize,
        head: usize,
        scratch: &mut Buffer,
        memory: &Disjoint<'_, f32>,
        out: &Disjoint<'_, f32>,
    ) {
        let block = &self.plan.blocks[b];
        let mut scratch = self.scratch(scratch, 1);
        self.queries(block, head, scratch.q);
        let (width, chunks) = (self.layer.values.head_width(), block.chunks());
        let [part] = self.attend::<1>(block, head, chunk * CHUNK, &mut scratch);
        let part = part.unwrap_or(Softmax::EMPTY);
        let place = |chunk: usize| {
            let i = block.first_part + head * chunks + chunk;
            i * self.part_len()..(i + 1) * self.part_len()
        };
        // SAFETY: the part of this head's chunk, which is this item's alone until it is counted
        // as done below.
        let to = unsafe { memory.part(place(chunk)) };
        to[..width].copy_from_slice(scratch.part);
        to[width..width + 2].copy_from_slice(&[part.max, part.sum]);

        let done = &self.plan.done[b * self.heads.n_head + head];
        // Release: the part is written before it is counted. Acquire: the last one sees all.
        if done.fetch_add(1, Ordering::AcqRel) as usize + 1 < chunks {
            return;
        }
        done.store(0, Ordering::Relaxed);
        let mut state = Softmax::EMPTY;
        for chunk in 0..chunks {
            // SAFETY: all items of this head have been counted, so none writes its part any
            // more, and only the last one counted comes here.
            let part = unsafe { memory.part(place(chunk)) };
            let (part, rest) = part.split_at(width);
            let (max, sum) = (rest[0], rest[1]);
            self.math
                .merge(&mut state, scratch.total, Softmax { max, sum }, part);
        }
        let columns = self.columns(block.rows.start, head);
        // SAFETY: this row's part for this head, written once, here.
        self.finish(unsafe { out.part(columns) }, scratch.total, &state);
    }

    /// The thread's memory for `n` rows; totals are 0.
    fn scratch<'a>(&self, buffer: &'a mut Buffer, n: usize) -> Scratch<'a> {
        let widths = [self.layer.keys.head_width(), self.layer.values.head_width()];
        let wide = widths[0].max(widths[1]);
        buffer.reserve(n * (widths[0] + CHUNK + 2 * widths[1]) + UNPACKED * wide);
        let (q, rest) = buffer.of_mut::<f32>().split_at_mut(n * widths[0]);
        let (scores, rest) = rest.split_at_mut(n * CHUNK);
        let (part, rest) = rest.split_at_mut(n * widths[1]);
        let (total, rest) = rest.split_at_mut(n * widths[1]);
        total.fill(0.0);
        Scratch {
            q,
            scores,
            part,
            total,
            unpacked: &mut rest[..UNPACKED * wide],
        }
    }

    /// Where row `row`'s values of `head` are, in queries and results.
    fn columns(&self, row: usize, head: usize) -> Range<usize> {
        let dim = self.heads.head_dim;
        let start = (row * self.heads.n_head + head) * dim;
        start..start + dim
    }

    /// The block's queries for `head`, padded.
    fn queries(&self, block: &Block, head: usize, q: &mut [f32]) {
        let dim = self.heads.head_dim;
        let rows = q.chunks_exact_mut(self.layer.keys.head_width());
        for (row, q) in block.rows.clone().zip(rows) {
            q[..dim].copy_from_slice(&self.q[self.columns(row, head)]);
            q[dim..].fill(0.0);
        }
    }

    /// Attends with the block's rows (at most `N`) to the chunk of cells from `start` on: their
    /// weighted sums, in `scratch.part`, and what these are relative to; `None` for rows that see
    /// none of them.
    fn attend<const N: usize>(
        &self,
        block: &Block,
        head: usize,
        start: usize,
        scratch: &mut Scratch<'_>,
    ) -> [Option<Softmax>; N] {
        let n = block.rows.len();
        let end = block.most().min(start + CHUNK);
        // How many of these cells row `i` sees.
        let seen = |i: usize| (block.seen + i).min(end).saturating_sub(start);
        scratch.part.fill(0.0);

        self.scores(block, head, start..end, scratch);
        let mut parts = [None; N];
        let rows = scratch.scores.chunks_exact_mut(CHUNK).take(n);
        for ((i, part), scores) in parts.iter_mut().enumerate().zip(rows) {
            if seen(i) > 0 {
                *part = Some(self.math.softmax(scores, seen(i), self.heads.scale));
            }
        }
        self.sums(block, head, start..end, scratch);
        parts
    }

    /// Queries times keys at `positions`, of one chunk.
    fn scores(
        &self,
        block: &Block,
        head: usize,
        positions: Range<usize>,
        scratch: &mut Scratch<'_>,
    ) {
        let (keys, width) = (&self.layer.keys, self.layer.keys.head_width());
        for run in self.plan.runs(block, positions.start, positions.end) {
            let stored = keys.heads(head, run.cell, run.n);
            let at = run.start - positions.start;
            if block.rows.len() == 1 && keys.is_whole() {
                let out = &mut scratch.scores[at..at + run.n];
                self.math.score(scratch.q, stored, out);
                continue;
            }
            for (part, i) in stored.parts(UNPACKED).zip((0..).step_by(UNPACKED)) {
                let unpacked = &mut scratch.unpacked[..part.n() * width];
                self.math.unpack(part, width, unpacked);
                let (first, seen) = block.first_row(run.start + i);
                let q = &scratch.q[first * width..];
                let out = &mut scratch.scores[first * CHUNK + at + i..];
                self.math.score_block(q, seen, unpacked, width, out, CHUNK);
            }
        }
    }

    /// Weights, which lie where the scores did, times the values at `positions`.
    fn sums(&self, block: &Block, head: usize, positions: Range<usize>, scratch: &mut Scratch<'_>) {
        let (values, width) = (&self.layer.values, self.layer.values.head_width());
        for run in self.plan.runs(block, positions.start, positions.end) {
            let stored = values.heads(head, run.cell, run.n);
            let at = run.start - positions.start;
            if block.rows.len() == 1 && values.is_whole() {
                let weights = &scratch.scores[at..at + run.n];
                self.math.weigh(weights, stored, scratch.part);
                continue;
            }
            for (part, i) in stored.parts(UNPACKED).zip((0..).step_by(UNPACKED)) {
                let unpacked = &mut scratch.unpacked[..part.n() * width];
                self.math.unpack(part, width, unpacked);
                let (first, seen) = block.first_row(run.start + i);
                let weights = &scratch.scores[first * CHUNK + at + i..];
                let acc = &mut scratch.part[first * width..];
                self.math
                    .weigh_block(weights, CHUNK, seen, unpacked, width, acc);
            }
        }
    }

    /// `out = total / sum`.
    fn finish(&self, out: &mut [f32], total: &[f32], state: &Softmax) {
        for (out, total) in out.iter_mut().zip(total) {
            *out = total / state.sum;
        }
    }
}
