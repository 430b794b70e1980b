//! `q4_k` weights: super-blocks of eight groups of 4 bits with a scale and a min each.

use katari_gguf::block::BlockQ4K;

use super::Groups;

impl Groups for BlockQ4K {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::BlockQ4K;
    use crate::cpu::dot::k::KScales;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ4K {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 8;
        type Scales = KScales;

        /// Two groups share eight words: the low nibbles are the first's, the high the second's.
        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe {
                let mut quads = [_mm256_setzero_si256(); 8];
                for (t, quad) in quads.iter_mut().enumerate() {
                    *quad = nibbles(word(block, i, 4 + G / 2 * 8 + t), G % 2 == 1);
                }
                quads
            }
        }
    }
}
