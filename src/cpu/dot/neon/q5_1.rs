//! `q5_1` weights on NEON.

use std::arch::aarch64::*;
use std::mem::offset_of;
use std::ptr::addr_of;

use katari_gguf::block::BlockQ5_1;

use super::*;

impl Unpack for BlockQ5_1 {
    // Unpacked with 16 taken off, which makes them signed.
    const OFFSET: i32 = -16;
    const BITS: u32 = 5;
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
        let (bytes, bits) = unsafe {
            (
                vld1q_u8(addr_of!((*row).qs).cast()),
                addr_of!((*row).qh).cast::<u32>().read_unaligned(),
            )
        };
        [nibbles_and_bits(bytes, bits); MAX_STEP]
    }
}
