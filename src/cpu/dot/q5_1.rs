//! `q5_1` weights: 5 bits and a least value.

use katari_gguf::block::BlockQ5_1;

use super::Groups;

impl Groups for BlockQ5_1 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::BlockQ5_1;
    use crate::cpu::dot::unpack::*;

    impl Unpack for BlockQ5_1 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 4;
        type Scales = ScaleAndLeast;

        #[inline(always)]
        unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads {
            // SAFETY: by the trait's contract.
            unsafe {
                let mut quads = split_nibbles(field(block, 8), i);
                add_fifth_bits(&mut quads, word(block, i, 1));
                quads
            }
        }
    }
}
