//! `q4_k` weights: super-blocks of eight groups of 4 bits with a scale and a min each.

use katari_gguf::block::BlockQ4K;

use super::Groups;

impl Groups for BlockQ4K {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ptr::addr_of;

    use super::BlockQ4K;
    use crate::cpu::dot::avx2::*;
    use crate::cpu::dot::k::Scales;

    impl Unpack for BlockQ4K {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 8;
        const STEP: usize = 2;
        type Scales = Scales;

        #[inline(always)]
        unsafe fn scales(rows: &[*const Self; ROWS]) -> Scales {
            // SAFETY: by the trait's contract; the first 16 bytes are the scales.
            unsafe { Scales::load(rows.map(|row| addr_of!((*row).d).cast())) }
        }

        #[inline(always)]
        unsafe fn scale(scales: &Scales, g: usize) -> __m256 {
            // SAFETY: by the trait's contract.
            unsafe { scales.scale(g) }
        }

        #[inline(always)]
        unsafe fn min(scales: &Scales, g: usize) -> __m256 {
            // SAFETY: by the trait's contract.
            unsafe { scales.min(g) }
        }

        /// Two groups share 32 bytes: the low nibbles are the first's, the high the second's.
        #[inline(always)]
        unsafe fn unpack(low: *const Self, high: *const Self, step: usize) -> [Pair; MAX_STEP] {
            // SAFETY: by the trait's contract; `step` is below 4.
            unsafe {
                let low_q = addr_of!((*low).qs).cast::<__m128i>().add(step * 2);
                let high_q = addr_of!((*high).qs).cast::<__m128i>().add(step * 2);
                let [a0, b0] = nibbles(load_pair(low_q, high_q));
                let [a1, b1] = nibbles(load_pair(low_q.add(1), high_q.add(1)));
                let (a, b) = ([a0, a1], [b0, b1]);
                [a, b, a, b]
            }
        }
    }
}
