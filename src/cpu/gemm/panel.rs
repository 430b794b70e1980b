//! What the microkernels share: panels and how they are gone through.
//!
//! A panel is 16 rows of weights, unpacked to 8-bit integers in the order in which a microkernel
//! wants them. Panels are cut along their length to stay in the first-level cache; a tile's f32
//! accumulators lie in the output in between.

use std::cell::RefCell;

use crate::cpu::activation::{GROUP, Rows};
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

    /// How many of a panel's groups one group of weights takes.
    #[inline(always)]
    fn spread<B: Unpack>() -> usize {
        1
    }

    /// The integers of groups `first..first + depth` of all rows of activations, and how many i32
    /// lie from row to row: those that there are, or others in `room`.
    ///
    /// # Safety
    /// The instruction set; `x` has these groups.
    #[inline(always)]
    unsafe fn activations<B: Unpack>(
        x: &Rows<'_>,
        first: usize,
        _depth: usize,
        _room: &mut Buffer,
    ) -> (*const i32, usize) {
        (x.q[first * GROUP..].as_ptr().cast(), x.groups * STEPS)
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
        let (q, q_stride) = unsafe { M::activations::<B>(x, first, depth, &mut room) };
        for start in (0..w.rows).step_by(WIDE) {
            let n_rows = (w.rows - start).min(WIDE);
            // SAFETY: this function's contract; the buffer has room for `DEPTH` groups, which are
            // written before use.
            let panel = unsafe {
                let rows = w.bytes.as_ptr().add(start * w.stride);
                M::unpack::<B>(rows, first, depth, panel);
                std::slice::from_raw_parts(panel, depth * spread)
            };
            let mut n = 0;
            while n < x.n {
                let to = Tile {
                    n,
                    first,
                    q: q.wrapping_add(n * q_stride),
                    q_stride,
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

/// Where a panel's products with some rows of activations go.
pub(super) struct Tile<'a> {
    /// The first row of activations.
    pub n: usize,
    /// The panel's first group.
    pub first: usize,
    /// The activations' integers from that row and group on, an i32 for each step.
    pub q: *const i32,
    /// i32s from row to row of them.
    pub q_stride: usize,
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
