//! `q6_k` weights on NEON.

use std::arch::aarch64::*;
use std::mem::offset_of;
use std::ptr::addr_of;

use katari_gguf::block::BlockQ6K;

use super::*;

impl Unpack for BlockQ6K {
    const OFFSET: i32 = 32;
    const BITS: u32 = 6;
    const FACTORS: bool = true;
    const STEP: usize = 4;
    type Scales = Lanes;

    #[inline(always)]
    unsafe fn scales(rows: &[*const Self; ROWS]) -> Lanes {
        // SAFETY: by the trait's contract.
        unsafe { load_halfs(rows, offset_of!(Self, d)) }
    }

    #[inline(always)]
    fn scale(scales: &Lanes, _g: usize) -> Lanes {
        *scales
    }

    /// Bytes `2 g` and `2 g + 1` of two rows' factors go to the tops of four lanes, from where
    /// the conversion takes them down with their signs.
    #[inline(always)]
    unsafe fn factors(rows: &[*const Self; ROWS], g: usize) -> Factors {
        // SAFETY: by the trait's contract.
        unsafe {
            let top = vcombine_u32(
                vcreate_u32(0x01ff_ffff_00ff_ffff),
                vcreate_u32(0x11ff_ffff_10ff_ffff),
            );
            let from = vaddq_u32(top, vdupq_n_u32((2 * g as u32) << 24));
            let mut factors = [vdupq_n_f32(0.0); 4];
            for (i, factors) in factors.iter_mut().enumerate() {
                let a = vld1q_u8(addr_of!((*rows[2 * i]).scales).cast());
                let b = vld1q_u8(addr_of!((*rows[2 * i + 1]).scales).cast());
                let bytes = vqtbl2q_u8(uint8x16x2_t(a, b), vreinterpretq_u8_u32(from));
                *factors = vcvtq_n_f32_s32::<24>(vreinterpretq_s32_u8(bytes));
            }
            factors
        }
    }

    /// Half a block: 64 bytes hold the low nibbles of groups 0 and 1 and, as their high
    /// nibbles, of 2 and 3; 32 bytes hold the upper two bits of groups 0 to 3.
    #[inline(always)]
    unsafe fn unpack(row: *const Self, step: usize) -> [Group; MAX_STEP] {
        // SAFETY: by the trait's contract; `step` is below 2.
        let (a, b) = unsafe { (half(row, step, 0), half(row, step, 1)) };
        [[a[0], b[0]], [a[1], b[1]], [a[2], b[2]], [a[3], b[3]]]
    }
}

/// Values `16 i..16 i + 16` of the four groups.
///
/// # Safety
/// The block is readable, `step` and `i` are below 2.
#[inline(always)]
unsafe fn half(row: *const BlockQ6K, step: usize, i: usize) -> [int8x16_t; 4] {
    // SAFETY: by this function's contract.
    unsafe {
        let l = addr_of!((*row).ql).cast::<u8>().add(step * 64 + i * 16);
        let h = addr_of!((*row).qh).cast::<u8>().add(step * 32 + i * 16);
        let (a, b, upper) = (vld1q_u8(l), vld1q_u8(l.add(32)), vld1q_u8(h));
        // Bits 4 and 5 of a nibble are bits 0 and 1, or 4 and 5, of what they are taken from.
        let down = vshrq_n_u8::<2>(upper);
        let six = |v| vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(63)));
        [
            six(vsliq_n_u8::<4>(a, upper)),
            six(vsliq_n_u8::<4>(b, down)),
            six(vsriq_n_u8::<4>(upper, a)),
            six(vsriq_n_u8::<4>(down, b)),
        ]
    }
}
