//! `q8_0` weights on NEON.

use std::arch::aarch64::*;
use std::mem::offset_of;
use std::ptr::addr_of;

use katari_gguf::block::BlockQ8_0;

use super::*;

impl Unpack for BlockQ8_0 {
    const OFFSET: i32 = 0;
    const BITS: u32 = 8;
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

    #[inline(always)]
    unsafe fn unpack(row: *const Self, _step: usize) -> [Group; MAX_STEP] {
        // SAFETY: by the trait's contract.
        unsafe {
            let q = addr_of!((*row).qs).cast::<i8>();
            [[vld1q_s8(q), vld1q_s8(q.add(16))]; MAX_STEP]
        }
    }
}
