//! The scales of `q4_k` and `q5_k`.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use super::unpack::*;
use super::wide::Wide;

/// The scales of rows' super-blocks, a row a lane.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct KScales<V: Wide> {
    d: V::Floats,
    dmin: V::Floats,
    /// The 6-bit scales of groups 0..4 and 4..8, a byte a group.
    scale: [V; 2],
    /// The 6-bit mins, likewise.
    min: [V; 2],
}

impl<V: Wide> Scales<V> for KScales<V> {
    /// From the four words that each row's block begins with: d and dmin in f16, and 12 bytes of
    /// packed scales `s` and mins `m`, which hold, as three u32 a, b, c of a byte a group: the low
    /// 6 bits of a are s 0..4, those of b are m 0..4; the low nibbles of c and the top two bits
    /// of a are s 4..8, the high nibbles of c and the top two bits of b are m 4..8.
    ///
    /// # Safety
    /// The instruction set; they are readable.
    #[inline(always)]
    unsafe fn load(block: *const u8, i: usize) -> KScales<V> {
        // SAFETY: by this function's contract.
        unsafe {
            let [d, dmin] = word::<V>(block, i, 0).half_pairs();
            let (a, b, c) = (
                word::<V>(block, i, 1),
                word::<V>(block, i, 2),
                word::<V>(block, i, 3),
            );
            let six = V::splat8(63);
            KScales {
                d,
                dmin,
                scale: [a.and(six), c.nibbles_below(false, a, 6, 2)],
                min: [b.and(six), c.nibbles_below(true, b, 6, 2)],
            }
        }
    }

    /// `d s` of group `g`.
    ///
    /// # Safety
    /// The instruction set.
    #[inline(always)]
    unsafe fn scale(&self, g: usize) -> V::Floats {
        // SAFETY: by this function's contract.
        unsafe { V::mul(self.d, self.scale[g / 4].byte(g % 4)) }
    }

    /// `dmin m` of group `g`.
    ///
    /// # Safety
    /// The instruction set.
    #[inline(always)]
    unsafe fn min(&self, g: usize) -> V::Floats {
        // SAFETY: by this function's contract.
        unsafe { V::mul(self.dmin, self.min[g / 4].byte(g % 4)) }
    }
}
