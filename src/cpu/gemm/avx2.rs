//! Prefill on AVX2: products of bytes are summed in 16 bits as long as they fit (`vpmaddubsw`), then
//! in 32. That takes unsigned weights; signed ones are widened to 16 bits first, which costs four
//! instructions a step where taking signs apart costs six. A tile is the two registers of a panel's
//! rows times up to four rows of activations, whose 16-bit sums fit the registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::offset_of;

use super::panel::{Tile, WIDE, Words, run};
use super::x86::{Group, Kernel, ROWS, chain, spread};
use crate::cpu::activation::Rows;
use crate::cpu::dot::Weights;
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
    const TALL: usize = 4;
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
        let at = to.n * x.groups + to.first;
        let (x_scale, x_sum) = (x.scale.as_ptr().add(at), x.scaled_sum.as_ptr().add(at));
        // They stay in memory: there are no registers for them beside the sums.
        let mut acc: [[f32; WIDE]; N] = to.load();
        for (g, parts) in panel.chunks_exact(spread).enumerate() {
            let group = &parts[0];
            let mut sums = if B::CHAIN == 1 {
                signed_sums(parts, g, to.words)
            } else {
                group_sums::<B, N>(group, g, x.groups, to.words)
            };
            for sums in &mut sums {
                floats(sums);
            }
            for c in 0..N {
                let (at, acc) = (c * x.groups + g, acc[c].as_ptr());
                scaled(&mut sums[c], group, x_scale, at, acc);
            }
            if B::HAS_MIN {
                for c in 0..N {
                    less(&mut sums[c], group, x_sum, c * x.groups + g);
                }
            }
            for c in 0..N {
                for i in 0..2 {
                    let at = acc[c].as_mut_ptr().add(i * ROWS);
                    _mm256_storeu_ps(at, _mm256_castsi256_ps(sums[c][i]));
                }
            }
        }
        to.store(&acc);
        N
    }
}

/// Makes a stage of a group's end for a row of activations.
macro_rules! stage {
    ($(#[$doc:meta])* $name:ident, [$($line:literal),*],
     ($($operand:ident: $t:ty = $with:tt),*) $(, ($($scratch:ident),*), $field:ident)?) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// AVX2 and FMA; what pointers point to is readable.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn $name(sums: &mut [__m256i; 2], $($operand: $t),*) {
            let [s0, s1] = sums;
            // SAFETY: reads what this function's contract says and nothing else.
            unsafe {
                asm!(
                    $($line,)*
                    $($operand = in($with) $operand,)*
                    $($($scratch = out(ymm_reg) _,)*
                    field = const offset_of!(Group, $field),)?
                    s0 = inout(ymm_reg) *s0,
                    s1 = inout(ymm_reg) *s1,
                    options(readonly, nostack, preserves_flags),
                );
            }
        }
    };
}

stage! {
    /// Sums in 16 bits times factors, added in pairs.
    long, [
        "vpmaddwd {s0}, {s0}, {by0}",
        "vpmaddwd {s1}, {s1}, {by1}"
    ], (by0: __m256i = ymm_reg, by1: __m256i = ymm_reg)
}
stage! {
    /// Sums as f32.
    floats, [
        "vcvtdq2ps {s0}, {s0}",
        "vcvtdq2ps {s1}, {s1}"
    ], ()
}
stage! {
    /// Sums, f32, times both scales, and the accumulators at `acc` besides.
    scaled, [
        "vbroadcastss {x}, dword ptr [{x_scale} + 4 * {at}]",
        "vmulps {by}, {x}, ymmword ptr [{group} + {field}]",
        "vmulps {x}, {x}, ymmword ptr [{group} + {field} + 32]",
        "vfmadd213ps {s0}, {by}, ymmword ptr [{acc}]",
        "vfmadd213ps {s1}, {x}, ymmword ptr [{acc} + 32]"
    ], (group: &Group = reg, x_scale: *const f32 = reg, at: usize = reg, acc: *const f32 = reg),
    (x, by), scale
}
stage! {
    /// The same less the mins' share.
    less, [
        "vbroadcastss {x}, dword ptr [{x_sum} + 4 * {at}]",
        "vfnmadd231ps {s0}, {x}, ymmword ptr [{group} + {field}]",
        "vfnmadd231ps {s1}, {x}, ymmword ptr [{group} + {field} + 32]"
    ], (group: &Group = reg, x_sum: *const f32 = reg, at: usize = reg),
    (x), rest
}

/// The integer products of widened group `g`, the `parts`, with `N` rows of activations.
///
/// # Safety
/// AVX2; these are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn signed_sums<const N: usize>(
    parts: &[Group],
    g: usize,
    words: Words,
) -> [[__m256i; 2]; N] {
    // SAFETY: by this function's contract.
    unsafe {
        let q = words.q.add(g * 2 * STEPS);
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        unroll!(2, P => {
            unroll!(STEPS, T => {
                const AT: usize = P * STEPS + T;
                for c in 0..N {
                    let (w, x) = (parts[P].q[T], q.add(c * words.q_stride));
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

/// The integer products of group `g`, of unsigned integers, with `N` rows of activations that have
/// as many `groups`.
///
/// # Safety
/// AVX2; these are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_sums<B: Unpack, const N: usize>(
    group: &Group,
    g: usize,
    groups: usize,
    words: Words,
) -> [[__m256i; 2]; N] {
    // SAFETY: by this function's contract.
    unsafe {
        let chain = const { chain::<B>() };
        let q = words.q.add(g * STEPS);
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        let mut short = sums;
        unroll!(STEPS, T => {
            let w = group.q[T];
            for c in 0..N {
                let x = q.add(c * words.q_stride);
                if T % chain != 0 {
                    next::<T>(&mut short[c], w, x);
                } else if B::OFFSET == 0 {
                    short[c] = first::<T>(w, x);
                } else {
                    let at = c * groups + g;
                    short[c] = if chain == STEPS {
                        first_from::<T, 1>(w, x, words.begin, at)
                    } else {
                        first_from::<T, 2>(w, x, words.begin, at)
                    };
                }
            }
            if T % chain == chain - 1 {
                // What the sums are multiplied by on their way to 32 bits.
                let by = if B::FACTORS { group.rest[T / 4] } else { [_mm256_set1_epi16(1); 2] };
                for c in 0..N {
                    long(&mut short[c], by[0], by[1]);
                }
                for c in 0..N {
                    for i in 0..2 {
                        sums[c][i] = _mm256_add_epi32(sums[c][i], short[c][i]);
                    }
                }
            }
        });
        sums
    }
}
