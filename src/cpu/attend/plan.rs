//! Who attends to what in one pass.

use std::ops::Range;
use std::sync::atomic::AtomicU32;

use super::super::kv::CELLS;
use super::{BLOCK, CHUNK};
use crate::ops::Batch;

/// Rows of one sequence at positions that follow one another, as they do in the batch.
pub(super) struct Block {
    /// In the batch.
    pub rows: Range<usize>,
    /// How many cells the first row sees; each next one sees one more.
    pub seen: usize,
    /// The cells of its sequence, in [`Plan::runs`].
    runs: Range<usize>,
    /// A single row's parts in memory, one a chunk and head, from this one on.
    pub first_part: usize,
}

impl Block {
    /// How many cells the last row sees.
    pub(super) fn most(&self) -> usize {
        self.seen + self.rows.len() - 1
    }

    /// The first row that sees position `start`, and how many cells from there on it sees; where
    /// there is none, the number of rows.
    pub(super) fn first_row(&self, start: usize) -> (usize, usize) {
        let first = (start + 1).saturating_sub(self.seen).min(self.rows.len());
        (first, (self.seen + first).saturating_sub(start))
    }

    /// How many chunks the last row sees.
    pub(super) fn chunks(&self) -> usize {
        self.most().div_ceil(CHUNK)
    }
}

/// Cells of a sequence that lie side by side, all of one chunk.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The position of the first.
    pub start: usize,
    /// The first.
    pub cell: u32,
    /// How many.
    pub n: usize,
}

/// What a thread takes at once, for one head.
#[derive(Clone, Copy)]
pub(super) enum Item {
    /// All chunks of a block.
    Block(usize),
    /// (block, chunk): a chunk of a single row, which is a block of its own.
    Chunk(usize, usize),
}

/// Who attends to what in one pass; the same for every layer.
#[derive(Default)]
pub(in crate::cpu) struct Plan {
    pub(super) blocks: Vec<Block>,
    /// What there is to do for each head, longest first.
    pub(super) items: Vec<Item>,
    /// Parts that [`Item::Chunk`]s leave.
    pub(super) parts: usize,
    /// How many chunks of a head are done, `[blocks, heads]`; 0 between calls.
    pub(super) done: Vec<AtomicU32>,
    /// The cells of the batch's sequences, each in order of position.
    runs: Vec<Run>,
    /// (sequence, where its cells are in `runs`).
    sequences: Vec<(u32, Range<usize>)>,
}

impl Plan {
    /// Plans for `batch`, with attention of `n_head` heads.
    pub(in crate::cpu) fn set(&mut self, batch: &Batch<'_>, n_head: usize) {
        self.blocks.clear();
        self.runs.clear();
        self.sequences.clear();
        for (i, row) in batch.rows.iter().enumerate() {
            let known = self.sequences.iter().find(|(s, _)| *s == row.sequence);
            let runs = known.map(|(_, runs)| runs.clone()).unwrap_or_else(|| {
                let start = self.runs.len();
                self.add_runs(batch.ledger.cells(row.sequence));
                let runs = start..self.runs.len();
                self.sequences.push((row.sequence, runs.clone()));
                runs
            });
            let seen = row.position as usize + 1;
            match self.blocks.last_mut() {
                Some(last)
                    if last.runs == runs && last.most() + 1 == seen && last.rows.len() < BLOCK =>
                {
                    last.rows.end += 1;
                }
                _ => self.blocks.push(Block {
                    rows: i..i + 1,
                    seen,
                    runs,
                    first_part: 0,
                }),
            }
        }
        self.items.clear();
        self.parts = 0;
        // The last rows of a prompt see most: begin with them, so that none is left with a long
        // one alone.
        for (i, block) in self.blocks.iter_mut().enumerate().rev() {
            let chunks = block.chunks();
            if block.rows.len() == 1 && chunks > 1 {
                block.first_part = self.parts;
                self.parts += chunks * n_head;
                self.items.extend((0..chunks).map(|c| Item::Chunk(i, c)));
            } else {
                self.items.push(Item::Block(i));
            }
        }
        let counters = self.blocks.len() * n_head;
        if self.done.len() < counters {
            self.done.resize_with(counters, AtomicU32::default);
        }
    }

    /// Adds the cells of one sequence.
    fn add_runs(&mut self, cells: &[u32]) {
        let first = self.runs.len();
        for (position, &cell) in cells.iter().enumerate() {
            let borders = position.is_multiple_of(CHUNK) || (cell as usize).is_multiple_of(CELLS);
            match self.runs[first..].last_mut() {
                Some(run) if !borders && u64::from(run.cell) + run.n as u64 == u64::from(cell) => {
                    run.n += 1;
                }
                _ => self.runs.push(Run {
                    start: position,
                    cell,
                    n: 1,
                }),
            }
        }
    }

    /// Positions `start..end` of a block's sequence, of one chunk from its first on.
    pub(super) fn runs(
        &self,
        block: &Block,
        start: usize,
        end: usize,
    ) -> impl Iterator<Item = Run> {
        let runs = &self.runs[block.runs.clone()];
        let first = runs.partition_point(|run| run.start < start);
        let runs = runs[first..].iter().take_while(move |run| run.start < end);
        runs.map(move |run| Run {
            n: run.n.min(end - run.start),
            ..*run
        })
    }
}
