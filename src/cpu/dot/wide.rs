//! Registers of x86 with a row of weights in each i32: eight rows with AVX2, all 16 of a panel
//! with AVX-512. What takes the formats apart is written once over both.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::pack;

/// An integer register, a row an i32.
///
/// # Safety
/// All functions need the instruction set of the type (AVX2 with FMA and F16C; or AVX-512 F, BW,
/// DQ and VL besides), and that what they read or write is there, without any alignment.
pub(in crate::cpu) trait Wide: Copy {
    /// Rows of a register.
    const ROWS: usize = size_of::<Self>() / 4;
    /// Registers of a panel.
    const PARTS: usize = pack::ROWS / Self::ROWS;
    /// As many f32.
    type Floats: Copy;

    unsafe fn zero() -> Self;
    unsafe fn load(at: *const u8) -> Self;
    unsafe fn splat8(x: i8) -> Self;
    unsafe fn splat16(x: i16) -> Self;
    unsafe fn splat32(x: i32) -> Self;
    unsafe fn and(self, other: Self) -> Self;
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
    /// The lower 16 bits of each 32 from `self`, the upper from `upper`.
    unsafe fn blend16(self, upper: Self) -> Self;
    /// 16 in each byte whose fifth bit is set, those of quad `t` being bits `4 t..` of each i32.
    unsafe fn fifth_bits(self, t: usize) -> Self;

    unsafe fn zeros() -> Self::Floats;
    unsafe fn splat(x: f32) -> Self::Floats;
    /// f16 one after another.
    unsafe fn load_halfs(at: *const u8) -> Self::Floats;
    /// Pairs of f16: all firsts, all seconds.
    unsafe fn half_pairs(self) -> [Self::Floats; 2];
    unsafe fn to_floats(self) -> Self::Floats;
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `-a`.
    unsafe fn neg(a: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `-(a * b) + c`, rounded once.
    unsafe fn fnma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    unsafe fn store(x: Self::Floats, at: *mut f32);
}

/// For each byte of four i32s which byte of its i32 holds the fifth bits of quad `t`, and which bit
/// it is there.
const fn fifth_bits(t: usize) -> ([i32; 4], i32) {
    let byte = t as i32 / 2 * 0x0101_0101;
    let which = if t.is_multiple_of(2) {
        0x0804_0201
    } else {
        0x8040_2010_u32 as i32
    };
    let bytes = [
        byte,
        0x0404_0404 + byte,
        0x0808_0808 + byte,
        0x0c0c_0c0c + byte,
    ];
    (bytes, which)
}

/// Writes functions whose body needs no more than the trait's contract.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $t:ty),*) -> $to:ty = $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $t),*) -> $to {
            // SAFETY: by the trait's contract.
            unsafe { $body }
        }
    )*};
}

impl Wide for __m256i {
    type Floats = __m256;

    intrinsics! {
        zero() -> Self = _mm256_setzero_si256();
        load(at: *const u8) -> Self = _mm256_loadu_si256(at.cast());
        splat8(x: i8) -> Self = _mm256_set1_epi8(x);
        splat16(x: i16) -> Self = _mm256_set1_epi16(x);
        splat32(x: i32) -> Self = _mm256_set1_epi32(x);
        and(self: Self, other: Self) -> Self = _mm256_and_si256(self, other);
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
        blend16(self: Self, upper: Self) -> Self = _mm256_blend_epi16::<0b1010_1010>(self, upper);
        fifth_bits(self: Self, t: usize) -> Self = {
            let (bytes, which) = fifth_bits(t);
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let spread = _mm256_shuffle_epi8(self, _mm256_broadcastsi128_si256(bytes));
            let which = _mm256_set1_epi32(which);
            let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, which), which);
            _mm256_and_si256(is_set, _mm256_set1_epi8(16))
        };
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
        to_floats(self: Self) -> __m256 = _mm256_cvtepi32_ps(self);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        neg(a: __m256) -> __m256 = _mm256_xor_ps(a, _mm256_set1_ps(-0.0));
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fnma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps(a, b, c);
        store(x: __m256, at: *mut f32) -> () = _mm256_storeu_ps(at, x);
    }
}

impl Wide for __m512i {
    type Floats = __m512;

    intrinsics! {
        zero() -> Self = _mm512_setzero_si512();
        load(at: *const u8) -> Self = _mm512_loadu_si512(at.cast());
        splat8(x: i8) -> Self = _mm512_set1_epi8(x);
        splat16(x: i16) -> Self = _mm512_set1_epi16(x);
        splat32(x: i32) -> Self = _mm512_set1_epi32(x);
        and(self: Self, other: Self) -> Self = _mm512_and_si512(self, other);
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
        blend16(self: Self, upper: Self) -> Self =
            _mm512_mask_blend_epi16(0xaaaa_aaaa, self, upper);
        fifth_bits(self: Self, t: usize) -> Self = {
            let (bytes, which) = fifth_bits(t);
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let spread = _mm512_shuffle_epi8(self, _mm512_broadcast_i32x4(bytes));
            let is_set = _mm512_test_epi8_mask(spread, _mm512_set1_epi32(which));
            _mm512_maskz_mov_epi8(is_set, _mm512_set1_epi8(16))
        };
        half_pairs(self: Self) -> [__m512; 2] = [
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(self)),
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(self))),
        ];
        zeros() -> __m512 = _mm512_setzero_ps();
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        load_halfs(at: *const u8) -> __m512 = _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        to_floats(self: Self) -> __m512 = _mm512_cvtepi32_ps(self);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        neg(a: __m512) -> __m512 = _mm512_xor_ps(a, _mm512_set1_ps(-0.0));
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fnma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps(a, b, c);
        store(x: __m512, at: *mut f32) -> () = _mm512_storeu_ps(at, x);
    }
}
