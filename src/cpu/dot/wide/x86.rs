//! The registers of x86.

use std::arch::x86_64::*;

use super::{Wide, fifth_bits, intrinsics};

/// More of what the registers of x86 do, under the contract of [`Wide`].
pub(in crate::cpu) trait Ints: Wide {
    unsafe fn zero() -> Self;
    unsafe fn splat16(x: i16) -> Self;
    unsafe fn splat32(x: i32) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn add32(self, other: Self) -> Self;
    unsafe fn sub32(self, other: Self) -> Self;
    unsafe fn mul32(self, other: Self) -> Self;
    /// Products of i16, added in pairs.
    unsafe fn madd16(self, other: Self) -> Self;
    /// Each 16 bits shifted to the left by `n`, or to the right if that is negative; zeros come in.
    unsafe fn shift16(self, n: i32) -> Self;
    /// Each 32 bits, likewise.
    unsafe fn shift32(self, n: i32) -> Self;
    /// Each i16 or i32 shifted down with its sign.
    unsafe fn down16(self, n: i32) -> Self;
    unsafe fn down32(self, n: i32) -> Self;
    /// 16 in each byte whose fifth bit is set; see [`Wide::nibbles_below_fifth`].
    unsafe fn fifth_bits(self, t: usize) -> Self;
    /// Byte `i` of each i32, unsigned.
    unsafe fn pick_byte(self, i: usize) -> Self;
    /// Byte `i` of each i32, signed, as both of two i16.
    unsafe fn both16(self, i: usize) -> Self;
    /// Byte `i` of each i32, signed.
    #[inline(always)]
    unsafe fn signed_byte(self, i: usize) -> Self {
        // SAFETY: by the trait's contract.
        unsafe { self.shift32(24 - 8 * i as i32).down32(24) }
    }
    unsafe fn to_floats(self) -> Self::Floats;
}

/// Which of 16 bytes each becomes so that byte `i` of each i32 is the lowest of every `size` bytes
/// there, moved up by `up`; or -1 for 0.
const fn picks(i: usize, size: usize, up: usize) -> [i8; 16] {
    let mut from = [-1; 16];
    let mut at = 0;
    while at < 16 {
        from[at + up] = (at / 4 * 4 + i) as i8;
        at += size;
    }
    from
}

/// Writes those functions of [`Wide`] that are made of [`Ints`].
macro_rules! of_ints {
    () => {
        intrinsics! {
            nibbles(self: Self, high: bool) -> Self = {
                let shifted = if high { self.shift16(-4) } else { self };
                shifted.and(Self::splat8(15))
            };
            nibbles_below(self: Self, high: bool, bits: Self, at: usize, n: usize) -> Self = {
                // Which bits come in from the side is masked.
                let bits = bits.shift16(4 - at as i32);
                self.nibbles(high).or(bits.and(Self::splat8(((1 << n) - 1) << 4)))
            };
            nibbles_below_fifth(self: Self, high: bool, bits: Self, t: usize) -> Self =
                self.nibbles(high).or(bits.fifth_bits(t));
            tops(low: Self, mid: Self, high: Self) -> Self = {
                let low = low.shift16(-6).and(Self::splat8(3));
                let mid = mid.shift16(-4).and(Self::splat8(3 << 2));
                low.or(mid).or(high.shift16(-2).and(Self::splat8(3 << 4)))
            };
            byte(self: Self, i: usize) -> Self::Floats = {
                // Of the first and the last byte one operation of any kind is enough.
                let byte = match i {
                    0 => self.and(Self::splat32(255)),
                    3 => self.shift32(-24),
                    _ => self.pick_byte(i),
                };
                byte.to_floats()
            };
        }
    };
}

impl Wide for __m256i {
    type Floats = __m256;

    of_ints!();
    intrinsics! {
        load(at: *const u8) -> Self = _mm256_loadu_si256(at.cast());
        splat8(x: i8) -> Self = _mm256_set1_epi8(x);
        and(self: Self, other: Self) -> Self = _mm256_and_si256(self, other);
        half_pairs(self: Self) -> [__m256; 2] = {
            let first = _mm256_and_si256(self, _mm256_set1_epi32(0xffff));
            let second = _mm256_srli_epi32::<16>(self);
            let packed = _mm256_packus_epi32(first, second);
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            [
                _mm256_cvtph_ps(_mm256_castsi256_si128(packed)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed)),
            ]
        };
        zeros() -> __m256 = _mm256_setzero_ps();
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        load_halfs(at: *const u8) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        neg(a: __m256) -> __m256 = _mm256_xor_ps(a, _mm256_set1_ps(-0.0));
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fnma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps(a, b, c);
        store(x: __m256, at: *mut f32) -> () = _mm256_storeu_ps(at, x);
    }
}

impl Ints for __m256i {
    intrinsics! {
        zero() -> Self = _mm256_setzero_si256();
        splat16(x: i16) -> Self = _mm256_set1_epi16(x);
        splat32(x: i32) -> Self = _mm256_set1_epi32(x);
        or(self: Self, other: Self) -> Self = _mm256_or_si256(self, other);
        xor(self: Self, other: Self) -> Self = _mm256_xor_si256(self, other);
        add32(self: Self, other: Self) -> Self = _mm256_add_epi32(self, other);
        sub32(self: Self, other: Self) -> Self = _mm256_sub_epi32(self, other);
        mul32(self: Self, other: Self) -> Self = _mm256_mullo_epi32(self, other);
        madd16(self: Self, other: Self) -> Self = _mm256_madd_epi16(self, other);
        shift16(self: Self, n: i32) -> Self = if n >= 0 {
            _mm256_sll_epi16(self, _mm_cvtsi32_si128(n))
        } else {
            _mm256_srl_epi16(self, _mm_cvtsi32_si128(-n))
        };
        shift32(self: Self, n: i32) -> Self = if n >= 0 {
            _mm256_sll_epi32(self, _mm_cvtsi32_si128(n))
        } else {
            _mm256_srl_epi32(self, _mm_cvtsi32_si128(-n))
        };
        down16(self: Self, n: i32) -> Self = _mm256_sra_epi16(self, _mm_cvtsi32_si128(n));
        down32(self: Self, n: i32) -> Self = _mm256_sra_epi32(self, _mm_cvtsi32_si128(n));
        fifth_bits(self: Self, t: usize) -> Self = {
            let (bytes, which) = fifth_bits(t);
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let spread = _mm256_shuffle_epi8(self, _mm256_broadcastsi128_si256(bytes));
            let which = _mm256_set1_epi32(which);
            let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, which), which);
            _mm256_and_si256(is_set, _mm256_set1_epi8(16))
        };
        pick_byte(self: Self, i: usize) -> Self = {
            let from = _mm_loadu_si128(picks(i, 4, 0).as_ptr().cast());
            _mm256_shuffle_epi8(self, _mm256_broadcastsi128_si256(from))
        };
        both16(self: Self, i: usize) -> Self = {
            let from = _mm_loadu_si128(picks(i, 2, 1).as_ptr().cast());
            _mm256_shuffle_epi8(self, _mm256_broadcastsi128_si256(from)).down16(8)
        };
        to_floats(self: Self) -> __m256 = _mm256_cvtepi32_ps(self);
    }
}

impl Wide for __m512i {
    type Floats = __m512;

    of_ints!();
    intrinsics! {
        load(at: *const u8) -> Self = _mm512_loadu_si512(at.cast());
        splat8(x: i8) -> Self = _mm512_set1_epi8(x);
        and(self: Self, other: Self) -> Self = _mm512_and_si512(self, other);
        half_pairs(self: Self) -> [__m512; 2] = [
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(self)),
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(self))),
        ];
        zeros() -> __m512 = _mm512_setzero_ps();
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        load_halfs(at: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        neg(a: __m512) -> __m512 = _mm512_xor_ps(a, _mm512_set1_ps(-0.0));
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fnma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps(a, b, c);
        store(x: __m512, at: *mut f32) -> () = _mm512_storeu_ps(at, x);
    }
}

impl Ints for __m512i {
    intrinsics! {
        zero() -> Self = _mm512_setzero_si512();
        splat16(x: i16) -> Self = _mm512_set1_epi16(x);
        splat32(x: i32) -> Self = _mm512_set1_epi32(x);
        or(self: Self, other: Self) -> Self = _mm512_or_si512(self, other);
        xor(self: Self, other: Self) -> Self = _mm512_xor_si512(self, other);
        add32(self: Self, other: Self) -> Self = _mm512_add_epi32(self, other);
        sub32(self: Self, other: Self) -> Self = _mm512_sub_epi32(self, other);
        mul32(self: Self, other: Self) -> Self = _mm512_mullo_epi32(self, other);
        madd16(self: Self, other: Self) -> Self = _mm512_madd_epi16(self, other);
        shift16(self: Self, n: i32) -> Self = if n >= 0 {
            _mm512_sll_epi16(self, _mm_cvtsi32_si128(n))
        } else {
            _mm512_srl_epi16(self, _mm_cvtsi32_si128(-n))
        };
        shift32(self: Self, n: i32) -> Self = if n >= 0 {
            _mm512_sll_epi32(self, _mm_cvtsi32_si128(n))
        } else {
            _mm512_srl_epi32(self, _mm_cvtsi32_si128(-n))
        };
        down16(self: Self, n: i32) -> Self = _mm512_sra_epi16(self, _mm_cvtsi32_si128(n));
        down32(self: Self, n: i32) -> Self = _mm512_sra_epi32(self, _mm_cvtsi32_si128(n));
        fifth_bits(self: Self, t: usize) -> Self = {
            let (bytes, which) = fifth_bits(t);
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let spread = _mm512_shuffle_epi8(self, _mm512_broadcast_i32x4(bytes));
            let is_set = _mm512_test_epi8_mask(spread, _mm512_set1_epi32(which));
            _mm512_maskz_mov_epi8(is_set, _mm512_set1_epi8(16))
        };
        pick_byte(self: Self, i: usize) -> Self = {
            let from = _mm_loadu_si128(picks(i, 4, 0).as_ptr().cast());
            _mm512_shuffle_epi8(self, _mm512_broadcast_i32x4(from))
        };
        both16(self: Self, i: usize) -> Self = {
            let from = _mm_loadu_si128(picks(i, 2, 1).as_ptr().cast());
            _mm512_shuffle_epi8(self, _mm512_broadcast_i32x4(from)).down16(8)
        };
        to_floats(self: Self) -> __m512 = _mm512_cvtepi32_ps(self);
    }
}
