//! What is NEON's alone: instructions, a quick way from integers to floats, and float formats.

mod asm;
pub(in crate::cpu) mod float;

use std::arch::aarch64::*;

pub(in crate::cpu) use asm::{
    add_products, insert_below, narrow_to_halfs, products, sdot_lane, settle, smmla, test_bits,
    widen_halfs, widen_high_halfs,
};

/// The bits of 1.5 * 2^23 as f32. An integer below 2^22 added to them gives the bits of
/// 1.5 * 2^23 plus that integer, and a subtraction makes an f32 of it: sooner than a conversion,
/// which most cores do in one of their pipes only. They are where the integer sums start, which
/// costs nothing.
pub(in crate::cpu) const MAGIC: i32 = 0x4b40_0000;

/// What was added to [`MAGIC`].
#[inline(always)]
pub(in crate::cpu) fn from_magic(sum: int32x4_t) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        vsubq_f32(
            vreinterpretq_f32_s32(sum),
            vdupq_n_f32(f32::from_bits(MAGIC as u32)),
        )
    }
}

/// Bytes 0 and 1 of each i32, signed, or where `last` bytes 2 and 3: all first ones, all second
/// ones.
#[inline(always)]
pub(in crate::cpu) fn factors(word: uint8x16_t, last: bool) -> [float32x4_t; 2] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        // To the tops of the i32s and from there down with their signs.
        let four = vreinterpretq_s32_u8(word);
        let [first, second] = if last {
            [vshlq_n_s32::<8>(four), four]
        } else {
            [vshlq_n_s32::<24>(four), vshlq_n_s32::<16>(four)]
        };
        [
            vcvtq_f32_s32(vshrq_n_s32::<24>(first)),
            vcvtq_f32_s32(vshrq_n_s32::<24>(second)),
        ]
    }
}

/// The sums of both halves of a group times their factors, added. All of it is exact: a half's
/// sum is below 2^16 and a factor below 2^8.
#[inline(always)]
pub(in crate::cpu) fn times_factors(
    sums: [float32x4_t; 2],
    factors: [float32x4_t; 2],
) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let second = vmulq_f32(sums[1], factors[1]);
        vfmaq_f32(second, sums[0], factors[0])
    }
}

/// Lane `LANE` of `x`, its values `4 LANE..4 LANE + 4`, in every lane.
#[inline(always)]
pub(in crate::cpu) fn splat<const LANE: i32>(x: int8x16_t) -> int8x16_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(x))) }
}
