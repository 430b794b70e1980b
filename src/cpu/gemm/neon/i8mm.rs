//! The microkernel for products of matrices: an instruction multiplies two rows of weights with
//! two of activations, eight values of each.

use std::arch::aarch64::*;

use super::{Group, Micro, all_from_magic, times_factors};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::dot::neon::{self as dot, Lanes, MAGIC, ROWS, Unpack, smmla};

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
            let mut q = [vdupq_n_s8(0); 16];
            for i in 0..4 {
                for half in 0..2 {
                    let [low, high] = halves(rows[2 * i][half], rows[2 * i + 1][half]);
                    q[8 * half + i] = low;
                    q[8 * half + 4 + i] = high;
                }
            }
            q
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
        for g in 0..depth {
            // SAFETY: by the trait's contract.
            unsafe {
                let a = rows[0] * x.groups + first + g;
                let b = rows[1] * x.groups + first + g;
                let (q, r) = (x.q.as_ptr().add(a * GROUP), x.q.as_ptr().add(b * GROUP));
                let [p0, p1] = halves(vld1q_s8(q), vld1q_s8(r));
                let [p2, p3] = halves(vld1q_s8(q.add(16)), vld1q_s8(r.add(16)));
                room.add(g).write(Pair {
                    q: [p0, p1, p2, p3],
                    scale: two(*x.scale.get_unchecked(a), *x.scale.get_unchecked(b)),
                    scaled_sum: two(
                        *x.scaled_sum.get_unchecked(a),
                        *x.scaled_sum.get_unchecked(b),
                    ),
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
                times_factors(group, first, products(group, units, g, 2, 4))
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
        all_from_magic(sums)
    }
}

/// The low halves of both, and the high ones.
#[inline(always)]
fn halves(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
        [
            vreinterpretq_s8_s64(vzip1q_s64(a, b)),
            vreinterpretq_s8_s64(vzip2q_s64(a, b)),
        ]
    }
}

/// `[a, b, a, b]`.
#[inline(always)]
fn two(a: f32, b: f32) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vzip1q_f32(vdupq_n_f32(a), vdupq_n_f32(b)) }
}
