//! `q4_k` weights: super-blocks of eight groups of 4 bits with a scale and a min each.

use katari_gguf::block::BlockQ4K;

use super::Groups;

impl Groups for BlockQ4K {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
    use super::BlockQ4K;
    use crate::cpu::dot::k::KScales;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ4K {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 8;
        const TOGETHER: usize = 2;
        #[cfg(target_arch = "x86_64")]
        const NIBBLES: bool = true;
        type Scales<V: Wide> = KScales<V>;

        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe { Self::nibbles::<V>(block, i, g, t).nibbles(g % 2 == 1) }
        }

        /// Two groups share eight words: the low nibbles are the first's, the high the second's.
        #[inline(always)]
        unsafe fn nibbles<V: Wide>(block: *const u8, i: usize, g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe { word(block, i, 4 + g / 2 * 8 + t) }
        }
    }
}
