//! The microkernel for products of matrices: an instruction multiplies two rows of weights with
//! two of activations, eight values of each.

use std::arch::aarch64::*;

use super::{Group, Micro};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::dot::neon::{self as dot, Lanes, MAGIC, ROWS, Unpack, from_magic, smmla};

/// Four rows of weights are the `R` registers: `[row 2 i of the first activations, of the second,
/// row 2 i + 1 of the first, of the second]`.
pub(super) struct Matrices;

/// A group of two rows of activations.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Pair {
    /// Eight values of the first row and the same of the second.
    q: [int8x16_t; 4],
    /// Of the first and the second, twice.
    scale: float32x4_t,
    scaled_sum: float32x4_t,
}

impl Micro<4> for Matrices {
    const UNIT: usize = 2;
    type Packed = Pair;
    type Unit = *const Pair;

    /// `[eight values][pair of rows]`.
    #[inline(always)]
    fn arrange(rows: &[dot::Group; ROWS]) -> [int8x16_t; 16] {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            std::array::from_fn(|i| {
                let (eight, row) = (i / 4, i % 4 * 2);
                halves(rows[row][eight / 2], rows[row + 1][eight / 2])[eight % 2]
            })
        }
    }

    #[inline(always)]
    fn numbers(rows: Lanes) -> [float32x4_t; 4] {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let [a, b] = rows;
            [
                vzip1q_f32(a, a),
                vzip2q_f32(a, a),
                vzip1q_f32(b, b),
                vzip2q_f32(b, b),
            ]
        }
    }

    #[inline(always)]
    unsafe fn unit(
        x: &Rows<'_>,
        rows: [usize; 2],
        first: usize,
        depth: usize,
        room: *mut Pair,
    ) -> *const Pair {
        let at = rows.map(|row| row * x.groups + first);
        for g in 0..depth {
            let [a, b] = at.map(|at| at + g);
            // SAFETY: by the trait's contract.
            unsafe {
                let [q, r] = [a, b].map(|at| x.q.as_ptr().add(at * GROUP));
                let [p0, p1] = halves(vld1q_s8(q), vld1q_s8(r));
                let [p2, p3] = halves(vld1q_s8(q.add(16)), vld1q_s8(r.add(16)));
                let two = |of: &[f32]| {
                    let pair = vdup_n_f32(*of.get_unchecked(a));
                    let pair = vset_lane_f32::<1>(*of.get_unchecked(b), pair);
                    vcombine_f32(pair, pair)
                };
                room.add(g).write(Pair {
                    q: [p0, p1, p2, p3],
                    scale: two(x.scale),
                    scaled_sum: two(x.scaled_sum),
                });
            }
        }
        room
    }

    #[inline(always)]
    unsafe fn scales(unit: *const Pair, g: usize) -> [float32x4_t; 2] {
        // SAFETY: by the trait's contract.
        unsafe { [(*unit.add(g)).scale, (*unit.add(g)).scaled_sum] }
    }

    #[inline(always)]
    unsafe fn sums<B: Unpack, const U: usize>(
        group: &Group<4>,
        units: &[*const Pair; U],
        g: usize,
    ) -> [[float32x4_t; 4]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            if B::FACTORS {
                let first = products(group, units, g, 0, 2);
                let second = products(group, units, g, 2, 4);
                std::array::from_fn(|u| {
                    std::array::from_fn(|i| {
                        let second = vmulq_f32(second[u][i], group.factors[1][i]);
                        vfmaq_f32(second, first[u][i], group.factors[0][i])
                    })
                })
            } else {
                products(group, units, g, 0, 4)
            }
        }
    }

    #[inline(always)]
    fn columns(acc: [float32x4_t; 4]) -> [Lanes; 2] {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let [a, b, c, d] = acc;
            [
                [vuzp1q_f32(a, b), vuzp1q_f32(c, d)],
                [vuzp2q_f32(a, b), vuzp2q_f32(c, d)],
            ]
        }
    }

    #[inline(always)]
    fn accumulators(columns: [Lanes; 2]) -> [float32x4_t; 4] {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let [[a, c], [b, d]] = columns;
            [
                vzip1q_f32(a, b),
                vzip2q_f32(a, b),
                vzip1q_f32(c, d),
                vzip2q_f32(c, d),
            ]
        }
    }
}

/// The sums of the products of values `8 from..8 to`.
///
/// # Safety
/// The processor has i8mm; `g` is one of the units' groups.
#[inline(always)]
unsafe fn products<const U: usize>(
    group: &Group<4>,
    units: &[*const Pair; U],
    g: usize,
    from: usize,
    to: usize,
) -> [[float32x4_t; 4]; U] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut sums = [[vdupq_n_s32(MAGIC); 4]; U];
        for eight in from..to {
            for u in 0..U {
                let x = (*units[u].add(g)).q[eight];
                for i in 0..4 {
                    sums[u][i] = smmla(sums[u][i], group.q[4 * eight + i], x);
                }
            }
        }
        sums.map(|sums| sums.map(from_magic))
    }
}

/// The low halves of both, and the high ones.
#[inline(always)]
fn halves(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
        [vzip1q_s64(a, b), vzip2q_s64(a, b)].map(|v| vreinterpretq_s8_s64(v))
    }
}
