//! `q6_k` weights: two 16-groups with integer scales in each group of 32.

use katari_gguf::block::{BlockQ6K, Quantized};

use super::{Groups, Integers};

impl Groups for BlockQ6K {
    fn groups(&self, out: &mut Integers) {
        let (mut scale, mut min) = ([0.0; 16], [0.0; 16]);
        self.integers(&mut out.q, &mut scale, &mut min);
        for (factor, &scale) in out.factor.iter_mut().zip(&self.scales) {
            *factor = i32::from(scale);
        }
        out.scale.fill(self.d.to_f32());
    }
}

/// From panels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel {
    use super::BlockQ6K;
    use crate::cpu::dot::unpack::*;
    use crate::cpu::dot::wide::Wide;

    /// The scales of rows' super-blocks, a row an i32.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Factors<V: Wide> {
        d: V::Floats,
        /// The 8-bit factors, four (two groups') in each.
        factors: [V; 4],
    }

    impl<V: Wide> Scales<V> for Factors<V> {
        #[inline(always)]
        unsafe fn load(block: *const u8, i: usize) -> Factors<V> {
            let words = field(block, 2);
            // SAFETY: by the trait's contract: the blocks begin with these.
            unsafe {
                Factors {
                    d: halfs::<V>(block, i),
                    factors: [
                        word(words, i, 0),
                        word(words, i, 1),
                        word(words, i, 2),
                        word(words, i, 3),
                    ],
                }
            }
        }

        #[inline(always)]
        unsafe fn scale(&self, _g: usize) -> V::Floats {
            self.d
        }

        #[inline(always)]
        unsafe fn factors(&self, g: usize) -> V::Factors {
            // SAFETY: by the trait's contract.
            unsafe { self.factors[g / 2].factors(g % 2 == 1) }
        }
    }

    impl Unpack for BlockQ6K {
        const OFFSET: i16 = 32;
        const CHAIN: usize = 2;
        const FACTORS: bool = true;
        const TOGETHER: usize = 4;
        type Scales<V: Wide> = Factors<V>;

        /// Of each half of a block, eight words hold the low nibbles of group 0 and, as their high
        /// nibbles, of 2; each is followed by one of the eight words with the upper two bits of
        /// all four groups. Then come the eight of groups 1 and 3.
        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe {
                let half = field(block, 18 + g / 4 * 96);
                let at = if g.is_multiple_of(2) { 2 * t } else { 16 + t };
                let (four, two) = (word::<V>(half, i, at), word(half, i, 2 * t + 1));
                four.nibbles_below(g % 4 >= 2, two, 2 * (g % 4), 2)
            }
        }
    }
}
