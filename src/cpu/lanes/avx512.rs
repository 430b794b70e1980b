//! AVX-512 F, BW, DQ and VL: one register.

use std::arch::x86_64::*;
use std::ptr::addr_of;

use katari_gguf::block::{BlockQ4_0, BlockQ8_0};

use super::Lanes;
use super::avx2::{Avx2, sums_of_i8, trees_of_8};

/// All 16.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx512(__m512);

impl Lanes for Avx512 {
    /// On Zen 4 a line of 32 f16, weighed in a loop of nothing else, takes 2.8 cycles so, and 4.2 in
    /// registers of 512 bits.
    type Halfs = Avx2;
    const MANY: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Avx512(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Avx512(_mm512_loadu_ps(at)) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_q8_0(block: *const BlockQ8_0) -> [Self; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let d = splat_f16(addr_of!((*block).d).cast());
            let q = addr_of!((*block).qs).cast::<__m128i>();
            let low = _mm512_cvtepi8_epi32(_mm_loadu_si128(q));
            let high = _mm512_cvtepi8_epi32(_mm_loadu_si128(q.add(1)));
            [
                Avx512(_mm512_mul_ps(_mm512_cvtepi32_ps(low), d)),
                Avx512(_mm512_mul_ps(_mm512_cvtepi32_ps(high), d)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_q4_0(block: *const BlockQ4_0) -> [Self; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            // All 16 values there are, looked up by the low four bits of each lane.
            let d = splat_f16(addr_of!((*block).d).cast());
            let n = _mm512_setr_ps(
                -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0,
                7.0,
            );
            let values = _mm512_mul_ps(n, d);
            let bytes = _mm_loadu_si128(addr_of!((*block).qs).cast());
            let low = _mm512_cvtepu8_epi32(bytes);
            let high = _mm512_srli_epi32::<4>(low);
            [
                Avx512(_mm512_permutexvar_ps(low, values)),
                Avx512(_mm512_permutexvar_ps(high, values)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { _mm512_storeu_ps(at, self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    unsafe fn trees(lanes: [Self; 4]) -> [f32; 4] {
        // SAFETY: by the trait's contract.
        unsafe {
            let [a, b, c, d] = lanes;
            trees_of_8([halves(a), halves(b), halves(c), halves(d)])
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        // SAFETY: by the trait's contract.
        unsafe {
            // Every NaN becomes the quiet one without payload, its sign kept.
            let bits = _mm512_castps_si512(self.0);
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let sign = _mm512_and_si512(bits, _mm512_set1_epi32(i32::MIN));
            let quiet = _mm512_or_si512(sign, _mm512_set1_epi32(0x7fc0_0000));
            let x = _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, is_nan, quiet));
            let halfs = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
            _mm256_storeu_si256(at.cast(), halfs);
        }
    }

    #[inline(always)]
    unsafe fn largest(self, other: Self) -> f32 {
        // SAFETY: by the trait's contract.
        unsafe {
            // As integers, magnitudes order like the floats, and a NaN comes out on top.
            let bits = _mm512_set1_epi32(i32::MAX);
            let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), bits);
            let largest = _mm512_max_epu32(magnitude(self.0), magnitude(other.0));
            f32::from_bits(_mm512_reduce_max_epu32(largest))
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, divisor: f32, at: *mut i8) -> [i16; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let x = _mm512_div_ps(self.0, _mm512_set1_ps(divisor));
            let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
            let q = _mm512_cvtsepi32_epi8(_mm512_maskz_cvtps_epi32(is_number, x));
            _mm_storeu_si128(at.cast(), q);
            sums_of_i8(q)
        }
    }
}

/// The f16 at `at` in every lane.
///
/// # Safety
/// AVX-512 F, BW and VL, and F16C; two bytes are readable.
#[inline(always)]
unsafe fn splat_f16(at: *const i16) -> __m512 {
    // SAFETY: by this function's contract.
    unsafe {
        let half = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(at.read_unaligned())));
        _mm512_broadcastss_ps(half)
    }
}

/// The first level of [`tree`](super::tree).
///
/// # Safety
/// AVX-512 F and DQ.
#[inline(always)]
unsafe fn halves(lanes: Avx512) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let low = _mm512_castps512_ps256(lanes.0);
        _mm256_add_ps(low, _mm512_extractf32x8_ps::<1>(lanes.0))
    }
}
