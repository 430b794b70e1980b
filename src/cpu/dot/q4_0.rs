//! `q4_0` weights: 4 bits with an offset of 8.

use katari_gguf::block::BlockQ4_0;

use super::Groups;

impl Groups for BlockQ4_0 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ptr::addr_of;

    use super::BlockQ4_0;
    use crate::cpu::dot::avx2::*;

    impl Unpack for BlockQ4_0 {
        const OFFSET: i16 = 8;
        const CHAIN: usize = 8;
        type Scales = __m256;

        #[inline(always)]
        unsafe fn scales(rows: &[*const Self; ROWS]) -> __m256 {
            // SAFETY: by the trait's contract.
            unsafe { load_halfs(rows.map(|row| addr_of!((*row).d))) }
        }

        #[inline(always)]
        unsafe fn scale(scales: &__m256, _g: usize) -> __m256 {
            *scales
        }

        #[inline(always)]
        unsafe fn unpack(low: *const Self, high: *const Self, _step: usize) -> [Pair; MAX_STEP] {
            // SAFETY: by the trait's contract.
            unsafe {
                let q = nibbles(load_pair(addr_of!((*low).qs), addr_of!((*high).qs)));
                [q; MAX_STEP]
            }
        }
    }
}
