//! Q6_K's search for the groups' scales, which is nearly all of the time that the format takes.
//!
//! As [`k::fit_scale`], one group a lane, but with several ranges tried at once, so that the sums
//! of one need not wait for those before; and with integers kept as floats. The same sums in the
//! same order, so the same bits.

use std::arch::x86_64::*;

use super::super::super::BlockQ6K;
use super::super::super::k::{self, SCALE_STEPS, SMALL_GROUP, SMALL_GROUPS, ScaleFit};

/// Ranges that are tried at once; 2 sums of each in registers.
const AT_ONCE: usize = 4;

/// Beyond this (2^32), sums of third powers might overflow; and a NaN is not below it.
const LIMIT: f32 = 4294967296.0;

/// Values of one group that are moved to rows at a time.
const QUAD: usize = 4;

/// The search for as many groups as a register has lanes. `x` begins with the first of them.
/// `None` where a value is beyond [`LIMIT`].
macro_rules! fit {
    ($features:literal) => {
        /// `[position]`, a group in each lane.
        #[inline]
        #[target_feature(enable = $features)]
        fn interleave(x: &[f32; LANES * SMALL_GROUP]) -> [V; SMALL_GROUP] {
            let mut rows = [zero(); SMALL_GROUP];
            for (first, rows) in rows.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
                let at = first * QUAD;
                let (a, b) = (every_fourth(x, 0, at), every_fourth(x, 1, at));
                let (c, d) = (every_fourth(x, 2, at), every_fourth(x, 3, at));
                let (ab, cd) = (unpack_low(a, b), unpack_low(c, d));
                (rows[0], rows[1]) = (low_pairs(ab, cd), high_pairs(ab, cd));
                let (ab, cd) = (unpack_high(a, b), unpack_high(c, d));
                (rows[2], rows[3]) = (low_pairs(ab, cd), high_pairs(ab, cd));
            }
            rows
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn fit(x: &[f32; LANES * SMALL_GROUP]) -> Option<[[f32; LANES]; 3]> {
            let x = interleave(x);
            let (mut magnitude, mut peak) = (zero(), zero());
            let mut within = all();
            for &x in &x {
                let this = abs(x);
                within = and(within, not_above(this, set1(LIMIT)));
                let greater = above(this, magnitude);
                magnitude = select(greater, this, magnitude);
                peak = select(greater, x, peak);
            }
            if !is_all(within) {
                return None;
            }
            // Loops, since closures do not become part of functions with other features.
            let (mut weight, mut cube) = (x, x);
            for (weight, cube) in weight.iter_mut().zip(&mut cube) {
                let x = *weight;
                *weight = mul(x, x);
                *cube = mul(*weight, x);
            }
            let half = k::HALF as f32;
            let (least, greatest) = (set1(-half), set1(half - 1.0));

            let mut best_inverse = zero();
            let (mut scale, mut best) = (zero(), zero());
            for first in (0..SCALE_STEPS.len()).step_by(AT_ONCE) {
                let (mut steps, mut inverse) = ([0; AT_ONCE], [zero(); AT_ONCE]);
                for s in 0..AT_ONCE {
                    // The last is tried twice, which changes nothing.
                    steps[s] = SCALE_STEPS[(first + s).min(SCALE_STEPS.len() - 1)];
                    let range = half + 0.1 * f32::from(steps[s]);
                    inverse[s] = div(set1(-range), peak);
                }
                let (mut sum_qx, mut sum_q2) = ([zero(); AT_ONCE], [zero(); AT_ONCE]);
                for ((&x, &w), &wx) in x.iter().zip(&weight).zip(&cube) {
                    for s in 0..AT_ONCE {
                        // No product's magnitude is above 33 but where a group counts as zeros.
                        let q = round(mul(x, inverse[s]));
                        let q = min(max(q, least), greatest);
                        sum_qx[s] = add(sum_qx[s], mul(wx, q));
                        sum_q2[s] = add(sum_q2[s], mul(mul(w, q), q));
                    }
                }
                for s in 0..AT_ONCE {
                    let (sum_qx, sum_q2) = (sum_qx[s], sum_q2[s]);
                    let is_better = match steps[s] {
                        0 => all(),
                        _ => and(
                            above(sum_q2, zero()),
                            above(mul(sum_qx, sum_qx), mul(best, sum_q2)),
                        ),
                    };
                    let ratio = div(sum_qx, sum_q2);
                    let this_scale = select(differs(sum_q2, zero()), ratio, zero());
                    scale = select(is_better, this_scale, scale);
                    best = select(is_better, mul(this_scale, sum_qx), best);
                    best_inverse = select(is_better, inverse[s], best_inverse);
                }
            }
            let is_there = not_above(set1(k::TINY), magnitude);
            scale = select(is_there, scale, zero());
            Some([stored(scale), stored(best_inverse), stored(magnitude)])
        }
    };
}

/// AVX2: 8 groups a time.
mod narrow {
    use super::*;
    use std::arch::x86_64::{
        _mm256_add_ps as add, _mm256_and_ps as and, _mm256_div_ps as div, _mm256_max_ps as max,
        _mm256_min_ps as min, _mm256_mul_ps as mul, _mm256_set1_ps as set1,
        _mm256_setzero_ps as zero, _mm256_unpackhi_ps as unpack_high,
        _mm256_unpacklo_ps as unpack_low,
    };

    type V = __m256;
    const LANES: usize = 8;

    /// Four values from `at` on of groups `group` and `group + 4`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn every_fourth(x: &[f32; LANES * SMALL_GROUP], group: usize, at: usize) -> V {
        let quad = |group: usize| {
            let quad = &x[group * SMALL_GROUP + at..][..QUAD];
            // SAFETY: 16 bytes are read, which `quad` has; no alignment is needed.
            unsafe { _mm_loadu_ps(quad.as_ptr()) }
        };
        _mm256_set_m128(quad(group + 4), quad(group))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn low_pairs(a: V, b: V) -> V {
        let pairs = _mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b));
        _mm256_castpd_ps(pairs)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn high_pairs(a: V, b: V) -> V {
        let pairs = _mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b));
        _mm256_castpd_ps(pairs)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn abs(x: V) -> V {
        _mm256_andnot_ps(set1(-0.0), x)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn round(x: V) -> V {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn above(a: V, b: V) -> V {
        _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn not_above(a: V, b: V) -> V {
        _mm256_cmp_ps::<_CMP_LE_OQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn differs(a: V, b: V) -> V {
        _mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn select(is: V, yes: V, no: V) -> V {
        _mm256_blendv_ps(no, yes, is)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn all() -> V {
        _mm256_castsi256_ps(_mm256_set1_epi32(-1))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn is_all(is: V) -> bool {
        _mm256_movemask_ps(is) == 0xff
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn stored(x: V) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: 32 bytes are written, which `out` has; no alignment is needed.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
        out
    }

    fit!("avx2");

    /// As [`k::fit_scale`].
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn fit_scale(x: &[f32; k::LEN]) -> Option<ScaleFit> {
        let (halves, _) = x.as_chunks();
        let [low, high] = [fit(halves.first()?)?, fit(halves.last()?)?];
        let [scale, inverse, magnitude] = std::array::from_fn(|i| {
            let mut both = [0.0; SMALL_GROUPS];
            both[..LANES].copy_from_slice(&low[i]);
            both[LANES..].copy_from_slice(&high[i]);
            both
        });
        Some(ScaleFit {
            scale,
            inverse,
            magnitude,
        })
    }
}

/// AVX-512: all groups at once.
mod wide {
    use super::*;
    use std::arch::x86_64::{
        _mm512_abs_ps as abs, _mm512_add_ps as add, _mm512_div_ps as div, _mm512_max_ps as max,
        _mm512_min_ps as min, _mm512_mul_ps as mul, _mm512_set1_ps as set1,
        _mm512_setzero_ps as zero, _mm512_unpackhi_ps as unpack_high,
        _mm512_unpacklo_ps as unpack_low,
    };

    type V = __m512;
    const LANES: usize = 16;

    /// Four values from `at` on of every fourth group from `group` on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn every_fourth(x: &[f32; LANES * SMALL_GROUP], group: usize, at: usize) -> V {
        let quad = |group: usize| {
            let quad = &x[group * SMALL_GROUP + at..][..QUAD];
            // SAFETY: 16 bytes are read, which `quad` has; no alignment is needed.
            unsafe { _mm_loadu_ps(quad.as_ptr()) }
        };
        let all = _mm512_castps128_ps512(quad(group));
        let all = _mm512_insertf32x4::<1>(all, quad(group + 4));
        let all = _mm512_insertf32x4::<2>(all, quad(group + 8));
        _mm512_insertf32x4::<3>(all, quad(group + 12))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn low_pairs(a: V, b: V) -> V {
        let pairs = _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(pairs)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn high_pairs(a: V, b: V) -> V {
        let pairs = _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_castpd_ps(pairs)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn round(x: V) -> V {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn above(a: V, b: V) -> __mmask16 {
        _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn not_above(a: V, b: V) -> __mmask16 {
        _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn differs(a: V, b: V) -> __mmask16 {
        _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn select(is: __mmask16, yes: V, no: V) -> V {
        _mm512_mask_blend_ps(is, no, yes)
    }

    fn and(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    fn all() -> __mmask16 {
        __mmask16::MAX
    }

    fn is_all(is: __mmask16) -> bool {
        is == all()
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn stored(x: V) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: 64 bytes are written, which `out` has; no alignment is needed.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
        out
    }

    fit!("avx512f");

    /// As [`k::fit_scale`].
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn fit_scale(x: &[f32; k::LEN]) -> Option<ScaleFit> {
        let [scale, inverse, magnitude] = fit(x)?;
        Some(ScaleFit {
            scale,
            inverse,
            magnitude,
        })
    }
}

/// As [`Block::quantize`](super::Block::quantize).
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn avx2(x: &[f32; k::LEN]) -> BlockQ6K {
    let fit = narrow::fit_scale(x);
    BlockQ6K::of_fit(x, &fit.unwrap_or_else(|| k::fit_scale(x)))
}

/// As [`Block::quantize`](super::Block::quantize).
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn avx512(x: &[f32; k::LEN]) -> BlockQ6K {
    let fit = wide::fit_scale(x);
    BlockQ6K::of_fit(x, &fit.unwrap_or_else(|| k::fit_scale(x)))
}
