//! AVX2 and AVX-512.

mod q6_k;

use std::arch::x86_64::*;

use super::super::legacy;
use super::super::{Block, BlockQ4_0, BlockQ6K, BlockQ8_0, Format, Half};

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn quantize_avx2<B: Block>(src: &[f32], dst: &mut [B]) {
    match B::FORMAT {
        Format::Q4_0 => {
            let dst: &mut [BlockQ4_0] = bytemuck::cast_slice_mut(dst);
            for (x, block) in src.as_chunks::<{ legacy::LEN }>().0.iter().zip(dst) {
                *block = q4_0(x);
            }
        }
        Format::Q8_0 => {
            let dst: &mut [BlockQ8_0] = bytemuck::cast_slice_mut(dst);
            for (x, block) in src.as_chunks::<{ legacy::LEN }>().0.iter().zip(dst) {
                *block = q8_0(x);
            }
        }
        Format::Q6_K => {
            let dst: &mut [BlockQ6K] = bytemuck::cast_slice_mut(dst);
            for (x, block) in src.as_chunks().0.iter().zip(dst) {
                *block = q6_k::avx2(x);
            }
        }
        _ => B::quantize_all(src, dst),
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn quantize_avx512<B: Block>(src: &[f32], dst: &mut [B]) {
    match B::FORMAT {
        // Written out for AVX2, whose features are among these.
        // SAFETY: the caller vouches for them.
        Format::Q4_0 | Format::Q8_0 => unsafe { quantize_avx2(src, dst) },
        Format::Q6_K => {
            let dst: &mut [BlockQ6K] = bytemuck::cast_slice_mut(dst);
            for (x, block) in src.as_chunks().0.iter().zip(dst) {
                *block = q6_k::avx512(x);
            }
        }
        _ => B::quantize_all(src, dst),
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn f16_to_f32(halves: &[[u8; 2]], out: &mut [f32]) {
    let (eights, rest) = halves.as_chunks::<8>();
    let (out_eights, out_rest) = out.as_chunks_mut::<8>();
    for (halves, out) in eights.iter().zip(out_eights) {
        // SAFETY: 16 bytes are read and 32 written, which the arrays have; neither needs
        // alignment.
        unsafe {
            let halves = _mm_loadu_si128(halves.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
    }
    for (out, &half) in out_rest.iter_mut().zip(rest) {
        *out = half::f16::from_le_bytes(half).to_f32();
    }
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn all_within(values: &[f32], limit: f32) -> bool {
    super::all_within_any(values, limit)
}

/// The values of a block.
#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; legacy::LEN]) -> [__m256; 4] {
    // SAFETY: 32 bytes of each of the four parts of 8 values; no alignment is needed.
    std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x[i * 8..i * 8 + 8].as_ptr()) })
}

/// The low bytes of a block's integers, in order.
#[inline]
#[target_feature(enable = "avx2")]
fn low_bytes(q: [__m256i; 4]) -> __m256i {
    let byte = _mm256_set1_epi32(0xff);
    let [a, b, c, d] = q.map(|q| _mm256_and_si256(q, byte));
    // Each packing works on the two halves of a register apart.
    let packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// A scale, which is no NaN.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half(d: f32) -> Half {
    let bits = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(d));
    Half((_mm_cvtsi128_si32(bits) as u16).to_le_bytes())
}

/// As [`Block::quantize`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q4_0(values: &[f32; legacy::LEN]) -> BlockQ4_0 {
    let x = load(values);
    // Of two operands the second comes out where one is a NaN: the one without.
    let zero = _mm256_setzero_ps();
    let max = x.iter().fold(zero, |max, &x| _mm256_max_ps(x, max));
    let min = x.iter().fold(zero, |min, &x| _mm256_min_ps(x, min));
    // max and -min side by side from here on.
    let low = _mm256_sub_ps(zero, min);
    let max = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps::<1>(max));
    let low = _mm_max_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps::<1>(low));
    let both = _mm_max_ps(_mm_unpacklo_ps(max, low), _mm_unpackhi_ps(max, low));
    let both = _mm_max_ps(both, _mm_movehl_ps(both, both));
    let (max, low) = (_mm_cvtss_f32(both), _mm_cvtss_f32(_mm_movehdup_ps(both)));
    if max == low {
        // The first of two values, or zeros: rare.
        return BlockQ4_0::quantize(values);
    }
    let peak = if max > low { max } else { -low };
    let d = peak / -8.0;
    let inverse = _mm256_set1_ps(legacy::inverse(d));
    let offset = _mm256_set1_ps(8.5);
    let q = low_bytes(x.map(|x| {
        // What does not fit becomes -2^31, as `legacy::truncate` has it.
        _mm256_cvttps_epi32(_mm256_add_ps(_mm256_mul_ps(x, inverse), offset))
    }));
    let q = _mm256_and_si256(
        _mm256_min_epi8(q, _mm256_set1_epi8(15)),
        _mm256_set1_epi8(15),
    );
    let (below, above) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
    let nibbles = _mm_or_si128(below, _mm_slli_epi16::<4>(above));
    let mut qs = [0; legacy::LEN / 2];
    // SAFETY: 16 bytes are written, which `qs` has; no alignment is needed.
    unsafe { _mm_storeu_si128(qs.as_mut_ptr().cast(), nibbles) };
    BlockQ4_0 { d: half(d), qs }
}

/// The float next to a half towards zero. What it is added to and then cut is rounded to the
/// nearest integer, halves away from zero: a half itself comes to exactly 1.
const ALMOST_HALF: f32 = 0.5f32.next_down();

/// As [`Block::quantize`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q8_0(values: &[f32; legacy::LEN]) -> BlockQ8_0 {
    let x = load(values);
    // Magnitudes of floats are in order of their bits.
    let sign = _mm256_set1_ps(-0.0);
    let [a, b, c, d] = x.map(|x| _mm256_castps_si256(_mm256_andnot_ps(sign, x)));
    let greatest = _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d));
    let greatest = _mm_max_epi32(
        _mm256_castsi256_si128(greatest),
        _mm256_extracti128_si256::<1>(greatest),
    );
    let greatest = _mm_max_epi32(greatest, _mm_unpackhi_epi64(greatest, greatest));
    let greatest = _mm_max_epi32(greatest, _mm_shuffle_epi32::<1>(greatest));
    let magnitude = f32::from_bits(_mm_cvtsi128_si32(greatest) as u32);
    let d = magnitude / 127.0;
    let inverse = legacy::inverse(d);
    if !(magnitude.is_finite() && inverse.is_finite()) {
        return BlockQ8_0::quantize(values);
    }
    // All products are within 127.5 now: one step of a scale that is no smaller than 2^-128
    // changes a quotient of 127 by less than 2^-13.
    let inverse = _mm256_set1_ps(inverse);
    let almost_half = _mm256_set1_ps(ALMOST_HALF);
    let q = low_bytes(x.map(|x| {
        let x = _mm256_mul_ps(x, inverse);
        let away = _mm256_or_ps(_mm256_and_ps(x, sign), almost_half);
        _mm256_cvttps_epi32(_mm256_add_ps(x, away))
    }));
    let mut qs = [0; legacy::LEN];
    // SAFETY: 32 bytes are written, which `qs` has; no alignment is needed.
    unsafe { _mm256_storeu_si256(qs.as_mut_ptr().cast(), q) };
    BlockQ8_0 { d: half(d), qs }
}
