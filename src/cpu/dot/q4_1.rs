//! `q4_1` weights: 4 bits and a least value.

use katari_gguf::block::BlockQ4_1;

use super::Groups;

impl Groups for BlockQ4_1 {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
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
            unsafe { word::<V>(field(block, 4), i, t % 4).nibbles(t >= 4) }
        }
    }
}
