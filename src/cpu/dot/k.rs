//! The scales of `q4_k` and `q5_k` on x86.
#![cfg(target_arch = "x86_64")]

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
            let (six, top) = (V::splat8(63), V::splat8(0x30));
            KScales {
                d,
                dmin,
                scale: [a.and(six), nibbles(c, false).or(a.shift16(-2).and(top))],
                min: [b.and(six), nibbles(c, true).or(b.shift16(-2).and(top))],
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
        unsafe { V::mul(self.d, byte(self.scale[g / 4], g % 4)) }
    }

    /// `dmin m` of group `g`.
    ///
    /// # Safety
    /// The instruction set.
    #[inline(always)]
    unsafe fn min(&self, g: usize) -> V::Floats {
        // SAFETY: by this function's contract.
        unsafe { V::mul(self.dmin, byte(self.min[g / 4], g % 4)) }
    }
}

/// Byte `i` of each lane, as f32.
///
/// # Safety
/// The instruction set.
#[inline(always)]
unsafe fn byte<V: Wide>(v: V, i: usize) -> V::Floats {
    // SAFETY: by this function's contract.
    unsafe { v.shift32(-8 * i as i32).and(V::splat32(255)).to_floats() }
}
