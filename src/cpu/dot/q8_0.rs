//! `q8_0` weights: 8 bits, signed.

use katari_gguf::block::BlockQ8_0;

use super::Groups;

impl Groups for BlockQ8_0 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ptr::addr_of;

    use super::BlockQ8_0;
    use crate::cpu::dot::avx2::*;

    impl Unpack for BlockQ8_0 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 1;
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
                let low = addr_of!((*low).qs).cast::<__m128i>();
                let high = addr_of!((*high).qs).cast::<__m128i>();
                [[load_pair(low, high), load_pair(low.add(1), high.add(1))]; MAX_STEP]
            }
        }
    }
}
