//! `q5_k` weights on NEON.

use std::arch::aarch64::*;
use std::ptr::addr_of;

use katari_gguf::block::BlockQ5K;

use super::k::Scales;
use super::*;

impl Unpack for BlockQ5K {
    // Unpacked with 16 taken off, which makes them signed.
    const OFFSET: i32 = -16;
    const BITS: u32 = 5;
    const STEP: usize = 2;
    type Scales = Scales;

    #[inline(always)]
    unsafe fn scales(rows: &[*const Self; ROWS]) -> Scales {
        // SAFETY: by the trait's contract; the first 16 bytes are the scales.
        unsafe { Scales::load(rows) }
    }

    #[inline(always)]
    fn scale(scales: &Scales, g: usize) -> Lanes {
        scales.scale(g)
    }

    #[inline(always)]
    fn min(scales: &Scales, g: usize) -> Lanes {
        scales.min(g)
    }

    /// Two groups share 32 bytes: the low nibbles are the first's, the high the second's. Bit
    /// `g` of the other 32 bytes is the fifth of group `g`.
    #[inline(always)]
    unsafe fn unpack(row: *const Self, step: usize) -> [Group; MAX_STEP] {
        // SAFETY: by the trait's contract; `step` is below 4.
        unsafe {
            let (first, second) = (half(row, step, 0), half(row, step, 1));
            let (a, b) = ([first[0], second[0]], [first[1], second[1]]);
            [a, b, a, b]
        }
    }
}

/// Values `16 i..16 i + 16` of the two groups.
///
/// # Safety
/// The block is readable, `step` is below 4 and `i` below 2.
#[inline(always)]
unsafe fn half(row: *const BlockQ5K, step: usize, i: usize) -> Group {
    // SAFETY: by this function's contract.
    unsafe {
        let q = addr_of!((*row).qs).cast::<u8>().add(step * 32 + i * 16);
        let h = addr_of!((*row).qh).cast::<u8>().add(i * 16);
        let clear = vmvnq_u8(vld1q_u8(h));
        let first = vtstq_u8(clear, vdupq_n_u8(1 << (2 * step)));
        let second = vtstq_u8(clear, vdupq_n_u8(2 << (2 * step)));
        five_bits(vld1q_u8(q), [first, second])
    }
}
