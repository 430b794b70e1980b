//! The scales of `q4_k` and `q5_k` on AVX2.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::unpack::*;

/// The scales of eight rows' super-blocks, a row a lane.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct KScales {
    d: __m256,
    dmin: __m256,
    /// The 6-bit scales of groups 0..4 and 4..8, a byte a group.
    scale: [__m256i; 2],
    /// The 6-bit mins, likewise.
    min: [__m256i; 2],
}

impl Scales for KScales {
    /// From the four words that each row's block begins with: d and dmin in f16, and 12 bytes of
    /// packed scales `s` and mins `m`, which hold, as three u32 a, b, c of a byte a group: the low
    /// 6 bits of a are s 0..4, those of b are m 0..4; the low nibbles of c and the top two bits
    /// of a are s 4..8, the high nibbles of c and the top two bits of b are m 4..8.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; they are readable.
    #[inline(always)]
    unsafe fn load(block: *const u8, i: usize) -> KScales {
        // SAFETY: by this function's contract.
        unsafe {
            let [d, dmin] = half_pairs(word(block, i, 0));
            let (a, b, c) = (word(block, i, 1), word(block, i, 2), word(block, i, 3));
            let six = _mm256_set1_epi8(63);
            let nibble = _mm256_set1_epi8(15);
            let top = _mm256_set1_epi8(0x30);
            let a_top = _mm256_and_si256(_mm256_srli_epi32::<2>(a), top);
            let b_top = _mm256_and_si256(_mm256_srli_epi32::<2>(b), top);
            let high = _mm256_srli_epi32::<4>(c);
            KScales {
                d,
                dmin,
                scale: [
                    _mm256_and_si256(a, six),
                    _mm256_or_si256(_mm256_and_si256(c, nibble), a_top),
                ],
                min: [
                    _mm256_and_si256(b, six),
                    _mm256_or_si256(_mm256_and_si256(high, nibble), b_top),
                ],
            }
        }
    }

    /// `d s` of group `G`.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn scale<const G: usize>(&self) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe { _mm256_mul_ps(self.d, byte(self.scale[G / 4], G % 4)) }
    }

    /// `dmin m` of group `G`.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn min<const G: usize>(&self) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe { _mm256_mul_ps(self.dmin, byte(self.min[G / 4], G % 4)) }
    }
}

/// Byte `i` of each lane, as f32.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn byte(v: __m256i, i: usize) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let down = _mm256_srl_epi32(v, _mm_cvtsi32_si128(8 * i as i32));
        _mm256_cvtepi32_ps(_mm256_and_si256(down, _mm256_set1_epi32(255)))
    }
}
