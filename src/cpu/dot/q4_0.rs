//! `q4_0` weights: 4 bits with an offset of 8.

use katari_gguf::block::BlockQ4_0;

use super::Groups;

impl Groups for BlockQ4_0 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::BlockQ4_0;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ4_0 {
        const OFFSET: i16 = 8;
        const CHAIN: usize = 8;
        type Scales = Scale;

        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe { split_nibbles(field(block, 2), i) }
        }
    }
}
