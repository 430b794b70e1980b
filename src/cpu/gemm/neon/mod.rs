//! Prefill on NEON.
//!
//! A panel is up to 16 rows of weights, in eights, as signed 8-bit integers in the order in which
//! a microkernel reads them ([`Micro`]); a tile is eight rows times four rows of activations.
//! Panels are cut along their length to stay in the first-level cache; a tile's f32 accumulators
//! lie in the output in between.
//!
//! What a kernel calls must be inlined into it to be compiled for its instruction set, so there
//! are no closures around what not every processor has.

mod i8mm;
mod quads;

use std::arch::aarch64::*;
use std::cell::RefCell;

use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::Weights;
use crate::cpu::dot::neon::{
    self as dot, Lanes, MAX_STEP, ROWS, Unpack, blocks_at, from_magic, panel_rows,
};

/// Eights of rows in a panel.
const WIDE: usize = 2;
/// Rows of activations in a tile.
const TALL: usize = 4;
/// Groups unpacked before they are used: 16 KiB of integers. A multiple of the groups of every
/// format's block.
const DEPTH: usize = 32;

/// Eight rows' part of one group. A number of each row takes `R` registers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group<const R: usize> {
    /// As [`Micro::arrange`] gives them.
    q: [int8x16_t; 16],
    scale: [float32x4_t; R],
    /// Written for formats with mins only.
    min: [float32x4_t; R],
    /// Those of the first and of the last 16 values; written for formats with factors only.
    factors: [[float32x4_t; R]; 2],
}

/// A microkernel: how an instruction set multiplies eight rows of weights with a unit of one or
/// two rows of activations. A unit's accumulators, one for each pair of rows, fill `R` registers.
trait Micro<const R: usize> {
    /// Rows of activations in a unit.
    const UNIT: usize;
    /// A group of a unit where it is packed before use.
    type Packed;
    /// A unit's activations from the panel's first group on.
    type Unit: Copy;

    /// A group of eight rows in order of use.
    fn arrange(rows: &[dot::Group; ROWS]) -> [int8x16_t; 16];

    /// A number of each row, for the accumulators.
    fn numbers(rows: Lanes) -> [float32x4_t; R];

    /// Groups `first..first + depth` of the unit's rows (one row twice where there is no other);
    /// packed, if at all, to `room`.
    ///
    /// # Safety
    /// The groups are there; `room` is for `depth` of them.
    unsafe fn unit(
        x: &Rows<'_>,
        rows: [usize; 2],
        first: usize,
        depth: usize,
        room: *mut Self::Packed,
    ) -> Self::Unit;

    /// The scales and the scaled sums of group `g`, for the accumulators.
    ///
    /// # Safety
    /// `g` is one of the unit's groups.
    unsafe fn scales(unit: Self::Unit, g: usize) -> [float32x4_t; 2];

    /// The products of a group with groups `g` of units, exact, with factors where the format has
    /// them.
    ///
    /// # Safety
    /// The processor has the instruction set; `g` is one of the units' groups.
    unsafe fn sums<B: Unpack, const U: usize>(
        group: &Group<R>,
        units: &[Self::Unit; U],
        g: usize,
    ) -> [[float32x4_t; R]; U];

    /// Accumulators as a number of each row, for each of the unit's rows of activations.
    fn columns(acc: [float32x4_t; R]) -> [Lanes; 2];

    /// The other way.
    fn accumulators(columns: [Lanes; 2]) -> [float32x4_t; R];
}

thread_local! {
    /// A worker's panel and packed activations.
    static PANEL: RefCell<Buffer> = RefCell::default();
}

/// Every row of `w` times every row of `x`, with the baseline's instructions.
///
/// # Safety
/// Shapes as the table's type says; every 64-bit ARM has the instructions.
pub(in crate::cpu) unsafe fn prefill<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { prefill_with::<B, quads::Quads<dot::Baseline>, 2>(w, x, out, stride) }
}

/// As [`prefill`], with dot products.
///
/// # Safety
/// As [`prefill`], and dotprod.
#[target_feature(enable = "dotprod")]
pub(in crate::cpu) unsafe fn prefill_dotprod<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { prefill_with::<B, quads::Quads<dot::Dotprod>, 2>(w, x, out, stride) }
}

/// As [`prefill`], with products of matrices.
///
/// # Safety
/// As [`prefill`], and i8mm.
#[target_feature(enable = "i8mm")]
pub(in crate::cpu) unsafe fn prefill_i8mm<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { prefill_with::<B, i8mm::Matrices, 4>(w, x, out, stride) }
}

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// The instructions of `M`; shapes as the table's type says.
#[inline(always)]
unsafe fn prefill_with<B: Unpack, M: Micro<R>, const R: usize>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    let panel_bytes = WIDE * DEPTH * size_of::<Group<R>>();
    let packed_bytes = TALL / M::UNIT * DEPTH * size_of::<M::Packed>();
    let mut buffer = PANEL.take();
    buffer.reserve((panel_bytes + packed_bytes) / 4);
    // Aligned to cache lines, as buffers are.
    let panel = buffer.of_mut::<f32>().as_mut_ptr().cast::<Group<R>>();
    for first in (0..x.groups).step_by(DEPTH) {
        let depth = DEPTH.min(x.groups - first);
        for start in (0..w.rows).step_by(WIDE * ROWS) {
            let n_rows = (w.rows - start).min(WIDE * ROWS);
            // SAFETY: this function's contract; rows are clamped to those there are, and the
            // buffer has room for the panel and behind it for a tile's packed activations.
            unsafe {
                for i in 0..n_rows.div_ceil(ROWS) {
                    let rows = panel_rows::<B>(&w, start + i * ROWS);
                    unpack::<B, M, R>(&rows, first, depth, panel.add(i * DEPTH));
                }
                for n in (0..x.n).step_by(TALL) {
                    let tiles = Tiles::<M, R> {
                        panel,
                        room: panel.add(WIDE * DEPTH).cast(),
                        n_rows,
                        n,
                        first,
                        depth,
                    };
                    let out = &mut out[n * stride + start..];
                    match (x.n - n).min(TALL).div_ceil(M::UNIT) {
                        1 => tiles.add::<B, 1>(&x, out, stride),
                        // No more where a unit is two rows.
                        3 if M::UNIT == 1 => tiles.add::<B, 3>(&x, out, stride),
                        4 if M::UNIT == 1 => tiles.add::<B, 4>(&x, out, stride),
                        _ => tiles.add::<B, 2>(&x, out, stride),
                    }
                }
            }
        }
    }
    PANEL.set(buffer);
}

/// Unpacks groups `first..first + depth`, whole blocks, of eight rows.
///
/// # Safety
/// The rows are that long and `panel` has room.
#[inline(always)]
unsafe fn unpack<B: Unpack, M: Micro<R>, const R: usize>(
    rows: &[*const B; ROWS],
    first: usize,
    depth: usize,
    panel: *mut Group<R>,
) {
    let groups = B::LEN / GROUP;
    // SAFETY: by this function's contract; what is not written is not read for this format.
    unsafe {
        let offset = vdupq_n_s8(B::OFFSET as i8);
        for b in 0..depth / groups {
            let blocks = blocks_at(rows, first / groups + b);
            let scales = B::scales(&blocks);
            for step in 0..groups / B::STEP {
                let mut q = [[[offset; 2]; ROWS]; MAX_STEP];
                for r in 0..ROWS {
                    let row = B::unpack(blocks[r], step);
                    for j in 0..B::STEP {
                        q[j][r] = [vsubq_s8(row[j][0], offset), vsubq_s8(row[j][1], offset)];
                    }
                }
                for j in 0..B::STEP {
                    let g = step * B::STEP + j;
                    let to = panel.add(b * groups + g);
                    (&raw mut (*to).q).write(M::arrange(&q[j]));
                    (&raw mut (*to).scale).write(M::numbers(B::scale(&scales, g)));
                    if B::HAS_MIN {
                        (&raw mut (*to).min).write(M::numbers(B::min(&scales, g)));
                    }
                    if B::FACTORS {
                        let [a, b, c, d] = B::factors(&blocks, g);
                        (&raw mut (*to).factors).write([
                            M::numbers([vuzp1q_f32(a, b), vuzp1q_f32(c, d)]),
                            M::numbers([vuzp2q_f32(a, b), vuzp2q_f32(c, d)]),
                        ]);
                    }
                }
            }
        }
    }
}

/// A panel times up to [`TALL`] rows of activations.
struct Tiles<M: Micro<R>, const R: usize> {
    /// `[eight][DEPTH]`.
    panel: *const Group<R>,
    /// Where activations are packed.
    room: *mut M::Packed,
    /// How many of the panel's rows there are.
    n_rows: usize,
    /// The first row of activations.
    n: usize,
    /// The panel's first group.
    first: usize,
    /// How many groups it has.
    depth: usize,
}

impl<M: Micro<R>, const R: usize> Tiles<M, R> {
    /// Adds the products with `U` units to the output (from 0 where the panel begins with the
    /// first group).
    ///
    /// # Safety
    /// The instructions of `M`; `x` has these rows and groups, the panel too; there is room to
    /// pack the units.
    #[inline(always)]
    unsafe fn add<B: Unpack, const U: usize>(self, x: &Rows<'_>, out: &mut [f32], stride: usize) {
        // SAFETY: by this function's contract; rows of activations are clamped to those there
        // are.
        unsafe {
            let rows = [self.n, (self.n + M::UNIT - 1).min(x.n - 1)];
            let mut units = [M::unit(x, rows, self.first, self.depth, self.room); U];
            for (u, unit) in units.iter_mut().enumerate().skip(1) {
                let n = self.n + u * M::UNIT;
                let rows = [n, (n + M::UNIT - 1).min(x.n - 1)];
                *unit = M::unit(x, rows, self.first, self.depth, self.room.add(u * DEPTH));
            }
            for eight in 0..self.n_rows.div_ceil(ROWS) {
                let mut out = Out {
                    data: &mut out[eight * ROWS..],
                    stride,
                    n_rows: (self.n_rows - eight * ROWS).min(ROWS),
                    n_columns: (x.n - self.n).min(U * M::UNIT),
                };
                let mut acc = [[vdupq_n_f32(0.0); R]; U];
                if self.first > 0 {
                    for (u, acc) in acc.iter_mut().enumerate() {
                        let n = u * M::UNIT;
                        *acc = M::accumulators([out.load(n), out.load(n + M::UNIT - 1)]);
                    }
                }
                for g in 0..self.depth {
                    let group = &*self.panel.add(eight * DEPTH + g);
                    let sums = M::sums::<B, U>(group, &units, g);
                    for u in 0..U {
                        let [x_scale, x_sum] = M::scales(units[u], g);
                        for i in 0..R {
                            let scale = vmulq_f32(group.scale[i], x_scale);
                            acc[u][i] = vfmaq_f32(acc[u][i], sums[u][i], scale);
                            if B::HAS_MIN {
                                acc[u][i] = vfmsq_f32(acc[u][i], group.min[i], x_sum);
                            }
                        }
                    }
                }
                for (u, acc) in acc.into_iter().enumerate() {
                    let columns = M::columns(acc);
                    for (c, lanes) in columns.into_iter().enumerate().take(M::UNIT) {
                        out.store(u * M::UNIT + c, lanes);
                    }
                }
            }
        }
    }
}

/// [`from_magic`] of all.
#[inline(always)]
fn all_from_magic<const R: usize, const U: usize>(
    sums: [[int32x4_t; R]; U],
) -> [[float32x4_t; R]; U] {
    // SAFETY: every 64-bit ARM has NEON.
    let mut out = [[unsafe { vdupq_n_f32(0.0) }; R]; U];
    for u in 0..U {
        for i in 0..R {
            out[u][i] = from_magic(sums[u][i]);
        }
    }
    out
}

/// The sums of both halves of a group times their factors, added. All of it is exact: a half's
/// sum is below 2^16 and a factor below 2^8.
#[inline(always)]
fn times_factors<const R: usize, const U: usize>(
    group: &Group<R>,
    first: [[float32x4_t; R]; U],
    second: [[float32x4_t; R]; U],
) -> [[float32x4_t; R]; U] {
    let mut sums = second;
    for u in 0..U {
        for i in 0..R {
            // SAFETY: every 64-bit ARM has NEON.
            sums[u][i] = unsafe {
                let second = vmulq_f32(second[u][i], group.factors[1][i]);
                vfmaq_f32(second, first[u][i], group.factors[0][i])
            };
        }
    }
    sums
}

/// A tile's part of the output.
struct Out<'a> {
    /// `[n_columns, stride]`, of which `n_rows` are meant.
    data: &'a mut [f32],
    stride: usize,
    /// Rows of weights, at most eight.
    n_rows: usize,
    /// Rows of activations.
    n_columns: usize,
}

impl Out<'_> {
    /// What is there for row `c` of the activations, the last one where there are fewer.
    #[inline(always)]
    fn load(&self, c: usize) -> Lanes {
        let start = c.min(self.n_columns - 1) * self.stride;
        let mut lanes = [0.0; ROWS];
        lanes[..self.n_rows].copy_from_slice(&self.data[start..start + self.n_rows]);
        // SAFETY: the array is eight floats.
        unsafe { [vld1q_f32(lanes.as_ptr()), vld1q_f32(lanes.as_ptr().add(4))] }
    }

    /// Puts them there, if there is such a row of activations.
    #[inline(always)]
    fn store(&mut self, c: usize, lanes: Lanes) {
        if c < self.n_columns {
            let mut values = [0.0; ROWS];
            // SAFETY: the array is eight floats.
            unsafe {
                vst1q_f32(values.as_mut_ptr(), lanes[0]);
                vst1q_f32(values.as_mut_ptr().add(4), lanes[1]);
            }
            let start = c * self.stride;
            self.data[start..start + self.n_rows].copy_from_slice(&values[..self.n_rows]);
        }
    }
}
