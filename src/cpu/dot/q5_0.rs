//! `q5_0` weights: 5 bits with an offset of 16.

use katari_gguf::block::BlockQ5_0;

use super::Groups;

impl Groups for BlockQ5_0 {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
    use super::BlockQ5_0;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ5_0 {
        const OFFSET: i16 = 16;
        const CHAIN: usize = 4;
        type Scales<V: Wide> = Scale<V>;

        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, _g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe {
                let four = word::<V>(field(block, 6), i, t % 4);
                four.nibbles_below_fifth(t >= 4, word(field(block, 2), i, 0), t)
            }
        }
    }
}
