//! Prefill on NEON.
//!
//! Panels are signed 8-bit integers, in eights of rows, in the order in which a microkernel reads
//! them ([`Kernel`]); a tile is some rows of activations times one eight and then the other, whose
//! accumulators and integer sums fit the registers.
//!
//! What a kernel calls must be inlined into it to be compiled for its instruction set, so there
//! are no closures around what not every processor has.

mod i8mm;
mod quads;

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::panel::{Micro, Tile, WIDE, Words, run};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::neon::{factors, from_magic, times_factors};
use crate::cpu::dot::unpack::{STEPS, Scales, Unpack, unroll};
use crate::cpu::dot::{Weights, pack};

/// Rows of weights that are done together.
const ROWS: usize = WIDE / 2;

/// A number of each of eight rows.
type Lanes = [float32x4_t; 2];

/// Eight rows' part of one group. A number of each row takes `R` registers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Eight<const R: usize> {
    /// As [`Kernel::arrange`] gives them.
    q: [int8x16_t; 16],
    scale: [float32x4_t; R],
    /// Written for formats with mins only.
    min: [float32x4_t; R],
    /// Those of the first and of the last 16 values; written for formats with factors only.
    factors: [[float32x4_t; R]; 2],
}

/// How an instruction set multiplies eight rows of weights with a unit of one or two rows of
/// activations. A unit's accumulators, one for each pair of rows, fill `R` registers.
trait Kernel<const R: usize> {
    /// Rows of activations in a unit.
    const UNIT: usize;
    /// Rows of activations in a tile.
    const TALL: usize;
    /// A unit's activations from the panel's first group on.
    type Unit: Copy;

    /// A group of eight rows in order of use, from its words of each four rows.
    fn arrange(words: &[[int8x16_t; STEPS]; 2]) -> [int8x16_t; 16];

    /// A number of each row, for the accumulators.
    fn numbers(rows: Lanes) -> [float32x4_t; R];

    /// As [`Micro::activations`].
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn activations(x: &Rows<'_>, first: usize, _depth: usize, _room: &mut Buffer) -> Words {
        Words::of(x, first)
    }

    /// The unit that begins `c` rows of activations after the tile's first.
    ///
    /// # Safety
    /// There is such a row.
    unsafe fn unit(x: &Rows<'_>, to: &Tile<'_>, c: usize) -> Self::Unit;

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
        eight: &Eight<R>,
        units: &[Self::Unit; U],
        g: usize,
    ) -> [[float32x4_t; R]; U];

    /// Accumulators as a number of each row, for each of the unit's rows of activations.
    fn columns(acc: [float32x4_t; R]) -> [Lanes; 2];

    /// The other way.
    fn accumulators(columns: [Lanes; 2]) -> [float32x4_t; R];
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
    unsafe { run::<B, Neon<quads::Quads<quads::Baseline>, 2>>(&w, &x, out, stride) }
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
    unsafe { run::<B, Neon<quads::Quads<quads::Dotprod>, 2>>(&w, &x, out, stride) }
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
    unsafe { run::<B, Neon<i8mm::Matrices, 4>>(&w, &x, out, stride) }
}

/// The microkernel with the products of `K`.
struct Neon<K, const R: usize>(PhantomData<K>);

impl<K: Kernel<R>, const R: usize> Micro for Neon<K, R> {
    type Group = [Eight<R>; 2];
    const TALL: usize = K::TALL;

    #[inline(always)]
    unsafe fn activations<B: Unpack>(
        x: &Rows<'_>,
        first: usize,
        depth: usize,
        room: &mut Buffer,
    ) -> Words {
        // SAFETY: by the trait's contract.
        unsafe { K::activations(x, first, depth, room) }
    }

    #[inline(always)]
    unsafe fn unpack<B: Unpack>(
        rows: *const u8,
        first: usize,
        depth: usize,
        panel: *mut [Eight<R>; 2],
    ) {
        let groups = const { B::LEN / GROUP };
        // SAFETY: by the trait's contract; a panel is four registers of rows.
        unsafe {
            let offset = vdupq_n_s8(B::OFFSET as i8);
            for b in 0..depth / groups {
                let block = rows.add((first / groups + b) * pack::ROWS * size_of::<B>());
                for e in 0..2 {
                    let scales = [
                        B::Scales::<uint8x16_t>::load(block, 2 * e),
                        B::Scales::load(block, 2 * e + 1),
                    ];
                    unroll!(B::LEN / GROUP, G => {
                        let to = panel.add(b * groups + G).cast::<Eight<R>>().add(e);
                        let mut words = [[offset; STEPS]; 2];
                        for i in 0..2 {
                            unroll!(STEPS, T => {
                                let four = B::unpack::<uint8x16_t>(block, 2 * e + i, G, T);
                                words[i][T] = vsubq_s8(vreinterpretq_s8_u8(four), offset);
                            });
                        }
                        (&raw mut (*to).q).write(K::arrange(&words));
                        let [a, b] = &scales;
                        (&raw mut (*to).scale).write(K::numbers([a.scale(G), b.scale(G)]));
                        if B::HAS_MIN {
                            (&raw mut (*to).min).write(K::numbers([a.min(G), b.min(G)]));
                        }
                        if B::FACTORS {
                            let last = G % 2 == 1;
                            let [a0, a1] = factors(a.factors(G), last);
                            let [b0, b1] = factors(b.factors(G), last);
                            (&raw mut (*to).factors)
                                .write([K::numbers([a0, b0]), K::numbers([a1, b1])]);
                        }
                    });
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<B: Unpack>(panel: &[[Eight<R>; 2]], x: &Rows<'_>, to: Tile<'_>) -> usize {
        // SAFETY: by the trait's contract; as many rows of activations are left.
        unsafe {
            match ((x.n - to.n).min(K::TALL), K::UNIT) {
                (4, 1) => add::<B, K, R, 4, 4>(panel, x, to),
                (4, _) => add::<B, K, R, 2, 4>(panel, x, to),
                (3, 1) => add::<B, K, R, 3, 3>(panel, x, to),
                (3, _) => add::<B, K, R, 2, 3>(panel, x, to),
                (2, 1) => add::<B, K, R, 2, 2>(panel, x, to),
                (2, _) => add::<B, K, R, 1, 2>(panel, x, to),
                _ => add::<B, K, R, 1, 1>(panel, x, to),
            }
        }
    }
}

/// Adds the panel's products with `N` rows of activations, which are `U` units, to the output.
///
/// # Safety
/// The instructions of `K`; `x` has these rows and the panel's groups.
#[inline(always)]
unsafe fn add<B: Unpack, K: Kernel<R>, const R: usize, const U: usize, const N: usize>(
    panel: &[[Eight<R>; 2]],
    x: &Rows<'_>,
    to: Tile<'_>,
) -> usize {
    // SAFETY: by this function's contract; units begin with one of the `N` rows, and of a panel's
    // 16 lanes eight are read and written at a time.
    unsafe {
        let mut units = [K::unit(x, &to, 0); U];
        for u in 1..U {
            units[u] = K::unit(x, &to, u * K::UNIT);
        }
        let mut lanes: [[f32; WIDE]; N] = to.load();
        for e in 0..2 {
            let mut acc = [[vdupq_n_f32(0.0); R]; U];
            for u in 0..U {
                let first = lanes[u * K::UNIT].as_ptr().add(e * ROWS);
                let last = lanes[(u * K::UNIT + K::UNIT).min(N) - 1]
                    .as_ptr()
                    .add(e * ROWS);
                let both = [
                    [vld1q_f32(first), vld1q_f32(first.add(4))],
                    [vld1q_f32(last), vld1q_f32(last.add(4))],
                ];
                acc[u] = K::accumulators(both);
            }
            for (g, eights) in panel.iter().enumerate() {
                let eight = &eights[e];
                let sums = K::sums::<B, U>(eight, &units, g);
                for u in 0..U {
                    let [x_scale, x_sum] = K::scales(units[u], g);
                    for i in 0..R {
                        let scale = vmulq_f32(eight.scale[i], x_scale);
                        acc[u][i] = vfmaq_f32(acc[u][i], sums[u][i], scale);
                        if B::HAS_MIN {
                            acc[u][i] = vfmsq_f32(acc[u][i], eight.min[i], x_sum);
                        }
                    }
                }
            }
            for u in 0..U {
                let columns = K::columns(acc[u]);
                for c in 0..K::UNIT.min(N - u * K::UNIT) {
                    let to = lanes[u * K::UNIT + c].as_mut_ptr().add(e * ROWS);
                    vst1q_f32(to, columns[c][0]);
                    vst1q_f32(to.add(4), columns[c][1]);
                }
            }
        }
        to.store(&lanes);
        N
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

/// [`times_factors`] of the sums of both halves of a group.
#[inline(always)]
fn all_times_factors<const R: usize, const U: usize>(
    eight: &Eight<R>,
    first: [[float32x4_t; R]; U],
    second: [[float32x4_t; R]; U],
) -> [[float32x4_t; R]; U] {
    let mut sums = second;
    for u in 0..U {
        for i in 0..R {
            let factors = [eight.factors[0][i], eight.factors[1][i]];
            sums[u][i] = times_factors([first[u][i], second[u][i]], factors);
        }
    }
    sums
}
