//! `q5_k` weights: as `q4_k` with a fifth bit, bit `g` of `qh[i]` for value `i` of group `g`.

use katari_gguf::block::BlockQ5K;

use super::Groups;

impl Groups for BlockQ5K {}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
    use super::BlockQ5K;
    use crate::cpu::dot::k::KScales;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    impl Unpack for BlockQ5K {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 4;
        const TOGETHER: usize = 2;
        type Scales<V: Wide> = KScales<V>;

        /// Two groups share eight words: the low nibbles are the first's, the high the second's.
        /// Of eight words of fifth bits, a bit of each byte for a group, each lies before the
        /// word of the first two groups that is wanted together with it.
        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe {
                let at = if g < 2 { 5 + 2 * t } else { 12 + g / 2 * 8 + t };
                let four = word::<V>(block, i, at);
                four.nibbles_below(g % 2 == 1, word(block, i, 4 + 2 * t), g, 1)
            }
        }
    }
}
