//! NEON, which every 64-bit ARM has: four registers.

use std::arch::aarch64::*;
use std::ptr::addr_of;

use katari_gguf::block::{BlockQ4_0, BlockQ8_0};

use super::Lanes;
use crate::cpu::dot::neon::{narrow_to_halfs, widen_halfs, widen_high_halfs};

/// Lanes 0 to 3 and so on.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Neon([float32x4_t; 4]);

impl Lanes for Neon {
    type Halfs = Self;
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Neon([vdupq_n_f32(x); 4]) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: by the trait's contract. Bytes, since they may lie anywhere.
        unsafe {
            let four = |i: usize| vreinterpretq_f32_u8(vld1q_u8(at.add(4 * i).cast()));
            Neon([four(0), four(1), four(2), four(3)])
        }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        // SAFETY: by the trait's contract.
        unsafe {
            let low = vreinterpretq_u16_u8(vld1q_u8(at));
            let high = vreinterpretq_u16_u8(vld1q_u8(at.add(16)));
            Neon([
                widen_halfs(vget_low_u16(low)),
                widen_high_halfs(low),
                widen_halfs(vget_low_u16(high)),
                widen_high_halfs(high),
            ])
        }
    }

    #[inline(always)]
    unsafe fn load_q8_0(block: *const BlockQ8_0) -> [Self; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let d = splat_f16(addr_of!((*block).d).cast());
            let q = addr_of!((*block).qs).cast::<i8>();
            [scaled(vld1q_s8(q), d), scaled(vld1q_s8(q.add(16)), d)]
        }
    }

    #[inline(always)]
    unsafe fn load_q4_0(block: *const BlockQ4_0) -> [Self; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let d = splat_f16(addr_of!((*block).d).cast());
            let bytes = vld1q_u8(addr_of!((*block).qs).cast());
            let eight = vdupq_n_s8(8);
            let low = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
            let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes));
            [
                scaled(vsubq_s8(low, eight), d),
                scaled(vsubq_s8(high, eight), d),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        for (i, four) in self.0.into_iter().enumerate() {
            // SAFETY: by the trait's contract. Bytes, since they may lie anywhere.
            unsafe { vst1q_u8(at.add(4 * i).cast(), vreinterpretq_u8_f32(four)) };
        }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe {
            Neon([
                vfmaq_f32(self.0[0], a.0[0], b.0[0]),
                vfmaq_f32(self.0[1], a.0[1], b.0[1]),
                vfmaq_f32(self.0[2], a.0[2], b.0[2]),
                vfmaq_f32(self.0[3], a.0[3], b.0[3]),
            ])
        }
    }

    #[inline(always)]
    unsafe fn trees(lanes: [Self; 4]) -> [f32; 4] {
        let [a, b, c, d] = lanes;
        let (ab, cd) = (sums_of_2(four(a), four(b)), sums_of_2(four(c), four(d)));
        let mut out = [0.0; 4];
        // SAFETY: by the trait's contract; the array is four floats.
        unsafe { vst1q_f32(out.as_mut_ptr(), vpaddq_f32(ab, cd)) };
        out
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        for (i, four) in self.0.into_iter().enumerate() {
            // SAFETY: by the trait's contract.
            unsafe {
                // A NaN with all payload bits but the first cleared keeps its sign when it is
                // rounded.
                let is_number = vceqq_f32(four, four);
                let bits = vreinterpretq_u32_f32(four);
                let sign = vandq_u32(bits, vdupq_n_u32(0x8000_0000));
                let quiet = vorrq_u32(sign, vdupq_n_u32(0x7fc0_0000));
                let four = vreinterpretq_f32_u32(vbslq_u32(is_number, bits, quiet));
                vst1_u8(at.add(8 * i), vreinterpret_u8_u16(narrow_to_halfs(four)));
            }
        }
    }

    #[inline(always)]
    unsafe fn largest(self, other: Self) -> f32 {
        // SAFETY: by the trait's contract.
        unsafe {
            // As integers, magnitudes order like the floats, and a NaN comes out on top.
            let magnitude = |x| vreinterpretq_u32_f32(vabsq_f32(x));
            let both = self.0.into_iter().chain(other.0).map(magnitude);
            let largest = both.fold(vdupq_n_u32(0), |a, b| vmaxq_u32(a, b));
            f32::from_bits(vmaxvq_u32(largest))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, divisor: f32, at: *mut i8) -> [i16; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            // A NaN is converted to 0.
            let four = |x| vqmovn_s32(vcvtnq_s32_f32(vdivq_f32(x, vdupq_n_f32(divisor))));
            let [a, b, c, d] = self.0.map(four);
            let low = vqmovn_s16(vcombine_s16(a, b));
            let q = vcombine_s8(low, vqmovn_s16(vcombine_s16(c, d)));
            vst1q_s8(at, q);
            let pairs = vpaddlq_s8(q);
            let pairs = vadd_s16(vget_low_s16(pairs), vget_high_s16(pairs));
            let both = vadd_s16(pairs, vext_s16::<2>(pairs, pairs));
            [vget_lane_s16::<0>(both), vget_lane_s16::<1>(both)]
        }
    }
}

/// The f16 at `at` in every lane.
///
/// # Safety
/// Two bytes are readable.
#[inline(always)]
unsafe fn splat_f16(at: *const u16) -> float32x4_t {
    // SAFETY: by this function's contract.
    unsafe { widen_halfs(vdup_n_u16(at.read_unaligned())) }
}

/// `d q`.
#[inline(always)]
fn scaled(q: int8x16_t, d: float32x4_t) -> Neon {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let (low, high) = (vmovl_s8(vget_low_s8(q)), vmovl_high_s8(q));
        Neon([
            vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), d),
            vmulq_f32(vcvtq_f32_s32(vmovl_high_s16(low)), d),
            vmulq_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), d),
            vmulq_f32(vcvtq_f32_s32(vmovl_high_s16(high)), d),
        ])
    }
}

/// The first two levels of [`tree`](super::tree).
#[inline(always)]
fn four(lanes: Neon) -> float32x4_t {
    let [a, b, c, d] = lanes.0;
    // SAFETY: every 64-bit ARM has NEON.
    unsafe { vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d)) }
}

/// The third level, for two: the two sums of `a` and those of `b`.
#[inline(always)]
fn sums_of_2(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b));
        let low = vreinterpretq_f32_f64(vzip1q_f64(a, b));
        vaddq_f32(low, vreinterpretq_f32_f64(vzip2q_f64(a, b)))
    }
}
