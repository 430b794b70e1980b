//! AVX2 with FMA and F16C: two registers.

use std::arch::x86_64::*;
use std::ptr::addr_of;

use katari_gguf::block::{BlockQ4_0, BlockQ8_0};

use super::Lanes;

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Avx2([__m256; 2]);

impl Lanes for Avx2 {
    type Halfs = Self;
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Avx2([_mm256_set1_ps(x); 2]) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { Avx2([_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))]) }
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        let at = at.cast::<__m128i>();
        // SAFETY: by the trait's contract.
        unsafe {
            let (low, high) = (_mm_loadu_si128(at), _mm_loadu_si128(at.add(1)));
            Avx2([_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)])
        }
    }

    #[inline(always)]
    unsafe fn load_q8_0(block: *const BlockQ8_0) -> [Self; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let d = splat_f16(addr_of!((*block).d).cast());
            let q = addr_of!((*block).qs).cast::<__m128i>();
            let eight = |i: usize| {
                let q = _mm_loadl_epi64(q.cast::<u8>().add(8 * i).cast());
                _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d)
            };
            [Avx2([eight(0), eight(1)]), Avx2([eight(2), eight(3)])]
        }
    }

    #[inline(always)]
    unsafe fn load_q4_0(block: *const BlockQ4_0) -> [Self; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let d = splat_f16(addr_of!((*block).d).cast());
            let bytes = _mm_loadu_si128(addr_of!((*block).qs).cast());
            let (mask, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
            let low = _mm_sub_epi8(_mm_and_si128(bytes, mask), eight);
            let high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16::<4>(bytes), mask), eight);
            let eight = |q: __m128i| _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d);
            [low, high].map(|q| Avx2([eight(q), eight(_mm_unpackhi_epi64(q, q))]))
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe {
            _mm256_storeu_ps(at, self.0[0]);
            _mm256_storeu_ps(at.add(8), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: by the trait's contract.
        unsafe {
            Avx2([
                _mm256_fmadd_ps(a.0[0], b.0[0], self.0[0]),
                _mm256_fmadd_ps(a.0[1], b.0[1], self.0[1]),
            ])
        }
    }

    #[inline(always)]
    unsafe fn trees(lanes: [Self; 4]) -> [f32; 4] {
        // SAFETY: by the trait's contract.
        unsafe {
            let [a, b, c, d] = lanes;
            trees_of_8([
                _mm256_add_ps(a.0[0], a.0[1]),
                _mm256_add_ps(b.0[0], b.0[1]),
                _mm256_add_ps(c.0[0], c.0[1]),
                _mm256_add_ps(d.0[0], d.0[1]),
            ])
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        // SAFETY: by the trait's contract.
        unsafe {
            let at = at.cast::<__m128i>();
            _mm_storeu_si128(at, to_f16(self.0[0]));
            _mm_storeu_si128(at.add(1), to_f16(self.0[1]));
        }
    }

    #[inline(always)]
    unsafe fn largest(self, other: Self) -> f32 {
        // SAFETY: by the trait's contract.
        unsafe {
            // As integers, magnitudes order like the floats, and a NaN comes out on top.
            let bits = _mm256_set1_epi32(i32::MAX);
            let magnitude = |x| _mm256_and_si256(_mm256_castps_si256(x), bits);
            let larger = |a, b| _mm256_max_epu32(magnitude(a), magnitude(b));
            let largest =
                _mm256_max_epu32(larger(self.0[0], self.0[1]), larger(other.0[0], other.0[1]));
            let (low, high) = (
                _mm256_castsi256_si128(largest),
                _mm256_extracti128_si256::<1>(largest),
            );
            let four = _mm_max_epu32(low, high);
            let two = _mm_max_epu32(four, _mm_unpackhi_epi64(four, four));
            let one = _mm_max_epu32(two, _mm_shuffle_epi32::<1>(two));
            f32::from_bits(_mm_cvtsi128_si32(one) as u32)
        }
    }

    #[inline(always)]
    unsafe fn store_i8(self, divisor: f32, at: *mut i8) -> [i16; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let divisor = _mm256_set1_ps(divisor);
            let eight = |x| {
                let x = _mm256_div_ps(x, divisor);
                let is_number = _mm256_cmp_ps::<_CMP_ORD_Q>(x, x);
                _mm256_cvtps_epi32(_mm256_and_ps(x, is_number))
            };
            // The halves of registers are packed apart: 0 to 3, 8 to 11, 4 to 7, 12 to 15.
            let q = _mm256_packs_epi32(eight(self.0[0]), eight(self.0[1]));
            let q = _mm256_permute4x64_epi64::<0b11_01_10_00>(q);
            let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
            let q = _mm_packs_epi16(low, high);
            _mm_storeu_si128(at.cast(), q);
            sums_of_i8(q)
        }
    }
}

/// Of 16 i8 the sum of the first two of each four, and that of the last two.
///
/// # Safety
/// SSSE3.
#[inline(always)]
pub(super) unsafe fn sums_of_i8(q: __m128i) -> [i16; 2] {
    // SAFETY: by this function's contract.
    unsafe {
        let pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), q);
        let pairs = _mm_add_epi16(pairs, _mm_unpackhi_epi64(pairs, pairs));
        let pairs = _mm_add_epi16(pairs, _mm_shuffle_epi32::<1>(pairs));
        let both = _mm_cvtsi128_si32(pairs);
        [both as i16, (both >> 16) as i16]
    }
}

/// The f16 at `at` in every lane.
///
/// # Safety
/// AVX2 and F16C; two bytes are readable.
#[inline(always)]
unsafe fn splat_f16(at: *const i16) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe { _mm256_cvtph_ps(_mm_set1_epi16(at.read_unaligned())) }
}

/// As f16, every NaN the quiet one without payload.
///
/// # Safety
/// AVX2 and F16C.
#[inline(always)]
unsafe fn to_f16(x: __m256) -> __m128i {
    // SAFETY: by this function's contract.
    unsafe {
        // A NaN with all payload bits but the first cleared keeps its sign when it is rounded.
        let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
        let sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0));
        let quiet = _mm256_or_ps(sign, _mm256_set1_ps(f32::from_bits(0x7fc0_0000)));
        let x = _mm256_blendv_ps(x, quiet, is_nan);
        _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
    }
}

/// The last three levels of [`tree`](super::tree), for four sums at once.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn trees_of_8([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    // SAFETY: by this function's contract.
    unsafe {
        // Lane i and i + 4: four of a and c, four of b and d.
        let ac = _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(a, c),
            _mm256_permute2f128_ps::<0x31>(a, c),
        );
        let bd = _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(b, d),
            _mm256_permute2f128_ps::<0x31>(b, d),
        );
        // Lane i and i + 2: two each of a and b, two each of c and d.
        let (ac, bd) = (_mm256_castps_pd(ac), _mm256_castps_pd(bd));
        let first = _mm256_castpd_ps(_mm256_unpacklo_pd(ac, bd));
        let second = _mm256_castpd_ps(_mm256_unpackhi_pd(ac, bd));
        let pairs = _mm256_add_ps(first, second);
        // Lane 0 and 1: a and b, c and d.
        let sums = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
        let (low, high) = (
            _mm256_castps256_ps128(sums),
            _mm256_extractf128_ps::<1>(sums),
        );
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm_shuffle_ps::<0b10_00_10_00>(low, high));
        out
    }
}
