//! `q5_k` weights: as `q4_k` with a fifth bit, bit `g` of `qh[i]` for value `i` of group `g`.

use katari_gguf::block::BlockQ5K;

use super::Groups;

impl Groups for BlockQ5K {}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ptr::addr_of;

    use super::BlockQ5K;
    use crate::cpu::dot::avx2::*;
    use crate::cpu::dot::k::Scales;

    impl Unpack for BlockQ5K {
        const OFFSET: i16 = 0;
        const CHAIN: usize = 4;
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
                let low_h = addr_of!((*low).qh).cast::<__m128i>();
                let high_h = addr_of!((*high).qh).cast::<__m128i>();
                let h = [
                    load_pair(low_h, high_h),
                    load_pair(low_h.add(1), high_h.add(1)),
                ];
                let first = [fifth(h[0], step * 2), fifth(h[1], step * 2)];
                let second = [fifth(h[0], step * 2 + 1), fifth(h[1], step * 2 + 1)];
                let (a, b) = (or([a0, a1], first), or([b0, b1], second));
                [a, b, a, b]
            }
        }
    }

    /// Bit `g` of each byte, moved to bit 4.
    ///
    /// # Safety
    /// AVX2; `g` is below 8.
    #[inline(always)]
    unsafe fn fifth(h: __m256i, g: usize) -> __m256i {
        // SAFETY: by this function's contract.
        unsafe {
            let down = _mm256_srl_epi16(h, _mm_cvtsi32_si128(g as i32));
            _mm256_and_si256(_mm256_slli_epi16::<4>(down), _mm256_set1_epi8(16))
        }
    }
}
