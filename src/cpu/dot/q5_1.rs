//! `q5_1` weights: 5 bits and a least value.

use katari_gguf::block::BlockQ5_1;

use super::Groups;

impl Groups for BlockQ5_1 {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ptr::addr_of;

    use super::BlockQ5_1;
    use crate::cpu::dot::avx2::*;

    impl Unpack for BlockQ5_1 {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 4;
        type Scales = [__m256; 2];

        #[inline(always)]
        unsafe fn scales(rows: &[*const Self; ROWS]) -> [__m256; 2] {
            // SAFETY: by the trait's contract.
            unsafe { load_half_pairs(rows.map(|row| addr_of!((*row).d))) }
        }

        #[inline(always)]
        unsafe fn scale(scales: &[__m256; 2], _g: usize) -> __m256 {
            scales[0]
        }

        #[inline(always)]
        unsafe fn min(scales: &[__m256; 2], _g: usize) -> __m256 {
            // SAFETY: by the trait's contract. The format adds its least value.
            unsafe { _mm256_xor_ps(scales[1], _mm256_set1_ps(-0.0)) }
        }

        #[inline(always)]
        unsafe fn unpack(low: *const Self, high: *const Self, _step: usize) -> [Pair; MAX_STEP] {
            // SAFETY: by the trait's contract.
            unsafe {
                let q = nibbles(load_pair(addr_of!((*low).qs), addr_of!((*high).qs)));
                let fifth = fifth_bits(addr_of!((*low).qh), addr_of!((*high).qh));
                [or(q, fifth); MAX_STEP]
            }
        }
    }
}
