//! The register of NEON, which every 64-bit ARM has.

use std::arch::aarch64::*;

use super::{Wide, fifth_bits, intrinsics};
use crate::cpu::dot::neon::{insert_below, test_bits, widen_halfs};

impl Wide for uint8x16_t {
    type Floats = float32x4_t;

    intrinsics! {
        load(at: *const u8) -> Self = vld1q_u8(at);
        splat8(x: i8) -> Self = vreinterpretq_u8_s8(vdupq_n_s8(x));
        and(self: Self, other: Self) -> Self = vandq_u8(self, other);
        nibbles(self: Self, high: bool) -> Self = if high {
            vshrq_n_u8::<4>(self)
        } else {
            vandq_u8(self, vdupq_n_u8(15))
        };
        nibbles_below(self: Self, high: bool, bits: Self, at: usize, n: usize) -> Self = {
            // The wanted bits go to where the inserted nibble does not, and what else comes with
            // them is masked.
            let to = if high { 4 } else { 0 };
            let bits = vshlq_u8(bits, vdupq_n_s8(to - at as i8));
            vandq_u8(insert(bits, self, high), vdupq_n_u8((16 << n) - 1))
        };
        nibbles_below_fifth(self: Self, high: bool, bits: Self, t: usize) -> Self = {
            let (bytes, which) = fifth_bits(t);
            let spread = vqtbl1q_u8(bits, vreinterpretq_u8_s32(vld1q_s32(bytes.as_ptr())));
            let is_set = test_bits(spread, vreinterpretq_u8_s32(vdupq_n_s32(which)));
            vandq_u8(insert(is_set, self, high), vdupq_n_u8(31))
        };
        tops(low: Self, mid: Self, high: Self) -> Self =
            vshrq_n_u8::<2>(insert_below::<4>(insert_below::<2>(high, mid), low));
        byte(self: Self, i: usize) -> float32x4_t = {
            // The byte to the i32's lowest; 255 and above stand for no byte.
            let from = vdupq_n_u32(0xffff_ff00 + i as u32);
            let first = vcombine_u32(vcreate_u32(4 << 32), vcreate_u32(12 << 32 | 8));
            let low = vqtbl1q_u8(self, vreinterpretq_u8_u32(vaddq_u32(from, first)));
            vcvtq_f32_u32(vreinterpretq_u32_u8(low))
        };
        zeros() -> float32x4_t = vdupq_n_f32(0.0);
        splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        load_halfs(at: *const u8) -> float32x4_t = widen_halfs(vreinterpret_u16_u8(vld1_u8(at)));
        half_pairs(self: Self) -> [float32x4_t; 2] = {
            let pairs = vreinterpretq_u32_u8(self);
            [widen_halfs(vmovn_u32(pairs)), widen_halfs(vshrn_n_u32::<16>(pairs))]
        };
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        neg(a: float32x4_t) -> float32x4_t = vnegq_f32(a);
        fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        // The second is often one number, and so is the negated one.
        fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmsq_f32(c, b, a);
        store(x: float32x4_t, at: *mut f32) -> () = vst1q_f32(at, x);
    }
}

/// The low nibbles of `nibbles` in place, below the low ones of `bits` moved up; or its high
/// nibbles moved down, below the high ones of `bits` in place.
#[inline(always)]
fn insert(bits: uint8x16_t, nibbles: uint8x16_t, high: bool) -> uint8x16_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        if high {
            vsriq_n_u8::<4>(bits, nibbles)
        } else {
            vsliq_n_u8::<4>(nibbles, bits)
        }
    }
}
