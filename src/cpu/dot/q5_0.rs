//! `q5_0` weights: 5 bits with an offset of 16.

use katari_gguf::block::BlockQ5_0;

use super::Groups;

impl Groups for BlockQ5_0 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::BlockQ5_0;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ5_0 {
        const OFFSET: i16 = 16;
        const CHAIN: usize = 4;
        type Scales = Scale;

        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe {
                let mut quads = split_nibbles(field(block, 6), i);
                add_fifth_bits(&mut quads, word(field(block, 2), i, 0));
                quads
            }
        }
    }
}
