//! Decode on x86: panels of interleaved rows of weights times one row of activations.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::needless_range_loop)] // as in `gemm`

use std::arch::x86_64::*;

use super::unpack::{Quads, ROWS, Scales, Unpack, each_group};
use super::{Weights, pack};
use crate::cpu::activation::{GROUP, Rows};

/// How an instruction set multiplies bytes.
trait Multiply {
    /// Whether signed integers are made unsigned first, by adding 128.
    const UNSIGNED: bool;

    /// The products of eight rows' group, as [`offset`] and [`Scales::factors`] leave them, with
    /// eight quads of activations; of two sums the first is of both halves, or where the format
    /// has factors the first half's and the last's.
    ///
    /// # Safety
    /// The instruction set; eight i32s are readable.
    unsafe fn dot<B: Unpack>(w: &Quads, x: *const i32) -> [__m256i; 2];
}

/// What is to be subtracted from the integers, given whether signed ones are made unsigned.
pub(in crate::cpu) const fn offset<B: Unpack>(unsigned: bool) -> i16 {
    if B::CHAIN == 1 && unsigned {
        128
    } else {
        B::OFFSET
    }
}

/// The same four bytes of activations in every lane.
///
/// # Safety
/// AVX2; the `t`th i32 is readable.
#[inline(always)]
unsafe fn quad(x: *const i32, t: usize) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe { _mm256_set1_epi32(x.add(t).read_unaligned()) }
}

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

/// AVX2: 16-bit sums first.
enum Avx2 {}

impl Multiply for Avx2 {
    const UNSIGNED: bool = false;

    #[inline(always)]
    unsafe fn dot<B: Unpack>(w: &Quads, x: *const i32) -> [__m256i; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); 2];
            for chain in 0..GROUP / 4 / B::CHAIN {
                let mut short = _mm256_setzero_si256();
                for t in chain * B::CHAIN..(chain + 1) * B::CHAIN {
                    short = _mm256_add_epi16(short, products::<B>(w[t], quad(x, t)));
                }
                let sum = &mut sums[chain * B::CHAIN / 4 * B::FACTORS as usize];
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(short, ones));
            }
            sums
        }
    }
}

/// Makes a [`Multiply`] of one encoding of `vpdpbusd` and its decode kernel.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $features:literal, $dot:ident, $decode:ident) => {
        $(#[$doc])*
        enum $name {}

        impl Multiply for $name {
            const UNSIGNED: bool = true;

            #[inline(always)]
            unsafe fn dot<B: Unpack>(w: &Quads, x: *const i32) -> [__m256i; 2] {
                // SAFETY: by the trait's contract.
                unsafe {
                    let flip = _mm256_set1_epi8(if B::CHAIN == 1 { -128 } else { 0 });
                    // Two chains, since each instruction waits for the one before.
                    let mut sums = [_mm256_setzero_si256(); 2];
                    for t in 0..4 {
                        let (first, last) = (w[t], w[t + 4]);
                        sums[0] = $dot(sums[0], _mm256_xor_si256(first, flip), quad(x, t));
                        sums[1] = $dot(sums[1], _mm256_xor_si256(last, flip), quad(x, t + 4));
                    }
                    if !B::FACTORS {
                        sums[0] = _mm256_add_epi32(sums[0], sums[1]);
                    }
                    sums
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
    Vex, "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32, vex
}
vnni! {
    /// The same instruction as AVX-512 encodes it.
    Evex, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", _mm256_dpbusd_epi32, evex
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
    for (panel, out) in out[..w.rows].chunks_mut(pack::ROWS).enumerate() {
        // SAFETY: by this function's contract a panel is whole.
        unsafe {
            let sums = panel_dot::<B, M>(w.bytes.as_ptr().add(panel * pack::ROWS * w.stride), x);
            let mut lanes = [0.0; pack::ROWS];
            _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(lanes.as_mut_ptr().add(ROWS), sums[1]);
            match <&mut [f32; pack::ROWS]>::try_from(&mut *out) {
                Ok(out) => *out = lanes,
                Err(_) => out.copy_from_slice(&lanes[..out.len()]),
            }
        }
    }
}

/// How far ahead of the reads memory is asked for.
const AHEAD: usize = 8192;

/// Bytes of a panel's blocks.
const fn bytes<B: Unpack>() -> usize {
    pack::ROWS * size_of::<B>()
}

/// Groups of a block.
const fn groups<B: Unpack>() -> usize {
    B::LEN / GROUP
}

/// A panel times one row of activations; its two halves wait for each other's instructions, not
/// for their own.
///
/// # Safety
/// As [`rows`]; the panel is as long as `x`.
#[inline(always)]
unsafe fn panel_dot<B: Unpack, M: Multiply>(panel: *const u8, x: &Rows<'_>) -> [__m256; 2] {
    // SAFETY: by this function's contract: blocks and activations below `x.groups` are read.
    // Prefetching reads nothing.
    unsafe {
        let mut acc = [_mm256_setzero_ps(); 2];
        for b in 0..x.groups / groups::<B>() {
            let block = panel.add(b * bytes::<B>());
            let scales = [B::Scales::load(block, 0), B::Scales::load(block, 1)];
            each_group!(B::LEN, G => {
                // As many lines as a group has, spread over the groups: more at once would wait
                // for each other and hold up the reads.
                let first = const { (bytes::<B>() * G / groups::<B>()).div_ceil(64) };
                let end = const { (bytes::<B>() * (G + 1) / groups::<B>()).div_ceil(64) };
                for line in first..end {
                    _mm_prefetch::<_MM_HINT_T1>(block.wrapping_add(AHEAD + 64 * line).cast());
                }
                let at = b * groups::<B>() + G;
                acc[0] = group::<B, M, G>(block, 0, &scales[0], x, at, acc[0]);
                acc[1] = group::<B, M, G>(block, 1, &scales[1], x, at, acc[1]);
            });
        }
        acc
    }
}

/// Adds the products of group `G` of half `i` of a panel's blocks and group `at` of the activations to `acc`.
///
/// # Safety
/// As [`rows`]; `at` is below `x.groups`.
#[inline(always)]
unsafe fn group<B: Unpack, M: Multiply, const G: usize>(
    block: *const u8,
    i: usize,
    scales: &B::Scales,
    x: &Rows<'_>,
    at: usize,
    acc: __m256,
) -> __m256 {
    // SAFETY: by this function's contract; two i16 are one i32.
    unsafe {
        let q = x.q.as_ptr().add(at * GROUP).cast::<i32>();
        let halves = x.halves.as_ptr().add(at).cast::<i32>();
        let sums = M::dot::<B>(&B::unpack::<G>(block, i), q);
        let mut sum = sums[0];
        let offset = const { offset::<B>(M::UNSIGNED) };
        if B::FACTORS {
            let factors = scales.factors::<G>();
            let first = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(factors));
            let last = _mm256_srai_epi32::<16>(factors);
            sum = _mm256_add_epi32(
                _mm256_mullo_epi32(sums[0], first),
                _mm256_mullo_epi32(sums[1], last),
            );
            let less = _mm256_madd_epi16(factors, quad(halves, 0));
            let less = _mm256_mullo_epi32(less, _mm256_set1_epi32(offset.into()));
            sum = _mm256_sub_epi32(sum, less);
        } else if offset != 0 {
            let less = _mm256_madd_epi16(quad(halves, 0), _mm256_set1_epi16(offset));
            sum = _mm256_sub_epi32(sum, less);
        }
        let x_scale = _mm256_broadcast_ss(x.scale.get_unchecked(at));
        let scale = _mm256_mul_ps(scales.scale::<G>(), x_scale);
        let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc);
        if B::HAS_MIN {
            let x_sum = _mm256_broadcast_ss(x.scaled_sum.get_unchecked(at));
            _mm256_fnmadd_ps(scales.min::<G>(), x_sum, acc)
        } else {
            acc
        }
    }
}
