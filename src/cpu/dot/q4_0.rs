//! `q4_0` weights: 4 bits with an offset of 8.

use katari_gguf::block::BlockQ4_0;

use super::Groups;

impl Groups for BlockQ4_0 {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
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
            unsafe { word::<V>(field(block, 2), i, t % 4).nibbles(t >= 4) }
        }
    }
}
