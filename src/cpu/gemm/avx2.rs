//! Prefill on AVX2: products of bytes are summed in 16 bits as long as they fit (`vpmaddubsw`), then
//! in 32. That takes unsigned weights; signed ones are widened to 16 bits first, which costs four
//! instructions a step where taking signs apart costs six. A tile is the two registers of a panel's
//! rows times up to four rows of activations, whose 16-bit sums fit the registers.

use std::arch::x86_64::*;

use super::panel::{Tile, WIDE, run};
use super::x86::{Group, Kernel, ROWS, chain, spread, words};
use crate::cpu::activation::Rows;
use crate::cpu::dot::Weights;
use crate::cpu::dot::decode::x86::twice;
use crate::cpu::dot::step::{first, first_from, first_wide, next, next_wide};
use crate::cpu::dot::unpack::{STEPS, Unpack, unroll};

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// AVX2, FMA and F16C; shapes as the table's type says.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn prefill<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { run::<B, Avx2>(&w, &x, out, stride) }
}

/// The microkernel.
enum Avx2 {}

impl Kernel for Avx2 {
    type V = __m256i;
    const UNSIGNED: bool = false;
    const SHORT: bool = true;

    #[inline(always)]
    unsafe fn tile<B: Unpack>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize {
        // SAFETY: by the trait's contract; as many rows of activations are left.
        unsafe {
            match x.n - to.n {
                1 => add::<B, 1>(panel, x, to),
                2 => add::<B, 2>(panel, x, to),
                3 | 5 | 6 => add::<B, 3>(panel, x, to),
                _ => add::<B, 4>(panel, x, to),
            }
        }
    }
}

/// Adds the panel's products with `N` rows of activations to the output.
///
/// # Safety
/// AVX2, FMA and F16C; `x` has these rows and the panel's groups.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add<B: Unpack, const N: usize>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize {
    // SAFETY: by this function's contract; `c` is below `N`, `g` below the panel's groups, which
    // are at most `DEPTH`.
    unsafe {
        let spread = const { spread::<B, Avx2>() };
        let words = const { words::<B, Avx2>() };
        let at = to.n * x.groups + to.first;
        let (x_scale, x_sum) = (x.scale.as_ptr().add(at), x.scaled_sum.as_ptr().add(at));
        let mut lanes: [[f32; WIDE]; N] = to.load();
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for c in 0..N {
            for i in 0..2 {
                acc[c][i] = _mm256_loadu_ps(lanes[c].as_ptr().add(i * ROWS));
            }
        }
        for (g, parts) in panel.chunks_exact(spread).enumerate() {
            let (group, q) = (&parts[0], to.q.add(g * words));
            let sums = if B::CHAIN == 1 {
                signed_sums(parts, q, to.q_stride)
            } else {
                group_sums::<B, N>(group, q, to.q_stride)
            };
            for c in 0..N {
                let x_scale = _mm256_broadcast_ss(&*x_scale.add(c * x.groups + g));
                for i in 0..2 {
                    let by = _mm256_mul_ps(group.scale[i], x_scale);
                    acc[c][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[c][i]), by, acc[c][i]);
                }
                if B::HAS_MIN {
                    let x_sum = _mm256_broadcast_ss(&*x_sum.add(c * x.groups + g));
                    for i in 0..2 {
                        acc[c][i] = _mm256_fnmadd_ps(group.min[i], x_sum, acc[c][i]);
                    }
                }
            }
        }
        for c in 0..N {
            for i in 0..2 {
                _mm256_storeu_ps(lanes[c].as_mut_ptr().add(i * ROWS), acc[c][i]);
            }
        }
        to.store(&lanes);
        N
    }
}

/// The integer products of a widened group with `N` rows of activations, whose i32s lie `stride`
/// apart.
///
/// # Safety
/// AVX2; these are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn signed_sums<const N: usize>(
    parts: &[Group],
    q: *const i32,
    stride: usize,
) -> [[__m256i; 2]; N] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        unroll!(2, P => {
            unroll!(STEPS, T => {
                const AT: usize = P * STEPS + T;
                for c in 0..N {
                    let (w, x) = (parts[P].q[T], q.add(c * stride));
                    if AT == 0 {
                        sums[c] = first_wide::<AT>(w, x);
                    } else {
                        next_wide::<AT>(&mut sums[c], w, x);
                    }
                }
            });
        });
        sums
    }
}

/// The integer products of a group of unsigned integers with `N` rows of activations, whose i32s
/// lie `stride` apart.
///
/// # Safety
/// AVX2; these are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_sums<B: Unpack, const N: usize>(
    group: &Group,
    q: *const i32,
    stride: usize,
) -> [[__m256i; 2]; N] {
    // SAFETY: by this function's contract.
    unsafe {
        let chain = const { chain::<B>() };
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        let mut short = sums;
        unroll!(STEPS, T => {
            const START: usize = STEPS + T / 4;
            let w = group.q[T];
            for c in 0..N {
                let x = q.add(c * stride);
                if T % chain != 0 {
                    next::<T>(&mut short[c], w, x);
                } else if B::OFFSET == 0 {
                    short[c] = first::<T>(w, x);
                } else {
                    short[c] = first_from::<START, T>(w, x);
                }
            }
            if T % chain == chain - 1 {
                // What the sums are multiplied by on their way to 32 bits.
                let mut by = [_mm256_set1_epi16(1); 2];
                if B::FACTORS {
                    by = [twice(group.factors[0])[T / 4], twice(group.factors[1])[T / 4]];
                }
                for c in 0..N {
                    for i in 0..2 {
                        let long = _mm256_madd_epi16(short[c][i], by[i]);
                        sums[c][i] = _mm256_add_epi32(sums[c][i], long);
                    }
                }
            }
        });
        sums
    }
}
