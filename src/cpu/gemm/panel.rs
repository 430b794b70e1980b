//! What the microkernels share: panels and how they are gone through.
//!
//! A panel is 16 rows of weights, unpacked to 8-bit integers in the order in which a microkernel
//! wants them. Panels are cut along their length to stay in the first-level cache; a tile's f32
//! accumulators lie in the output in between.

use std::cell::RefCell;

use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::ahead::{LINE, ask_for};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::unpack::{STEPS, Unpack};
use crate::cpu::dot::{Weights, pack};

/// Rows in a panel.
pub(super) const WIDE: usize = pack::ROWS;
/// Groups unpacked before they are used: about 22 KiB, which leaves the first-level cache room for
/// activations; with half as many a tile begins and ends too often (6 % slower). A
/// multiple of the groups of every format's block.
pub(super) const DEPTH: usize = 32;

thread_local! {
    /// A worker's panel.
    static PANEL: RefCell<Buffer> = RefCell::default();
    /// A worker's activations as its microkernel wants them.
    static ACTIVATIONS: RefCell<Buffer> = RefCell::default();
}

/// A microkernel.
pub(super) trait Micro {
    /// A panel's part of one group, or of some of its values: see [`Micro::spread`]. Aligned to no
    /// more than a cache line.
    type Group;
    /// Rows of activations in its largest tile.
    const TALL: usize;

    /// How many of a panel's groups one group of weights takes.
    #[inline(always)]
    fn spread<B: Unpack>() -> usize {
        1
    }

    /// Groups `first..first + depth` of all rows of activations: those that there are, or others
    /// in `room`.
    ///
    /// # Safety
    /// The instruction set; `x` has these groups.
    #[inline(always)]
    unsafe fn activations<B: Unpack>(
        x: &Rows<'_>,
        first: usize,
        _depth: usize,
        _room: &mut Buffer,
    ) -> Words {
        Words::of(x, first)
    }

    /// Unpacks groups `first..first + depth`, whole blocks, of interleaved rows.
    ///
    /// # Safety
    /// The instruction set; the rows are that long and `panel` has room.
    unsafe fn unpack<B: Unpack>(
        rows: *const u8,
        first: usize,
        depth: usize,
        panel: *mut Self::Group,
    );

    /// Adds the panel's products with rows of activations to the output, as many as it likes of
    /// those from `to.n` on; says how many.
    ///
    /// # Safety
    /// The instruction set; `x` has the panel's groups.
    unsafe fn tile<B: Unpack>(panel: &[Self::Group], x: &Rows<'_>, to: Tile<'_>) -> usize;
}

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// The instruction set of `M`; shapes as the table's type says.
#[inline(always)]
pub(super) unsafe fn run<B: Unpack, M: Micro>(
    w: &Weights<'_>,
    x: &Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // No closures around intrinsics: they might not be inlined.
    let mut buffer = PANEL.take();
    buffer.reserve(DEPTH * size_of::<M::Group>() / 4);
    // Aligned to cache lines, as buffers are.
    let panel = buffer.of_mut::<f32>().as_mut_ptr().cast::<M::Group>();
    let spread = M::spread::<B>();
    let mut room = ACTIVATIONS.take();
    for first in (0..x.groups).step_by(DEPTH / spread) {
        let depth = (DEPTH / spread).min(x.groups - first);
        // SAFETY: this function's contract.
        let words = unsafe { M::activations::<B>(x, first, depth, &mut room) };
        for start in (0..w.rows).step_by(WIDE) {
            let n_rows = (w.rows - start).min(WIDE);
            // SAFETY: this function's contract; the buffer has room for `DEPTH` groups, which are
            // written before use.
            let panel = unsafe {
                let rows = w.bytes.as_ptr().add(start * w.stride);
                M::unpack::<B>(rows, first, depth, panel);
                std::slice::from_raw_parts(panel, depth * spread)
            };
            // The panel after this one, at the same place, or all of them farther on; behind the
            // last comes presumably this thread's next.
            let (row, group) = if start + WIDE < w.rows {
                (start + WIDE, first)
            } else if first + depth < x.groups {
                (0, first + depth)
            } else {
                (start + WIDE, 0)
            };
            let group_bytes = const { WIDE * size_of::<B>() * GROUP / B::LEN };
            let at = row * w.stride + group * group_bytes;
            let groups = (DEPTH / spread).min(x.groups - group);
            let mut next = Ahead::new(w.bytes.as_ptr().wrapping_add(at), groups * group_bytes);
            let mut n = 0;
            while n < x.n {
                next.ask(n + M::TALL, x.n);
                let to = Tile {
                    n,
                    first,
                    words: words.from(n),
                    out: &mut out[n * stride + start..],
                    stride,
                    n_rows,
                };
                // SAFETY: this function's contract.
                n += unsafe { M::tile::<B>(panel, x, to) };
            }
        }
    }
    PANEL.set(buffer);
    ACTIVATIONS.set(room);
}

/// Weights that are unpacked next. Their lines are asked for bit by bit beside the products, since
/// there are only so many requests open at once and a processor waits where there are more; without
/// that it waits when it unpacks (7 to 9 % of its time in a prompt, 2 to 4 with it).
struct Ahead {
    at: *const u8,
    lines: usize,
    /// How many were asked for.
    asked: usize,
}

impl Ahead {
    /// `bytes` from `at` on.
    fn new(at: *const u8, bytes: usize) -> Ahead {
        let lines = bytes.div_ceil(LINE);
        let asked = 0;
        Ahead { at, lines, asked }
    }

    /// Asks for what belongs to the first `n` of `rows` rows of activations.
    #[inline(always)]
    fn ask(&mut self, n: usize, rows: usize) {
        let until = self.lines * n.min(rows) / rows;
        let lines = until - self.asked;
        ask_for(self.at.wrapping_add(self.asked * LINE), lines * LINE);
        self.asked = until;
    }
}

/// Where the integers of rows of activations lie, from some group on.
#[derive(Clone, Copy)]
pub(super) struct Words {
    /// An i32 for each step.
    pub q: *const i32,
    /// i32s from row to row of them.
    pub q_stride: usize,
    /// What sums begin with, where a microkernel wants that.
    pub begin: *const i32,
    /// i32s from row to row of that.
    pub begin_stride: usize,
}

impl Words {
    /// The integers of all rows as they are, from group `first` on.
    #[inline(always)]
    pub(super) fn of(x: &Rows<'_>, first: usize) -> Words {
        Words {
            q: x.q[first * GROUP..].as_ptr().cast(),
            q_stride: x.groups * STEPS,
            begin: std::ptr::null(),
            begin_stride: 0,
        }
    }

    /// Those of the rows from `n` on.
    #[inline(always)]
    fn from(self, n: usize) -> Words {
        Words {
            q: self.q.wrapping_add(n * self.q_stride),
            begin: self.begin.wrapping_add(n * self.begin_stride),
            ..self
        }
    }
}

/// Where a panel's products with some rows of activations go.
pub(super) struct Tile<'a> {
    /// The first row of activations.
    pub n: usize,
    /// The panel's first group.
    pub first: usize,
    /// The activations' integers from that row and group on.
    pub words: Words,
    /// The first row's part of the output.
    out: &'a mut [f32],
    /// Values from row to row of the output.
    stride: usize,
    /// How many of the panel's rows there are.
    n_rows: usize,
}

impl Tile<'_> {
    /// The accumulators so far, of `N` rows of activations: 0 where the panel begins with the
    /// first group.
    #[inline(always)]
    pub(super) fn load<const N: usize>(&self) -> [[f32; WIDE]; N] {
        let mut acc = [[0.0; WIDE]; N];
        if self.first > 0 {
            for (c, acc) in acc.iter_mut().enumerate() {
                let out = &self.out[c * self.stride..][..self.n_rows];
                // A whole panel is copied in registers, without a call.
                match out.try_into() {
                    Ok(out) => *acc = out,
                    Err(_) => acc[..self.n_rows].copy_from_slice(out),
                }
            }
        }
        acc
    }

    /// Puts them back.
    #[inline(always)]
    pub(super) fn store<const N: usize>(self, acc: &[[f32; WIDE]; N]) {
        for (c, acc) in acc.iter().enumerate() {
            let out = &mut self.out[c * self.stride..][..self.n_rows];
            match <&mut [f32; WIDE]>::try_from(&mut *out) {
                Ok(out) => *out = *acc,
                Err(_) => out.copy_from_slice(&acc[..self.n_rows]),
            }
        }
    }
}
