//! `q8_0` weights: 8 bits, signed.

use katari_gguf::block::BlockQ8_0;

use super::Groups;

impl Groups for BlockQ8_0 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::BlockQ8_0;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ8_0 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 1;
        type Scales = Scale;

        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe {
                let mut quads = [_mm256_setzero_si256(); 8];
                for (t, quad) in quads.iter_mut().enumerate() {
                    *quad = word(field(block, 2), i, t);
                }
                quads
            }
        }
    }
}
