//! `q8_0` weights: 8 bits, signed.

use katari_gguf::block::BlockQ8_0;

use super::Groups;

impl Groups for BlockQ8_0 {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
    use super::BlockQ8_0;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ8_0 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 1;
        type Scales<V: Wide> = Scale<V>;

        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, _g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe { word(field(block, 2), i, t) }
        }
    }
}
