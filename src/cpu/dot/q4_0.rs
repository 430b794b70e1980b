//! `q4_0` weights: 4 bits with an offset of 8.

use katari_gguf::block::BlockQ4_0;

use super::Groups;

impl Groups for BlockQ4_0 {}

/// x86.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::BlockQ4_0;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ4_0 {
        const OFFSET: i16 = 8;
        const CHAIN: usize = 8;
        type Scales<V: Wide> = Scale<V>;

        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, _g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe { split_nibbles(field(block, 2), i, t) }
        }
    }
}
