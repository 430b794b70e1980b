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
        unsafe fn factors(&self, g: usize) -> V {
            self.factors[g / 2]
        }
    }

    impl Unpack for BlockQ6K {
        const OFFSET: i16 = 32;
        const CHAIN: usize = 2;
        const FACTORS: bool = true;
        const TOGETHER: usize = 4;
        type Scales<V: Wide> = Factors<V>;

        #[inline(always)]
        fn sixes(block: *const u8, g: usize) -> *const u8 {
            field(block, 18 + g / 4 * 96)
        }

        /// Of each half of a block, the words of each step of its four groups are three: see
        /// [`pack::sixes`](crate::cpu::dot::pack).
        #[inline(always)]
        unsafe fn unpack<V: Wide>(block: *const u8, i: usize, g: usize, t: usize) -> V {
            // SAFETY: by the trait's contract.
            unsafe {
                let words = field(Self::sixes(block, g), t * 12);
                match g % 4 {
                    3 => V::tops(word(words, i, 0), word(words, i, 1), word(words, i, 2)),
                    g => word::<V>(words, i, g).and(V::splat8(63)),
                }
            }
        }
    }
}
