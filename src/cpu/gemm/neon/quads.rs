//! The microkernel without products of matrices: a register holds four values of each of four
//! rows, and a lane of the sums is a row, so that nothing is summed across lanes.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::{Eight, Kernel, Lanes, all_from_magic, all_times_factors};
use crate::cpu::activation::Rows;
use crate::cpu::dot::neon::{MAGIC, add_products, products, sdot_lane, splat};
use crate::cpu::dot::unpack::{STEPS, Unpack, unroll};
use crate::cpu::gemm::panel::Tile;

/// Four rows are one of the `R` registers.
pub(super) struct Quads<P>(PhantomData<P>);

/// A row of activations from the panel's first group on.
#[derive(Clone, Copy)]
pub(super) struct Column {
    q: *const i32,
    scale: *const f32,
    scaled_sum: *const f32,
}

/// An instruction set's products.
pub(super) trait Products {
    /// Rows of activations in a tile.
    const TALL: usize;

    /// The sums of the products of a group's steps `from..to`, for four rows and each column.
    ///
    /// # Safety
    /// The processor has the instruction set; `g` is one of the columns' groups.
    unsafe fn products<B: Unpack, const U: usize>(
        eight: &Eight<2>,
        columns: &[Column; U],
        g: usize,
        steps: [usize; 2],
    ) -> [[float32x4_t; 2]; U];
}

impl<P: Products> Kernel<2> for Quads<P> {
    const UNIT: usize = 1;
    const TALL: usize = P::TALL;
    type Unit = Column;

    /// `[four values][four rows]`.
    #[inline(always)]
    fn arrange(words: &[[int8x16_t; STEPS]; 2]) -> [int8x16_t; 16] {
        let mut q = [words[0][0]; 16];
        for t in 0..STEPS {
            for i in 0..2 {
                q[2 * t + i] = words[i][t];
            }
        }
        q
    }

    #[inline(always)]
    fn numbers(rows: Lanes) -> [float32x4_t; 2] {
        rows
    }

    #[inline(always)]
    unsafe fn unit(x: &Rows<'_>, to: &Tile<'_>, c: usize) -> Column {
        let at = (to.n + c) * x.groups + to.first;
        // SAFETY: by the trait's contract.
        unsafe {
            Column {
                q: to.words.q.add(c * to.words.q_stride),
                scale: x.scale.as_ptr().add(at),
                scaled_sum: x.scaled_sum.as_ptr().add(at),
            }
        }
    }

    #[inline(always)]
    unsafe fn scales(unit: Column, g: usize) -> [float32x4_t; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            [
                vdupq_n_f32(*unit.scale.add(g)),
                vdupq_n_f32(*unit.scaled_sum.add(g)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn sums<B: Unpack, const U: usize>(
        eight: &Eight<2>,
        units: &[Column; U],
        g: usize,
    ) -> [[float32x4_t; 2]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            if B::FACTORS {
                let first = P::products::<B, U>(eight, units, g, [0, 4]);
                all_times_factors(eight, first, P::products::<B, U>(eight, units, g, [4, 8]))
            } else {
                P::products::<B, U>(eight, units, g, [0, 8])
            }
        }
    }

    #[inline(always)]
    fn columns(acc: [float32x4_t; 2]) -> [Lanes; 2] {
        [acc, acc]
    }

    #[inline(always)]
    fn accumulators(columns: [Lanes; 2]) -> [float32x4_t; 2] {
        columns[0]
    }
}

/// Dot products by element.
pub(super) enum Dotprod {}

impl Products for Dotprod {
    const TALL: usize = 4;

    #[inline(always)]
    unsafe fn products<B: Unpack, const U: usize>(
        eight: &Eight<2>,
        columns: &[Column; U],
        g: usize,
        [from, to]: [usize; 2],
    ) -> [[float32x4_t; 2]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            let mut sums = [[vdupq_n_s32(MAGIC); 2]; U];
            for four in (from..to).step_by(4) {
                let q = &eight.q[2 * four..2 * four + 8];
                let mut x = [vdupq_n_s8(0); U];
                for u in 0..U {
                    x[u] = vld1q_s8(columns[u].q.add(g * STEPS + four).cast());
                }
                add_lane::<0, U>(&mut sums, q, &x);
                add_lane::<1, U>(&mut sums, q, &x);
                add_lane::<2, U>(&mut sums, q, &x);
                add_lane::<3, U>(&mut sums, q, &x);
            }
            all_from_magic(sums)
        }
    }
}

/// Adds the products of four values, those of lane `LANE` of `x`.
///
/// # Safety
/// The processor has dotprod.
#[inline(always)]
unsafe fn add_lane<const LANE: i32, const U: usize>(
    sums: &mut [[int32x4_t; 2]; U],
    q: &[int8x16_t],
    x: &[int8x16_t; U],
) {
    for u in 0..U {
        for i in 0..2 {
            // SAFETY: by this function's contract.
            sums[u][i] = unsafe { sdot_lane::<LANE>(sums[u][i], q[2 * LANE as usize + i], x[u]) };
        }
    }
}

/// What every 64-bit ARM has.
pub(super) enum Baseline {}

impl Products for Baseline {
    // A product's sums take twice the registers.
    const TALL: usize = 2;

    #[inline(always)]
    unsafe fn products<B: Unpack, const U: usize>(
        eight: &Eight<2>,
        columns: &[Column; U],
        g: usize,
        [from, to]: [usize; 2],
    ) -> [[float32x4_t; 2]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            // Of two rows each; in 16 bits as long as they hold: where sums of two products of an
            // integer that is not offset do, so do twice as many of one.
            let mut long = [[[vdupq_n_s32(0); 2]; 2]; U];
            let mut short = [[[vdupq_n_s16(0); 2]; 2]; U];
            let chain = (2 * B::CHAIN).min(to - from);
            unroll!(STEPS, T => {
                if from <= T && T < to {
                    for u in 0..U {
                        let four = columns[u].q.add(g * STEPS + T / 4 * 4);
                        let x = splat::<{ T as i32 % 4 }>(vld1q_s8(four.cast()));
                        for i in 0..2 {
                            let (w, short) = (eight.q[2 * T + i], &mut short[u][i]);
                            if T % chain == 0 {
                                *short = products(w, x);
                            } else {
                                add_products(short, w, x);
                            }
                            if T % chain == chain - 1 {
                                let long = &mut long[u][i];
                                long[0] = vpadalq_s16(long[0], short[0]);
                                long[1] = vpadalq_s16(long[1], short[1]);
                            }
                        }
                    }
                }
            });
            let mut sums = [[vdupq_n_f32(0.0); 2]; U];
            for u in 0..U {
                for i in 0..2 {
                    sums[u][i] = vcvtq_f32_s32(vpaddq_s32(long[u][i][0], long[u][i][1]));
                }
            }
            sums
        }
    }
}
