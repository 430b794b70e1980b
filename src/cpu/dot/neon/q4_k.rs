//! `q4_k` weights on NEON.

use std::arch::aarch64::*;
use std::ptr::addr_of;

use katari_gguf::block::BlockQ4K;

use super::k::Scales;
use super::*;

impl Unpack for BlockQ4K {
    const OFFSET: i32 = 0;
    const BITS: u32 = 4;
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

    /// Two groups share 32 bytes: the low nibbles are the first's, the high the second's.
    #[inline(always)]
    unsafe fn unpack(row: *const Self, step: usize) -> [Group; MAX_STEP] {
        // SAFETY: by the trait's contract; `step` is below 4.
        let (first, second) = unsafe {
            let q = addr_of!((*row).qs).cast::<u8>().add(step * 32);
            (nibbles(vld1q_u8(q)), nibbles(vld1q_u8(q.add(16))))
        };
        let (a, b) = ([first[0], second[0]], [first[1], second[1]]);
        [a, b, a, b]
    }
}
