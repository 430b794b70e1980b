//! The scales of `q4_k` and `q5_k` on NEON.

use std::arch::aarch64::*;

use super::{Lanes, ROWS, split_half_pairs, transpose};

/// The scales of eight rows' super-blocks, a row a lane, the first four rows first.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Scales([Quad; 2]);

/// Four rows' scales.
#[derive(Clone, Copy)]
struct Quad {
    d: float32x4_t,
    dmin: float32x4_t,
    /// The 6-bit scales of groups 0..4 and 4..8, a byte a group.
    scale: [uint32x4_t; 2],
    /// The 6-bit mins, likewise.
    min: [uint32x4_t; 2],
}

impl Quad {
    /// As [`Scales::load`].
    ///
    /// # Safety
    /// 16 bytes at each pointer are readable.
    #[inline(always)]
    unsafe fn load(at: [*const u8; 4]) -> Quad {
        // SAFETY: by this function's contract.
        unsafe {
            let [a, b, c, d] = at;
            let [ds, a, b, c] = transpose([vld1q_u8(a), vld1q_u8(b), vld1q_u8(c), vld1q_u8(d)]);
            let [d, dmin] = split_half_pairs(ds);
            let six = vdupq_n_u32(0x3f3f_3f3f);
            let nibble = vdupq_n_u32(0x0f0f_0f0f);
            let top = vdupq_n_u32(0x3030_3030);
            let a_top = vandq_u32(vshrq_n_u32::<2>(a), top);
            let b_top = vandq_u32(vshrq_n_u32::<2>(b), top);
            let high = vshrq_n_u32::<4>(c);
            Quad {
                d,
                dmin,
                scale: [vandq_u32(a, six), vorrq_u32(vandq_u32(c, nibble), a_top)],
                min: [vandq_u32(b, six), vorrq_u32(vandq_u32(high, nibble), b_top)],
            }
        }
    }
}

impl Scales {
    /// From the 16 bytes that each row's block begins with: d and dmin in f16, and 12 bytes of
    /// packed scales `s` and mins `m`, which hold, as three u32 a, b, c of a byte a group: the low
    /// 6 bits of a are s 0..4, those of b are m 0..4; the low nibbles of c and the top two bits
    /// of a are s 4..8, the high nibbles of c and the top two bits of b are m 4..8.
    ///
    /// # Safety
    /// 16 bytes at each pointer are readable.
    #[inline(always)]
    pub(super) unsafe fn load<B>(rows: &[*const B; ROWS]) -> Scales {
        let [a, b, c, d, e, f, g, h] = *rows;
        let ([a, b, c, d], [e, f, g, h]) = (
            [a.cast(), b.cast(), c.cast(), d.cast()],
            [e.cast(), f.cast(), g.cast(), h.cast()],
        );
        // SAFETY: by this function's contract.
        unsafe { Scales([Quad::load([a, b, c, d]), Quad::load([e, f, g, h])]) }
    }

    /// `d s` of group `g`.
    #[inline(always)]
    pub(super) fn scale(&self, g: usize) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let [low, high] = &self.0;
            [
                vmulq_f32(low.d, byte(low.scale[g / 4], g % 4)),
                vmulq_f32(high.d, byte(high.scale[g / 4], g % 4)),
            ]
        }
    }

    /// `dmin m` of group `g`.
    #[inline(always)]
    pub(super) fn min(&self, g: usize) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            let [low, high] = &self.0;
            [
                vmulq_f32(low.dmin, byte(low.min[g / 4], g % 4)),
                vmulq_f32(high.dmin, byte(high.min[g / 4], g % 4)),
            ]
        }
    }
}

/// Byte `i` of each lane, as f32.
#[inline(always)]
fn byte(v: uint32x4_t, i: usize) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        // The byte to the lane's lowest; 255 and above stand for no byte.
        let lane = vdupq_n_u32(0xffff_ff00 + i as u32);
        let first = vcombine_u32(vcreate_u32(4 << 32), vcreate_u32(12 << 32 | 8));
        let from = vreinterpretq_u8_u32(vaddq_u32(lane, first));
        let low = vqtbl1q_u8(vreinterpretq_u8_u32(v), from);
        vcvtq_f32_u32(vreinterpretq_u32_u8(low))
    }
}
