//! `q5_k` weights: as `q4_k` with a fifth bit, bit `g` of `qh[i]` for value `i` of group `g`.

use katari_gguf::block::BlockQ5K;

use super::Groups;

impl Groups for BlockQ5K {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::BlockQ5K;
    use crate::cpu::dot::k::KScales;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ5K {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 4;
        type Scales = KScales;

        /// Eight words of fifth bits, a bit of each byte for a group; then two groups share eight
        /// words: the low nibbles are the first's, the high the second's.
        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe {
                let mut quads = [_mm256_setzero_si256(); 8];
                for (t, quad) in quads.iter_mut().enumerate() {
                    let four = nibbles(word(block, i, 12 + G / 2 * 8 + t), G % 2 == 1);
                    let bits = word(block, i, 4 + t);
                    // Bit G of each byte to bit 4; which bits come in from the side is masked.
                    let bits = if G < 4 {
                        _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - G as i32))
                    } else {
                        _mm256_srl_epi16(bits, _mm_cvtsi32_si128(G as i32 - 4))
                    };
                    let fifth = _mm256_and_si256(bits, _mm256_set1_epi8(16));
                    *quad = _mm256_or_si256(four, fifth);
                }
                quads
            }
        }
    }
}
