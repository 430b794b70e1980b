//! `q4_1` weights on NEON.

use std::arch::aarch64::*;
use std::mem::offset_of;
use std::ptr::addr_of;

use katari_gguf::block::BlockQ4_1;

use super::*;

impl Unpack for BlockQ4_1 {
    const OFFSET: i32 = 0;
    const BITS: u32 = 4;
    type Scales = [Lanes; 2];

    #[inline(always)]
    unsafe fn scales(rows: &[*const Self; ROWS]) -> [Lanes; 2] {
        // SAFETY: by the trait's contract.
        unsafe { load_half_pairs(rows, offset_of!(Self, d)) }
    }

    #[inline(always)]
    fn scale(scales: &[Lanes; 2], _g: usize) -> Lanes {
        scales[0]
    }

    /// The format adds its least value.
    #[inline(always)]
    fn min(scales: &[Lanes; 2], _g: usize) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe { [vnegq_f32(scales[1][0]), vnegq_f32(scales[1][1])] }
    }

    #[inline(always)]
    unsafe fn unpack(row: *const Self, _step: usize) -> [Group; MAX_STEP] {
        // SAFETY: by the trait's contract.
        let bytes = unsafe { vld1q_u8(addr_of!((*row).qs).cast()) };
        [nibbles(bytes); MAX_STEP]
    }
}
