//! The microkernel without products of matrices: a register holds four values of each of four
//! rows, and a lane of the sums is a row, so that nothing is summed across lanes.

use std::arch::aarch64::*;
use std::marker::PhantomData;

use super::{Group, Micro, all_from_magic, times_factors};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::dot::neon::{
    self as dot, Baseline, Dotprod, Lanes, MAGIC, ROWS, Unpack, sdot_lane, transpose,
};

/// Four rows are one of the `R` registers.
pub(super) struct Quads<P>(PhantomData<P>);

/// A row of activations from the panel's first group on.
#[derive(Clone, Copy)]
pub(super) struct Column {
    q: *const i8,
    scale: *const f32,
    scaled_sum: *const f32,
}

/// The products of a group's values `16 h..16 h + 16` for h in `from..to`.
pub(super) trait QuadProducts {
    /// The sums of these products, for four rows and each column.
    ///
    /// # Safety
    /// The processor has the instruction set; `g` is one of the columns' groups.
    unsafe fn products<B: Unpack, const U: usize>(
        group: &Group<2>,
        columns: &[Column; U],
        g: usize,
        halves: [usize; 2],
    ) -> [[float32x4_t; 2]; U];
}

impl<P: QuadProducts> Micro<2> for Quads<P> {
    const UNIT: usize = 1;
    type Packed = ();
    type Unit = Column;

    /// `[four values][four rows]`.
    #[inline(always)]
    fn arrange(rows: &[dot::Group; ROWS]) -> [int8x16_t; 16] {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let mut q = [vdupq_n_s8(0); 16];
            for half in 0..2 {
                for i in 0..2 {
                    let four = transpose([
                        vreinterpretq_u8_s8(rows[4 * i][half]),
                        vreinterpretq_u8_s8(rows[4 * i + 1][half]),
                        vreinterpretq_u8_s8(rows[4 * i + 2][half]),
                        vreinterpretq_u8_s8(rows[4 * i + 3][half]),
                    ]);
                    for (t, &four) in four.iter().enumerate() {
                        q[8 * half + 2 * t + i] = vreinterpretq_s8_u32(four);
                    }
                }
            }
            q
        }
    }

    #[inline(always)]
    fn numbers(rows: Lanes) -> [float32x4_t; 2] {
        rows
    }

    #[inline(always)]
    unsafe fn unit(
        x: &Rows<'_>,
        rows: [usize; 2],
        first: usize,
        _depth: usize,
        _room: *mut (),
    ) -> Column {
        let at = rows[0] * x.groups + first;
        // SAFETY: by the trait's contract.
        unsafe {
            Column {
                q: x.q.as_ptr().add(at * GROUP),
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
        group: &Group<2>,
        units: &[Column; U],
        g: usize,
    ) -> [[float32x4_t; 2]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            if B::FACTORS {
                let first = P::products::<B, U>(group, units, g, [0, 1]);
                times_factors(group, first, P::products::<B, U>(group, units, g, [1, 2]))
            } else {
                P::products::<B, U>(group, units, g, [0, 2])
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

impl QuadProducts for Dotprod {
    #[inline(always)]
    unsafe fn products<B: Unpack, const U: usize>(
        group: &Group<2>,
        columns: &[Column; U],
        g: usize,
        [from, to]: [usize; 2],
    ) -> [[float32x4_t; 2]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            let mut sums = [[vdupq_n_s32(MAGIC); 2]; U];
            for half in from..to {
                let q = &group.q[8 * half..8 * half + 8];
                let mut x = [vdupq_n_s8(0); U];
                for u in 0..U {
                    x[u] = vld1q_s8(columns[u].q.add(g * GROUP + 16 * half));
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
unsafe fn add_lane<const LANE: usize, const U: usize>(
    sums: &mut [[int32x4_t; 2]; U],
    q: &[int8x16_t],
    x: &[int8x16_t; U],
) {
    for u in 0..U {
        for i in 0..2 {
            // SAFETY: by this function's contract.
            sums[u][i] = unsafe { sdot_lane::<LANE>(sums[u][i], q[2 * LANE + i], x[u]) };
        }
    }
}

impl QuadProducts for Baseline {
    #[inline(always)]
    unsafe fn products<B: Unpack, const U: usize>(
        group: &Group<2>,
        columns: &[Column; U],
        g: usize,
        [from, to]: [usize; 2],
    ) -> [[float32x4_t; 2]; U] {
        // SAFETY: by the trait's contract; four i8 are one i32.
        unsafe {
            // Of two rows each; in 16 bits as long as they hold.
            let mut long = [[[vdupq_n_s32(0); 2]; 2]; U];
            let chain = if B::BITS == 8 { 2 } else { 4 * (to - from) };
            for start in (4 * from..4 * to).step_by(chain) {
                let mut short = [[[vdupq_n_s16(0); 2]; 2]; U];
                for t in start..start + chain {
                    for u in 0..U {
                        let four = columns[u].q.add(g * GROUP + 4 * t).cast::<i32>();
                        let x = vreinterpretq_s8_s32(vdupq_n_s32(four.read_unaligned()));
                        for i in 0..2 {
                            let (w, short) = (group.q[2 * t + i], &mut short[u][i]);
                            short[0] = vmlal_s8(short[0], vget_low_s8(w), vget_low_s8(x));
                            short[1] = vmlal_high_s8(short[1], w, x);
                        }
                    }
                }
                for u in 0..U {
                    for i in 0..2 {
                        for row in 0..2 {
                            long[u][i][row] = vpadalq_s16(long[u][i][row], short[u][i][row]);
                        }
                    }
                }
            }
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
