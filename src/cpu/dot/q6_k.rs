//! `q6_k` weights: two 16-groups with integer scales in each group of 32.

use katari_gguf::block::{BlockQ6K, Quantized};

use super::{Groups, Integers};

impl Groups for BlockQ6K {
    fn groups(&self, out: &mut Integers) {
        let (mut scale, mut min) = ([0.0; 16], [0.0; 16]);
        self.integers(&mut out.q, &mut scale, &mut min);
        for (factor, &scale) in out.factor.iter_mut().zip(&self.scales) {
            *factor = i32::from(scale);
        }
        out.scale.fill(self.d.to_f32());
    }
}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::BlockQ6K;
    use crate::cpu::dot::unpack::*;

    /// The scales of eight rows' super-blocks, a row an i32.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Factors {
        d: __m256,
        /// The 8-bit factors, four (two groups') in each.
        factors: [__m256i; 4],
    }

    impl Scales for Factors {
        #[inline(always)]
        unsafe fn load(block: *const u8, i: usize) -> Factors {
            // SAFETY: by the trait's contract: 48 words of integers, 4 of factors, and d.
            unsafe {
                Factors {
                    d: halfs(field(block, 208), i),
                    factors: [
                        word(block, i, 48),
                        word(block, i, 49),
                        word(block, i, 50),
                        word(block, i, 51),
                    ],
                }
            }
        }

        #[inline(always)]
        unsafe fn scale<const G: usize>(&self) -> __m256 {
            self.d
        }

        #[inline(always)]
        unsafe fn factors<const G: usize>(&self) -> __m256i {
            // SAFETY: by the trait's contract.
            unsafe {
                // Bytes 0 and 1 of a row for an even group, 2 and 3 for an odd one, moved to the
                // tops of two i16 and from there down with their signs.
                let four = self.factors[G / 2];
                let (first, second) = if G % 2 == 0 {
                    (_mm256_slli_epi32::<8>(four), _mm256_slli_epi32::<16>(four))
                } else {
                    (_mm256_srli_epi32::<8>(four), four)
                };
                _mm256_srai_epi16::<8>(_mm256_blend_epi16::<0b1010_1010>(first, second))
            }
        }
    }

    impl Unpack for BlockQ6K {
        const OFFSET: i16 = 32;
        const CHAIN: usize = 2;
        const FACTORS: bool = true;
        type Scales = Factors;

        /// Of each half of a block, 16 words hold the low nibbles of groups 0 and 1 and, as their
        /// high nibbles, of 2 and 3; eight words hold the upper two bits of groups 0 to 3.
        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe {
                let mut quads = [_mm256_setzero_si256(); 8];
                for (t, quad) in quads.iter_mut().enumerate() {
                    let four = nibbles(word(block, i, G / 4 * 16 + G % 2 * 8 + t), G % 4 >= 2);
                    let bits = word(block, i, 32 + G / 4 * 8 + t);
                    let bits = match G % 4 {
                        0 => _mm256_slli_epi16::<4>(bits),
                        1 => _mm256_slli_epi16::<2>(bits),
                        2 => bits,
                        _ => _mm256_srli_epi16::<2>(bits),
                    };
                    let upper = _mm256_and_si256(bits, _mm256_set1_epi8(0x30));
                    *quad = _mm256_or_si256(four, upper);
                }
                quads
            }
        }
    }
}
