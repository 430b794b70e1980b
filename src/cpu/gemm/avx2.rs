//! Prefill on AVX2: products of bytes are summed in 16 bits as long as they fit (`vpmaddubsw`), then
//! in 32. A tile is the two registers of a panel's rows times up to four rows of activations, whose
//! 16-bit sums fit the registers.

use std::arch::asm;
use std::arch::x86_64::*;

use super::panel::{Group, Micro, ROWS, Tile, WIDE, beginnings, run};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::dot::Weights;
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

impl Micro for Avx2 {
    type V = __m256i;
    const UNSIGNED: bool = false;

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
    // SAFETY: by this function's contract; `c` is below `N`, `g` below `panel.len()`, which is
    // at most `DEPTH`.
    unsafe {
        let [begin, _] = beginnings::<B, Avx2, N>(x, to.n, to.first, panel.len());
        let at = to.n * x.groups + to.first;
        let q = x.q.as_ptr().add(at * GROUP).cast::<i32>();
        let halves = x.halves.as_ptr().add(at).cast::<i32>();
        let (x_scale, x_sum) = (x.scale.as_ptr().add(at), x.scaled_sum.as_ptr().add(at));
        let mut lanes: [[f32; WIDE]; N] = to.load();
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for c in 0..N {
            for i in 0..2 {
                acc[c][i] = _mm256_loadu_ps(lanes[c].as_ptr().add(i * ROWS));
            }
        }
        for (g, group) in panel.iter().enumerate() {
            let sums = group_sums::<B, N>(group, q.add(g * 8), x.groups * 8);
            for c in 0..N {
                let x_scale = _mm256_broadcast_ss(&*x_scale.add(c * x.groups + g));
                for i in 0..2 {
                    let mut sum = sums[c][i];
                    if B::FACTORS {
                        // The sums of the group's halves, two i16, in every lane.
                        let halves = halves.add(c * x.groups + g).read_unaligned();
                        let halves = _mm256_set1_epi32(halves);
                        let less = _mm256_madd_epi16(halves, group.factors[i]);
                        let less = _mm256_mullo_epi32(less, _mm256_set1_epi32(B::OFFSET.into()));
                        sum = _mm256_sub_epi32(sum, less);
                    } else if B::OFFSET != 0 {
                        sum = _mm256_add_epi32(sum, _mm256_set1_epi32(begin[c][g]));
                    }
                    let by = _mm256_mul_ps(group.scale[i], x_scale);
                    acc[c][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), by, acc[c][i]);
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

/// The integer products of a group with `N` rows of activations, whose i32s lie `stride` apart.
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
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; N];
        // What 16-bit sums of each half are multiplied by on their way to 32 bits.
        let mut factor = [[ones; 2]; 2];
        if B::FACTORS {
            for i in 0..2 {
                let first = _mm256_slli_epi32::<16>(group.factors[i]);
                let second = _mm256_srli_epi32::<16>(group.factors[i]);
                factor[0][i] = _mm256_or_si256(first, _mm256_srli_epi32::<16>(first));
                factor[1][i] = _mm256_or_si256(second, _mm256_slli_epi32::<16>(second));
            }
        }
        let mut short = [[_mm256_setzero_si256(); 2]; N];
        unroll!(STEPS, T => {
            let w = group.q[T];
            for c in 0..N {
                let x = q.add(c * stride + T);
                if B::CHAIN == 1 {
                    signed(&mut sums[c], w, x, ones);
                } else if T % B::CHAIN == 0 {
                    short[c] = first(w, x);
                } else {
                    next(&mut short[c], w, x);
                }
            }
            if B::CHAIN > 1 && T % B::CHAIN == B::CHAIN - 1 {
                for c in 0..N {
                    for i in 0..2 {
                        let long = _mm256_madd_epi16(short[c][i], factor[T / 4][i]);
                        sums[c][i] = _mm256_add_epi32(sums[c][i], long);
                    }
                }
            }
        });
        sums
    }
}

// Of the three below the compiler knows nothing but their operands, and that it must not change
// their order: of intrinsics it would take one accumulator after the other, and keep all weights
// of a group for that, in memory.

/// Sums of two products of unsigned `w` and the four integers at `x`, i16.
///
/// # Safety
/// AVX2; `x` is readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn first(w: [__m256i; 2], x: *const i32) -> [__m256i; 2] {
    let (s0, s1);
    // SAFETY: reads the i32 at `x` and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{at}]",
            "vpmaddubsw {s0}, {w0}, {x}",
            "vpmaddubsw {s1}, {w1}, {x}",
            at = in(reg) x,
            w0 = in(ymm_reg) w[0],
            w1 = in(ymm_reg) w[1],
            x = out(ymm_reg) _,
            s0 = out(ymm_reg) s0,
            s1 = lateout(ymm_reg) s1,
            options(nostack, preserves_flags),
        );
    }
    [s0, s1]
}

/// Adds those of [`first`] to `sums`, i16.
///
/// # Safety
/// As [`first`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn next(sums: &mut [__m256i; 2], w: [__m256i; 2], x: *const i32) {
    let [s0, s1] = sums;
    // SAFETY: reads the i32 at `x` and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{at}]",
            "vpmaddubsw {p}, {w0}, {x}",
            "vpmaddubsw {x}, {w1}, {x}",
            "vpaddw {s0}, {s0}, {p}",
            "vpaddw {s1}, {s1}, {x}",
            at = in(reg) x,
            w0 = in(ymm_reg) w[0],
            w1 = in(ymm_reg) w[1],
            x = out(ymm_reg) _,
            p = out(ymm_reg) _,
            s0 = inout(ymm_reg) *s0,
            s1 = inout(ymm_reg) *s1,
            options(nostack, preserves_flags),
        );
    }
}

/// Adds the products of signed `w` and the four integers at `x` to `sums`, i32.
///
/// # Safety
/// As [`first`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn signed(sums: &mut [__m256i; 2], w: [__m256i; 2], x: *const i32, ones: __m256i) {
    let [s0, s1] = sums;
    // SAFETY: reads the i32 at `x` and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{at}]",
            "vpsignb {p}, {x}, {w0}",
            "vpsignb {x}, {x}, {w1}",
            "vpmaddubsw {p}, {u0}, {p}",
            "vpmaddubsw {x}, {u1}, {x}",
            "vpmaddwd {p}, {p}, {ones}",
            "vpmaddwd {x}, {x}, {ones}",
            "vpaddd {s0}, {s0}, {p}",
            "vpaddd {s1}, {s1}, {x}",
            at = in(reg) x,
            w0 = in(ymm_reg) w[0],
            w1 = in(ymm_reg) w[1],
            u0 = in(ymm_reg) _mm256_abs_epi8(w[0]),
            u1 = in(ymm_reg) _mm256_abs_epi8(w[1]),
            ones = in(ymm_reg) ones,
            x = out(ymm_reg) _,
            p = out(ymm_reg) _,
            s0 = inout(ymm_reg) *s0,
            s1 = inout(ymm_reg) *s1,
            options(nostack, preserves_flags),
        );
    }
}
