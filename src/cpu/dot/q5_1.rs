//! `q5_1` weights: 5 bits and a least value.

use katari_gguf::block::BlockQ5_1;

use super::Groups;

impl Groups for BlockQ5_1 {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
    use super::BlockQ5_1;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ5_1 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 4;
        type Scales<V: Wide> = ScaleAndLeast<V>;

        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, _g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe {
                let four = word::<V>(field(block, 8), i, t % 4);
                four.nibbles_below_fifth(t >= 4, word(block, i, 1), t)
            }
        }
    }
}
