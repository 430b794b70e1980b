//! `q4_1` weights: 4 bits and a least value.

use katari_gguf::block::BlockQ4_1;

use super::Groups;

impl Groups for BlockQ4_1 {}

/// x86.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::BlockQ4_1;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ4_1 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 8;
        type Scales<V: Wide> = ScaleAndLeast<V>;

        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, _g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe { split_nibbles(field(block, 4), i, t) }
        }
    }
}
