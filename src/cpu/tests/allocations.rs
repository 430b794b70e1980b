//! Decoding allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use katari_gguf::Format;

use super::{Model, cpu};
use crate::cpu::*;
use crate::kv::{KvType, Ledger};
use crate::ops::{RopePairs, Row};

thread_local! {
    /// How often this thread took memory. (A constant without a destructor: using it takes none.)
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: everything is the system allocator's own doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.set(TAKEN.get() + 1);
        // SAFETY: by the caller's promise, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: by the caller's promise, which is the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.set(TAKEN.get() + 1);
        // SAFETY: by the caller's promise, which is the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Positions at which a pass may take memory: the first, and where attention begins to merge
/// chunks, or has twice as many to merge.
const MAY_GROW: [u32; 3] = [0, 256, 512];

#[test]
fn decoding_takes_no_memory() {
    for kv in [KvType::F16, KvType::Q8_0] {
        let model = Model::new(Format::Q4_K, RopePairs::Halves);
        // One thread, so that this one does and counts everything.
        let mut cpu = cpu(1, Isa::best(), (kv, kv));
        let mut ledger = Ledger::new(600, 1);
        for position in 0..600 {
            let row = Row {
                token: 3,
                position,
                sequence: 0,
                cell: ledger.append(0, 1).unwrap()[0],
                wants_logits: true,
            };
            let batch = Batch {
                rows: &[row],
                ledger: &ledger,
            };
            let before = TAKEN.get();
            cpu.run(&batch, &[], &mut |ops| model.forward(ops)).unwrap();
            cpu.result = None;
            let taken = TAKEN.get() - before;
            assert!(
                taken == 0 || MAY_GROW.contains(&position),
                "{taken} allocations at position {position}"
            );
        }
    }
}
