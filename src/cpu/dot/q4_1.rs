//! `q4_1` weights: 4 bits and a least value.

use katari_gguf::block::BlockQ4_1;

use super::Groups;

impl Groups for BlockQ4_1 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::BlockQ4_1;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ4_1 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 8;
        type Scales = ScaleAndLeast;

        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe { split_nibbles(field(block, 4), i) }
        }
    }
}
