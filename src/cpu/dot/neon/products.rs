//! How an instruction set multiplies groups of a row of weights and of one of activations.

use std::arch::aarch64::*;

use super::asm::sdot;
use super::{Group, Unpack};

/// An instruction set's products. What a part is (32 or 16 bits, how many lanes a row) is known
/// here only; `start` is what comes on top of each sum.
///
/// All functions are unsafe for one reason: the processor must have the instruction set.
pub(in crate::cpu) trait Products {
    /// `value`, to be added to every sum.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn start(value: i32) -> int32x4_t;

    /// The part that a group of one row makes.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn group<B: Unpack>(start: int32x4_t, w: Group, x: Group) -> int32x4_t;

    /// Sums four rows' parts, to a lane a row.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn reduce<B: Unpack>(start: int32x4_t, rows: [int32x4_t; 4]) -> int32x4_t;

    /// As [`Products::group`], the two halves apart.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn halves<B: Unpack>(start: [int32x4_t; 2], w: Group, x: Group) -> int32x4_t;

    /// Sums two rows' parts whose halves are apart, to `[first, second, first, second]`.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn reduce_halves(start: [int32x4_t; 2], a: int32x4_t, b: int32x4_t) -> int32x4_t;
}

/// What every 64-bit ARM has: sums of 16 bits as long as they hold, then of 32.
pub(in crate::cpu) struct Baseline;

impl Products for Baseline {
    #[inline(always)]
    unsafe fn start(value: i32) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    unsafe fn group<B: Unpack>(_start: int32x4_t, w: Group, x: Group) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            if B::BITS == 8 {
                // Two products are at most 2 * 128 * 127.
                vpadalq_s16(vpaddlq_s16(two(w[0], x[0])), two(w[1], x[1]))
            } else {
                let low = vmlal_s8(two(w[0], x[0]), vget_low_s8(w[1]), vget_low_s8(x[1]));
                vreinterpretq_s32_s16(vmlal_high_s8(low, w[1], x[1]))
            }
        }
    }

    #[inline(always)]
    unsafe fn reduce<B: Unpack>(start: int32x4_t, rows: [int32x4_t; 4]) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let sum = if B::BITS == 8 {
                sum_rows(rows)
            } else {
                // In the end 16 products of 127 and, unsigned, 15 or, signed, -16 in 16 bits.
                let (ab, cd) = (short_sums(rows[0], rows[1]), short_sums(rows[2], rows[3]));
                vpaddlq_s16(vpaddq_s16(ab, cd))
            };
            vaddq_s32(sum, start)
        }
    }

    #[inline(always)]
    unsafe fn halves<B: Unpack>(_start: [int32x4_t; 2], w: Group, x: Group) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON. Four products of 63 and 127 are below 2^15.
        unsafe { vpaddlq_s16(vpaddq_s16(two(w[0], x[0]), two(w[1], x[1]))) }
    }

    #[inline(always)]
    unsafe fn reduce_halves(start: [int32x4_t; 2], a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { vaddq_s32(vpaddq_s32(a, b), vzip1q_s32(start[0], start[1])) }
    }
}

/// Sums of neighbours of two parts of 16 bits.
#[inline(always)]
fn short_sums(a: int32x4_t, b: int32x4_t) -> int16x8_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vpaddq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)) }
}

/// Sums of two products.
#[inline(always)]
fn two(w: int8x16_t, x: int8x16_t) -> int16x8_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x) }
}

/// Dot products: a part is four sums of eight products, or twice two sums of eight.
pub(in crate::cpu) struct Dotprod;

impl Products for Dotprod {
    #[inline(always)]
    unsafe fn start(value: i32) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { vsetq_lane_s32::<0>(value, vdupq_n_s32(0)) }
    }

    #[inline(always)]
    unsafe fn group<B: Unpack>(start: int32x4_t, w: Group, x: Group) -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { sdot(sdot(start, w[0], x[0]), w[1], x[1]) }
    }

    #[inline(always)]
    unsafe fn reduce<B: Unpack>(_start: int32x4_t, rows: [int32x4_t; 4]) -> int32x4_t {
        sum_rows(rows)
    }

    #[inline(always)]
    unsafe fn halves<B: Unpack>(start: [int32x4_t; 2], w: Group, x: Group) -> int32x4_t {
        // SAFETY: by the trait's contract.
        unsafe { vpaddq_s32(sdot(start[0], w[0], x[0]), sdot(start[1], w[1], x[1])) }
    }

    #[inline(always)]
    unsafe fn reduce_halves(_start: [int32x4_t; 2], a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { vpaddq_s32(a, b) }
    }
}

/// The sums of each row's four.
#[inline(always)]
fn sum_rows(rows: [int32x4_t; 4]) -> int32x4_t {
    let [a, b, c, d] = rows;
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)) }
}
