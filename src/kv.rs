//! The KV cache's ledger: which cells each sequence owns. No tensors; storage is the device's.
//!
//! A cell holds the keys and values of one position. A sequence is a list of cells in order of
//! position: its `i`-th cell is position `i`. Sequences with the same prefix may share its cells,
//! so every cell counts how many sequences hold it; at zero it is free again.
//!
//! A sequence goes on in the cell after its last; where that is held it begins an extent of
//! [`EXTENT`] cells that are all free. So sequences that grow together, a token of each in turn,
//! still have theirs in runs, which attention reads much faster than cells far apart.

use std::fmt;
use std::str::FromStr;

/// Makes [`KvType`] from one line a type: variant, name, elements a block, bytes a block.
macro_rules! kv_types {
    ($($variant:ident = $name:literal, $block_len:literal, $block_bytes:literal;)*) => {
        /// Element type of the K or V store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // each variant is the type of its name
        pub enum KvType { $($variant,)* }

        impl KvType {
            /// Every type there is.
            pub const ALL: &'static [KvType] = &[$(KvType::$variant,)*];

            /// Its name, as options and files write it.
            pub const fn name(self) -> &'static str {
                match self { $(KvType::$variant => $name,)* }
            }

            /// Elements that share a block (and its scale).
            pub const fn block_len(self) -> usize {
                match self { $(KvType::$variant => $block_len,)* }
            }

            /// Bytes a block.
            pub const fn block_bytes(self) -> usize {
                match self { $(KvType::$variant => $block_bytes,)* }
            }
        }
    };
}

kv_types! {
    F32 = "f32", 1, 4;
    F16 = "f16", 1, 2;
    Q8_0 = "q8_0", 32, 34;
    Q4_0 = "q4_0", 32, 18;
}

impl KvType {
    /// Bytes of one head's key or value: its last block is padded where `head_dim` is no multiple
    /// of the block (80 for abeja's model).
    pub const fn head_bytes(self, head_dim: usize) -> usize {
        head_dim.div_ceil(self.block_len()) * self.block_bytes()
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`KvType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is no type of the KV cache (expected {})", names())]
pub struct UnknownKvType {
    /// What was given.
    pub found: String,
}

fn names() -> String {
    let names: Vec<_> = KvType::ALL.iter().map(|t| t.name()).collect();
    names.join(", ")
}

impl FromStr for KvType {
    type Err = UnknownKvType;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        KvType::ALL
            .iter()
            .find(|t| t.name() == s)
            .copied()
            .ok_or_else(|| UnknownKvType {
                found: s.to_string(),
            })
    }
}

/// What the ledger refuses. Nothing has changed when one of these is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Not enough cells are free.
    #[error("the KV cache is full: {needed} cells needed, {free} of {total} free")]
    Full {
        /// Cells asked for.
        needed: usize,
        /// Cells free.
        free: usize,
        /// Cells there are.
        total: usize,
    },
    /// No such sequence.
    #[error("there is no sequence {sequence} (expected 0 to {})", n_sequences.saturating_sub(1))]
    NoSequence {
        /// The sequence asked for.
        sequence: u32,
        /// How many there are.
        n_sequences: usize,
    },
    /// A length beyond the sequence's own.
    #[error("sequence {sequence} has {len} positions, not {asked}")]
    TooShort {
        /// The sequence.
        sequence: u32,
        /// Positions it has.
        len: usize,
        /// Positions asked for.
        asked: usize,
    },
}

/// What a context shift asks of the device: first the copies, then the turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shift {
    /// (from, to): cells other sequences hold too, which this one now has copies of.
    pub copies: Vec<(u32, u32)>,
    /// The cells whose position changed, in order of position; all this sequence's alone.
    pub cells: Vec<u32>,
    /// By how many positions they moved; negative.
    pub delta: i32,
}

/// Cells that a sequence gets side by side, where there is room.
pub const EXTENT: u32 = 32;

/// Which cells each sequence owns.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// `sequences[sequence][position]` is a cell.
    sequences: Vec<Vec<u32>>,
    /// `references[cell]`: how many sequences hold it, up to the last that ever was held. Those
    /// beyond are free, and cost nothing: a cache may be much longer than what it will hold.
    references: Vec<u32>,
    /// How many cells of each extent are held; as far as `references` goes.
    held: Vec<u32>,
    /// How many cells are held.
    n_held: usize,
    /// How many cells there are.
    n_cells: u32,
}

impl Ledger {
    /// `n_cells` free cells and `n_sequences` empty sequences.
    pub fn new(n_cells: u32, n_sequences: u32) -> Self {
        Ledger {
            sequences: vec![Vec::new(); n_sequences as usize],
            references: Vec::new(),
            held: Vec::new(),
            n_held: 0,
            n_cells,
        }
    }

    /// The cells of `sequence`, in order of position; none where there is no such sequence.
    pub fn cells(&self, sequence: u32) -> &[u32] {
        self.sequences
            .get(sequence as usize)
            .map_or(&[], Vec::as_slice)
    }

    /// How many positions `sequence` has.
    pub fn len(&self, sequence: u32) -> usize {
        self.cells(sequence).len()
    }

    /// Whether `sequence` has none.
    pub fn is_empty(&self, sequence: u32) -> bool {
        self.len(sequence) == 0
    }

    /// How many sequences there are.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// How many cells there are.
    pub fn n_cells(&self) -> usize {
        self.n_cells as usize
    }

    /// How many cells nobody holds.
    pub fn n_free(&self) -> usize {
        self.n_cells() - self.n_held
    }

    /// How many sequences hold `cell`.
    pub fn references(&self, cell: u32) -> u32 {
        self.references.get(cell as usize).copied().unwrap_or(0)
    }

    /// Gives `sequence` `n` more cells and returns them, in order of position.
    pub fn append(&mut self, sequence: u32, n: usize) -> Result<&[u32], LedgerError> {
        let old = self.check(sequence, 0)?;
        self.check_free(n)?;
        let mut last = self.cells(sequence).last().copied();
        for _ in 0..n {
            let Some(cell) = self.take(last) else { break };
            self.sequences[sequence as usize].push(cell);
            last = Some(cell);
        }
        Ok(&self.sequences[sequence as usize][old..])
    }

    /// Makes `to` hold the first `len` cells of `from` in place of its own.
    pub fn share(&mut self, from: u32, to: u32, len: usize) -> Result<(), LedgerError> {
        self.check(from, len)?;
        self.check(to, 0)?;
        let shared = self.cells(from)[..len].to_vec();
        for &cell in &shared {
            self.references[cell as usize] += 1;
        }
        self.release(to, 0);
        self.sequences[to as usize] = shared;
        Ok(())
    }

    /// Makes `to` hold copies of the first `len` cells of `from` in place of its own; returns
    /// what the device must copy, (from, to).
    pub fn copy(&mut self, from: u32, to: u32, len: usize) -> Result<Vec<(u32, u32)>, LedgerError> {
        self.check(from, len)?;
        self.check(to, 0)?;
        self.check_free(len)?;
        let sources = self.cells(from)[..len].to_vec();
        // Fresh cells are taken before `to` lets go of its own, so no copy overwrites a source.
        let mut last = None;
        let mut pairs = Vec::with_capacity(len);
        for source in sources {
            let Some(fresh) = self.take(last) else { break };
            pairs.push((source, fresh));
            last = Some(fresh);
        }
        self.release(to, 0);
        self.sequences[to as usize] = pairs.iter().map(|&(_, fresh)| fresh).collect();
        Ok(pairs)
    }

    /// Keeps the first `len` positions of `sequence`; the others' cells are let go.
    pub fn truncate(&mut self, sequence: u32, len: usize) -> Result<(), LedgerError> {
        self.check(sequence, len)?;
        self.release(sequence, len);
        Ok(())
    }

    /// Empties `sequence`.
    pub fn clear(&mut self, sequence: u32) -> Result<(), LedgerError> {
        self.truncate(sequence, 0)
    }

    /// Takes positions `keep..keep + discard` out of `sequence` and moves the later ones down.
    /// Moved cells that other sequences hold too are copied first, since their keys will turn.
    pub fn shift(
        &mut self,
        sequence: u32,
        keep: usize,
        discard: usize,
    ) -> Result<Shift, LedgerError> {
        // A sum that overflows is longer than any sequence.
        let moved_from = keep.saturating_add(discard);
        self.check(sequence, moved_from)?;
        let (discarded, moved) = self.cells(sequence)[keep..].split_at(discard);
        let shared = moved.iter().filter(|&&c| self.references(c) > 1).count();
        let let_go = discarded
            .iter()
            .filter(|&&c| self.references(c) == 1)
            .count();
        self.check_free(shared.saturating_sub(let_go))?;

        let tail = self.sequences[sequence as usize].split_off(moved_from);
        self.release(sequence, keep);
        let mut shift = Shift {
            copies: Vec::with_capacity(shared),
            cells: Vec::with_capacity(tail.len()),
            // A ledger has at most u32::MAX cells; positions beyond i32 do not occur.
            delta: -i32::try_from(discard).unwrap_or(i32::MAX),
        };
        for mut cell in tail {
            if self.references(cell) > 1
                && let Some(fresh) = self.take(self.cells(sequence).last().copied())
            {
                self.references[cell as usize] -= 1;
                shift.copies.push((cell, fresh));
                cell = fresh;
            }
            shift.cells.push(cell);
            self.sequences[sequence as usize].push(cell);
        }
        Ok(shift)
    }

    /// An error unless `sequence` exists and has at least `len` positions; else how many it has.
    fn check(&self, sequence: u32, len: usize) -> Result<usize, LedgerError> {
        let Some(cells) = self.sequences.get(sequence as usize) else {
            return Err(LedgerError::NoSequence {
                sequence,
                n_sequences: self.n_sequences(),
            });
        };
        if len > cells.len() {
            return Err(LedgerError::TooShort {
                sequence,
                len: cells.len(),
                asked: len,
            });
        }
        Ok(cells.len())
    }

    fn check_free(&self, needed: usize) -> Result<(), LedgerError> {
        if needed > self.n_free() {
            return Err(LedgerError::Full {
                needed,
                free: self.n_free(),
                total: self.n_cells(),
            });
        }
        Ok(())
    }

    /// A free cell, now held once: the one after `last`, else the first of the lowest extent that
    /// is free, else the lowest, which keeps used ones together.
    fn take(&mut self, last: Option<u32>) -> Option<u32> {
        let next = last.and_then(|last| last.checked_add(1));
        let next = next.filter(|&next| next < self.n_cells && self.references(next) == 0);
        let cell = next
            .or_else(|| self.free_extent())
            .or_else(|| self.free_cell())?;
        if cell as usize >= self.references.len() {
            self.references.resize(cell as usize + 1, 0);
            self.held.resize((cell / EXTENT) as usize + 1, 0);
        }
        self.references[cell as usize] = 1;
        self.held[(cell / EXTENT) as usize] += 1;
        self.n_held += 1;
        Some(cell)
    }

    /// The first cell of the lowest extent of which no cell is held. (The last extent may be
    /// shorter than others.)
    fn free_extent(&self) -> Option<u32> {
        let free = self.held.iter().position(|&n| n == 0);
        let extent = u32::try_from(free.unwrap_or(self.held.len())).ok()?;
        let cell = extent.checked_mul(EXTENT)?;
        (cell < self.n_cells).then_some(cell)
    }

    /// The lowest free cell.
    fn free_cell(&self) -> Option<u32> {
        let extent = self.held.iter().position(|&n| n < EXTENT)?;
        let first = u32::try_from(extent).ok()? * EXTENT;
        (first..self.n_cells.min(first + EXTENT)).find(|&cell| self.references(cell) == 0)
    }

    /// Lets the cells of an existing `sequence` from `len` on go.
    fn release(&mut self, sequence: u32, len: usize) {
        for cell in self.sequences[sequence as usize].drain(len..) {
            self.references[cell as usize] -= 1;
            if self.references[cell as usize] == 0 {
                self.held[(cell / EXTENT) as usize] -= 1;
                self.n_held -= 1;
            }
        }
    }
}
