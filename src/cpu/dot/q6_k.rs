//! `q6_k` weights: two 16-groups with integer scales in each group of 32.

use katari_gguf::block::{BlockQ6K, Quantized};

use super::{Groups, Integers};

impl Groups for BlockQ6K {
    fn groups(&self, out: &mut Integers) {
        let (mut scale, mut min) = ([0.0; 16], [0.0; 16]);
        self.integers(&mut out.q, &mut scale, &mut min);
        for (factor, &scale) in out.factor.iter_mut().zip(&self.scales) {
            *factor = i32::from(scale);
        }
        out.scale.fill(self.d.to_f32());
    }
}

/// AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ptr::addr_of;

    use super::BlockQ6K;
    use crate::cpu::dot::avx2::*;

    /// The scales of eight rows' super-blocks.
    #[derive(Clone, Copy)]
    pub(in crate::cpu) struct Scales {
        /// A row a lane.
        d: __m256,
        /// The 8-bit factors, a row a lane, four (two groups') in each.
        factors: [__m256i; 4],
        /// The factors of pairs of rows in i16: those of groups 0..4, those of 4..8.
        pairs: [[__m256i; 2]; 4],
    }

    impl Unpack for BlockQ6K {
        const OFFSET: i16 = 32;
        const CHAIN: usize = 2;
        const FACTORS: bool = true;
        const STEP: usize = 4;
        type Scales = Scales;

        #[inline(always)]
        unsafe fn scales(rows: &[*const Self; ROWS]) -> Scales {
            // SAFETY: by the trait's contract.
            unsafe {
                let at = rows.map(|row| addr_of!((*row).scales));
                let raw = load_pairs(at);
                let pairs = [wide(raw[0]), wide(raw[1]), wide(raw[2]), wide(raw[3])];
                Scales {
                    // The block ends with d: its scales' last two bytes are read with it.
                    d: load_last_halfs(at.map(|at| at.cast::<i8>().add(14))),
                    factors: transpose(raw),
                    pairs,
                }
            }
        }

        #[inline(always)]
        unsafe fn scale(scales: &Scales, _g: usize) -> __m256 {
            scales.d
        }

        #[inline(always)]
        unsafe fn factors(scales: &Scales, g: usize) -> __m256i {
            // SAFETY: by the trait's contract.
            unsafe {
                // Bytes 0 and 1 of a lane for an even group, 2 and 3 for an odd one, moved to
                // the tops of two i16 and from there down with their signs.
                let v = _mm256_srl_epi32(
                    scales.factors[g / 2],
                    _mm_cvtsi32_si128(16 * (g as i32 % 2)),
                );
                let apart = _mm256_setr_epi8(
                    -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, //
                    -1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13,
                );
                _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(v, apart))
            }
        }

        #[inline(always)]
        unsafe fn pair_factors(scales: &Scales, p: usize, g: usize) -> Pair {
            // SAFETY: by the trait's contract.
            unsafe {
                let eight = scales.pairs[p][g / 4];
                let first = _mm256_set1_epi16(0x0100 + (g as i16 % 4 * 4) * 0x0101);
                let second = _mm256_add_epi8(first, _mm256_set1_epi8(2));
                [
                    _mm256_shuffle_epi8(eight, first),
                    _mm256_shuffle_epi8(eight, second),
                ]
            }
        }

        /// Half a block: 64 bytes hold the low nibbles of groups 0 and 1 and, as their high
        /// nibbles, of 2 and 3; 32 bytes hold the upper two bits of groups 0 to 3.
        #[inline(always)]
        unsafe fn unpack(low: *const Self, high: *const Self, step: usize) -> [Pair; MAX_STEP] {
            // SAFETY: by the trait's contract; `step` is below 2.
            unsafe {
                let (first, second) = (half(low, high, step, 0), half(low, high, step, 1));
                std::array::from_fn(|j| [first[j], second[j]])
            }
        }
    }

    /// The 16 bytes of each half as i16: the first eight, the last.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn wide(bytes: __m256i) -> [__m256i; 2] {
        // SAFETY: by this function's contract.
        unsafe {
            let zero = _mm256_setzero_si256();
            [
                _mm256_srai_epi16::<8>(_mm256_unpacklo_epi8(zero, bytes)),
                _mm256_srai_epi16::<8>(_mm256_unpackhi_epi8(zero, bytes)),
            ]
        }
    }

    /// Values `16 i..16 i + 16` of the four groups.
    ///
    /// # Safety
    /// AVX2; the blocks are readable, `step` and `i` are below 2.
    #[inline(always)]
    unsafe fn half(
        low: *const BlockQ6K,
        high: *const BlockQ6K,
        step: usize,
        i: usize,
    ) -> [__m256i; 4] {
        // SAFETY: by this function's contract.
        unsafe {
            let low_l = addr_of!((*low).ql).cast::<__m128i>().add(step * 4 + i);
            let high_l = addr_of!((*high).ql).cast::<__m128i>().add(step * 4 + i);
            let low_h = addr_of!((*low).qh).cast::<__m128i>().add(step * 2 + i);
            let high_h = addr_of!((*high).qh).cast::<__m128i>().add(step * 2 + i);
            let [q0, q2] = nibbles(load_pair(low_l, high_l));
            let [q1, q3] = nibbles(load_pair(low_l.add(2), high_l.add(2)));
            let h = load_pair(low_h, high_h);
            let mask = _mm256_set1_epi8(0x30);
            let upper = [
                _mm256_and_si256(_mm256_slli_epi16::<4>(h), mask),
                _mm256_and_si256(_mm256_slli_epi16::<2>(h), mask),
                _mm256_and_si256(h, mask),
                _mm256_and_si256(_mm256_srli_epi16::<2>(h), mask),
            ];
            let ([a, b], [c, d]) = (
                or([q0, q1], [upper[0], upper[1]]),
                or([q2, q3], [upper[2], upper[3]]),
            );
            [a, b, c, d]
        }
    }
}
