//! The microkernel for products of matrices: an instruction multiplies two rows of weights with
//! two of activations, eight values of each.

use std::arch::aarch64::*;

use super::{Eight, Kernel, Lanes, all_from_magic, all_times_factors};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::neon::{MAGIC, smmla};
use crate::cpu::dot::unpack::{STEPS, Unpack};
use crate::cpu::gemm::panel::{Tile, Words};

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

impl Kernel<4> for Matrices {
    const UNIT: usize = 2;
    const TALL: usize = 4;
    type Unit = *const Pair;

    /// `[eight values][pair of rows]`.
    #[inline(always)]
    fn arrange(words: &[[int8x16_t; STEPS]; 2]) -> [int8x16_t; 16] {
        let mut q = [words[0][0]; 16];
        for eight in 0..4 {
            for i in 0..2 {
                // SAFETY: every 64-bit ARM has NEON.
                unsafe {
                    let first = vreinterpretq_s32_s8(words[i][2 * eight]);
                    let second = vreinterpretq_s32_s8(words[i][2 * eight + 1]);
                    let at = 4 * eight + 2 * i;
                    q[at] = vreinterpretq_s8_s32(vzip1q_s32(first, second));
                    q[at + 1] = vreinterpretq_s8_s32(vzip2q_s32(first, second));
                }
            }
        }
        q
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

    /// Packed in pairs of rows, the last one twice where it has no other: `[pair][group]`.
    #[inline(always)]
    unsafe fn activations(x: &Rows<'_>, first: usize, depth: usize, room: &mut Buffer) -> Words {
        let words = const { size_of::<Pair>() / 4 };
        room.reserve(x.n.div_ceil(2) * depth * words);
        // Aligned to cache lines, as buffers are.
        let pairs = room.of_mut::<i32>().as_mut_ptr().cast::<Pair>();
        for n in (0..x.n).step_by(2) {
            for g in 0..depth {
                // SAFETY: by the trait's contract; there is room for all pairs.
                unsafe {
                    let a = n * x.groups + first + g;
                    let b = (n + 1).min(x.n - 1) * x.groups + first + g;
                    let (q, r) = (x.q.as_ptr().add(a * GROUP), x.q.as_ptr().add(b * GROUP));
                    let [p0, p1] = halves(vld1q_s8(q), vld1q_s8(r));
                    let [p2, p3] = halves(vld1q_s8(q.add(16)), vld1q_s8(r.add(16)));
                    pairs.add(n / 2 * depth + g).write(Pair {
                        q: [p0, p1, p2, p3],
                        scale: two(*x.scale.get_unchecked(a), *x.scale.get_unchecked(b)),
                        scaled_sum: two(
                            *x.scaled_sum.get_unchecked(a),
                            *x.scaled_sum.get_unchecked(b),
                        ),
                    });
                }
            }
        }
        Words {
            q: pairs.cast(),
            q_stride: depth * words / 2,
            ..Words::of(x, first)
        }
    }

    #[inline(always)]
    unsafe fn unit(_x: &Rows<'_>, to: &Tile<'_>, c: usize) -> *const Pair {
        // SAFETY: by the trait's contract; tiles and units begin with the first row of a pair.
        unsafe { to.words.q.add(c * to.words.q_stride).cast() }
    }

    #[inline(always)]
    unsafe fn scales(unit: *const Pair, g: usize) -> [float32x4_t; 2] {
        // SAFETY: by the trait's contract.
        unsafe { [(*unit.add(g)).scale, (*unit.add(g)).scaled_sum] }
    }

    #[inline(always)]
    unsafe fn sums<B: Unpack, const U: usize>(
        eight: &Eight<4>,
        units: &[*const Pair; U],
        g: usize,
    ) -> [[float32x4_t; 4]; U] {
        // SAFETY: by the trait's contract.
        unsafe {
            if B::FACTORS {
                let first = products(eight, units, g, 0, 2);
                all_times_factors(eight, first, products(eight, units, g, 2, 4))
            } else {
                products(eight, units, g, 0, 4)
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
    eight: &Eight<4>,
    units: &[*const Pair; U],
    g: usize,
    from: usize,
    to: usize,
) -> [[float32x4_t; 4]; U] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut sums = [[vdupq_n_s32(MAGIC); 4]; U];
        for k in from..to {
            for u in 0..U {
                let x = (*units[u].add(g)).q[k];
                for i in 0..4 {
                    sums[u][i] = smmla(sums[u][i], eight.q[4 * k + i], x);
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
