//! Decode on x86: eight rows of weights as they lie, times one row of activations.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::Weights;
use super::avx2::{MAX_STEP, Pair, ROWS, Unpack, panel_rows};
use crate::cpu::activation::{GROUP, Rows};

/// How an instruction set multiplies bytes.
trait Multiply {
    /// Whether signed integers are made unsigned first, by adding 128.
    const UNSIGNED: bool;

    /// The products of half a group each, summed in fours or further: i32s whose sum over each
    /// 128 bits is a row's.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn pair<B: Unpack>(w: Pair, x: Pair) -> __m256i;

    /// The same times factors, one i16 for all of a half.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn pair_times<B: Unpack>(w: Pair, x: Pair, factors: Pair) -> __m256i;
}

/// What is to be subtracted from the integers, given whether signed ones are made unsigned.
pub(in crate::cpu) const fn offset<B: Unpack>(unsigned: bool) -> i16 {
    if B::CHAIN == 1 && unsigned {
        128
    } else {
        B::OFFSET
    }
}

/// AVX2: 16-bit sums first.
enum Avx2 {}

/// Sums of two products, i16. Neither overflows: `CHAIN` says so for unsigned integers, and two
/// products of signed ones are at most `2 * 128 * 127`.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(in crate::cpu) unsafe fn products<B: Unpack>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        if B::CHAIN == 1 {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        }
    }
}

impl Multiply for Avx2 {
    const UNSIGNED: bool = false;

    #[inline(always)]
    unsafe fn pair<B: Unpack>(w: Pair, x: Pair) -> __m256i {
        // SAFETY: by the trait's contract.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let (first, second) = (products::<B>(w[0], x[0]), products::<B>(w[1], x[1]));
            if B::CHAIN >= 2 {
                _mm256_madd_epi16(_mm256_add_epi16(first, second), ones)
            } else {
                let first = _mm256_madd_epi16(first, ones);
                _mm256_add_epi32(first, _mm256_madd_epi16(second, ones))
            }
        }
    }

    #[inline(always)]
    unsafe fn pair_times<B: Unpack>(w: Pair, x: Pair, factors: Pair) -> __m256i {
        // SAFETY: by the trait's contract.
        unsafe {
            let first = _mm256_madd_epi16(products::<B>(w[0], x[0]), factors[0]);
            let second = _mm256_madd_epi16(products::<B>(w[1], x[1]), factors[1]);
            _mm256_add_epi32(first, second)
        }
    }
}

/// Makes a [`Multiply`] of one encoding of `vpdpbusd` and its decode kernel.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $features:literal, $dot:ident, $dot16:ident, $decode:ident) => {
        $(#[$doc])*
        enum $name {}

        impl Multiply for $name {
            const UNSIGNED: bool = true;

            #[inline(always)]
            unsafe fn pair<B: Unpack>(w: Pair, x: Pair) -> __m256i {
                // SAFETY: by the trait's contract.
                unsafe {
                    let flip = _mm256_set1_epi8(if B::CHAIN == 1 { -128 } else { 0 });
                    let w = [_mm256_xor_si256(w[0], flip), _mm256_xor_si256(w[1], flip)];
                    $dot($dot(_mm256_setzero_si256(), w[0], x[0]), w[1], x[1])
                }
            }

            #[inline(always)]
            unsafe fn pair_times<B: Unpack>(w: Pair, x: Pair, factors: Pair) -> __m256i {
                // SAFETY: by the trait's contract.
                unsafe {
                    let first = products::<B>(w[0], x[0]);
                    let sum = $dot16(_mm256_setzero_si256(), first, factors[0]);
                    $dot16(sum, products::<B>(w[1], x[1]), factors[1])
                }
            }
        }

        /// Decode: every row of `w` times the one row of `x`.
        ///
        /// # Safety
        /// The instruction set; shapes as the table's type says; `x.n` is 1.
        #[target_feature(enable = $features)]
        pub(in crate::cpu) unsafe fn $decode<B: Unpack>(
            w: Weights<'_>,
            x: Rows<'_>,
            out: &mut [f32],
            _stride: usize,
        ) {
            // SAFETY: by this function's contract.
            unsafe { rows::<B, $name>(&w, &x, out) }
        }
    };
}

vnni! {
    /// AVX-VNNI.
    Vex, "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32, vex
}
vnni! {
    /// The same instructions as AVX-512 encodes them.
    Evex, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    _mm256_dpbusd_epi32, _mm256_dpwssd_epi32, evex
}

/// Decode on AVX2: every row of `w` times the one row of `x`.
///
/// # Safety
/// AVX2, FMA and F16C; shapes as the table's type says; `x.n` is 1.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn avx2<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { rows::<B, Avx2>(&w, &x, out) }
}

/// Every row of `w` times the one row of `x`.
///
/// # Safety
/// The instruction set of `M`, AVX2, FMA and F16C; shapes as the table's type says.
#[inline(always)]
unsafe fn rows<B: Unpack, M: Multiply>(w: &Weights<'_>, x: &Rows<'_>, out: &mut [f32]) {
    for (panel, out) in out[..w.rows].chunks_mut(ROWS).enumerate() {
        // SAFETY: by this function's contract; rows are clamped to those there are.
        unsafe {
            let rows = panel_rows::<B>(w, panel * ROWS);
            let sums = panel_dot::<B, M>(&rows, w.stride, x);
            let mut lanes = [0.0; ROWS];
            _mm256_storeu_ps(lanes.as_mut_ptr(), sums);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}

/// Eight rows times one row of activations.
///
/// # Safety
/// As [`rows`]; each of `rows` is as long as `x`.
#[inline(always)]
unsafe fn panel_dot<B: Unpack, M: Multiply>(
    rows: &[*const B; ROWS],
    stride: usize,
    x: &Rows<'_>,
) -> __m256 {
    let groups = B::LEN / GROUP;
    // SAFETY: by this function's contract: blocks below `x.groups / groups` and activations
    // below `x.groups` are read. Prefetching reads nothing.
    unsafe {
        let mut acc = _mm256_setzero_ps();
        for b in 0..x.groups / groups {
            let blocks: [*const B; ROWS] = std::array::from_fn(|i| rows[i].add(b));
            prefetch(rows[0], stride, b);
            let scales = B::scales(&blocks);
            for step in 0..groups / B::STEP {
                let at = b * groups + step * B::STEP;
                let sums = step_sums::<B, M>(&blocks, &scales, step, x, at);
                for (j, sums) in sums.iter().enumerate().take(B::STEP) {
                    let (g, at) = (step * B::STEP + j, at + j);
                    let mut sum = reduce(*sums);
                    let offset = const { offset::<B>(M::UNSIGNED) };
                    if offset != 0 {
                        let halves = load_halves(x, at);
                        let less = if B::FACTORS {
                            let sum = _mm256_madd_epi16(B::factors(&scales, g), halves);
                            _mm256_mullo_epi32(sum, _mm256_set1_epi32(offset.into()))
                        } else {
                            _mm256_madd_epi16(_mm256_set1_epi16(offset), halves)
                        };
                        sum = _mm256_sub_epi32(sum, less);
                    }
                    let x_scale = _mm256_broadcast_ss(x.scale.get_unchecked(at));
                    let scale = _mm256_mul_ps(B::scale(&scales, g), x_scale);
                    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc);
                    if B::HAS_MIN {
                        let x_sum = _mm256_broadcast_ss(x.scaled_sum.get_unchecked(at));
                        acc = _mm256_fnmadd_ps(B::min(&scales, g), x_sum, acc);
                    }
                }
            }
        }
        acc
    }
}

/// Asks for what the next eight rows need. Eight rows lie together, so their bytes are asked for
/// in one stream, as much for each block as one block takes of the eight.
///
/// # Safety
/// None needed: a prefetch may name any address.
#[inline(always)]
unsafe fn prefetch<B>(first: *const B, stride: usize, b: usize) {
    let bytes = ROWS * size_of::<B>();
    let next = first.cast::<i8>().wrapping_add(ROWS * stride + b * bytes);
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch does not read; the address may be anything.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line)) };
    }
}

/// The sums of a group's two halves, both packed as i16, in every lane.
///
/// # Safety
/// AVX2; `at` is below `x.halves.len()`.
#[inline(always)]
unsafe fn load_halves(x: &Rows<'_>, at: usize) -> __m256i {
    // SAFETY: by this function's contract; two i16 are one i32.
    unsafe { _mm256_set1_epi32(x.halves.as_ptr().add(at).cast::<i32>().read_unaligned()) }
}

/// The products of `STEP` groups of eight rows, partly summed: for each group and pair four i32
/// of either row.
///
/// # Safety
/// As [`rows`]; blocks and groups `at..at + STEP` of `x` are readable.
#[inline(always)]
unsafe fn step_sums<B: Unpack, M: Multiply>(
    blocks: &[*const B; ROWS],
    scales: &B::Scales,
    step: usize,
    x: &Rows<'_>,
    at: usize,
) -> [[__m256i; 4]; MAX_STEP] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; MAX_STEP];
        for p in 0..4 {
            let unpacked = B::unpack(blocks[p], blocks[p + 4], step);
            for j in 0..B::STEP {
                let q = x.q.as_ptr().add((at + j) * GROUP).cast::<__m128i>();
                let x = [
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(q)),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(q.add(1))),
                ];
                sums[j][p] = if B::FACTORS {
                    let factors = B::pair_factors(scales, p, step * B::STEP + j);
                    M::pair_times::<B>(unpacked[j], x, factors)
                } else {
                    M::pair::<B>(unpacked[j], x)
                };
            }
        }
        sums
    }
}

/// Four pairs' sums to the sums of eight rows. Horizontal adds would be six shuffles more.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn reduce(pairs: [__m256i; 4]) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let low = _mm256_add_epi32(
            _mm256_unpacklo_epi32(pairs[0], pairs[1]),
            _mm256_unpackhi_epi32(pairs[0], pairs[1]),
        );
        let high = _mm256_add_epi32(
            _mm256_unpacklo_epi32(pairs[2], pairs[3]),
            _mm256_unpackhi_epi32(pairs[2], pairs[3]),
        );
        _mm256_add_epi32(
            _mm256_unpacklo_epi64(low, high),
            _mm256_unpackhi_epi64(low, high),
        )
    }
}
