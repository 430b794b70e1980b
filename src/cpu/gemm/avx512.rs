//! Prefill on AVX-512 with VNNI: one register is the 16 rows of a panel, and a tile has up to
//! eight rows of activations, which are broadcast from memory by the multiplying instruction.

use std::arch::x86_64::*;

use super::panel::{Tile, WIDE, run};
use super::x86::{Group, Kernel};
use crate::cpu::activation::Rows;
use crate::cpu::dot::Weights;
use crate::cpu::dot::decode::x86::offset;
use crate::cpu::dot::unpack::{STEPS, Unpack};

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI, AVX2, FMA and F16C; shapes as the table's type says.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in crate::cpu) unsafe fn prefill<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { run::<B, Avx512>(&w, &x, out, stride) }
}

/// The microkernel.
enum Avx512 {}

impl Kernel for Avx512 {
    type V = __m512i;
    const TALL: usize = 8;
    const UNSIGNED: bool = true;

    #[inline(always)]
    unsafe fn tile<B: Unpack>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize {
        // SAFETY: by the trait's contract; as many rows of activations are left.
        unsafe {
            match x.n - to.n {
                1 => add::<B, 1>(panel, x, to),
                2 => add::<B, 2>(panel, x, to),
                3 => add::<B, 3>(panel, x, to),
                4 | 5 => add::<B, 4>(panel, x, to),
                6 | 7 => add::<B, 6>(panel, x, to),
                _ => add::<B, 8>(panel, x, to),
            }
        }
    }
}

/// Adds the panel's products with `N` rows of activations to the output.
///
/// # Safety
/// As [`prefill`]; `x` has these rows and the panel's groups.
#[inline(always)]
unsafe fn add<B: Unpack, const N: usize>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize {
    // SAFETY: by this function's contract; `c` is below `N`, `g` below `panel.len()`, which is
    // at most `DEPTH`.
    unsafe {
        let at = to.n * x.groups + to.first;
        let (q, stride) = (to.words.q, to.words.q_stride);
        let (x_scale, x_sum) = (x.scale.as_ptr().add(at), x.scaled_sum.as_ptr().add(at));
        let mut lanes: [[f32; WIDE]; N] = to.load();
        let mut acc = [_mm512_setzero_ps(); N];
        for c in 0..N {
            acc[c] = _mm512_loadu_ps(lanes[c].as_ptr());
        }
        for (g, group) in panel.iter().enumerate() {
            let w: [__m512i; STEPS] = std::mem::transmute(group.q);
            let begin = to.words.begin_of::<B>(g);
            let mut sum = [_mm512_setzero_si512(); N];
            if B::FACTORS {
                let mut second = [_mm512_setzero_si512(); N];
                for c in 0..N {
                    sum[c] = _mm512_set1_epi32(*begin.add(c * to.words.begin_stride));
                    second[c] = _mm512_set1_epi32(*begin.add(c * to.words.begin_stride + 1));
                }
                half::<N>(&mut sum, &w, 0, q.add(g * STEPS), stride);
                half::<N>(&mut second, &w, 4, q.add(g * STEPS), stride);
                let [first, last]: [__m512i; 2] = std::mem::transmute(group.rest);
                for c in 0..N {
                    sum[c] = _mm512_add_epi32(
                        _mm512_mullo_epi32(sum[c], first),
                        _mm512_mullo_epi32(second[c], last),
                    );
                }
            } else {
                if const { offset::<B>(true) } != 0 {
                    for c in 0..N {
                        sum[c] = _mm512_set1_epi32(*begin.add(c * to.words.begin_stride));
                    }
                }
                half::<N>(&mut sum, &w, 0, q.add(g * STEPS), stride);
                half::<N>(&mut sum, &w, 4, q.add(g * STEPS), stride);
            }
            let scale: __m512 = std::mem::transmute(group.scale);
            for c in 0..N {
                let by = _mm512_mul_ps(scale, _mm512_set1_ps(*x_scale.add(c * x.groups + g)));
                acc[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[c]), by, acc[c]);
            }
            if B::HAS_MIN {
                let min: __m512 = std::mem::transmute(group.rest[0]);
                for c in 0..N {
                    let by = _mm512_set1_ps(*x_sum.add(c * x.groups + g));
                    acc[c] = _mm512_fnmadd_ps(min, by, acc[c]);
                }
            }
        }
        for c in 0..N {
            _mm512_storeu_ps(lanes[c].as_mut_ptr(), acc[c]);
        }
        to.store(&lanes);
        N
    }
}

/// Adds the products of steps `t..t + 4` of a group to the sums of `N` rows of activations, whose
/// i32s lie `stride` apart.
///
/// # Safety
/// AVX-512 F and VNNI; these are readable.
#[inline(always)]
unsafe fn half<const N: usize>(
    sum: &mut [__m512i; N],
    w: &[__m512i; STEPS],
    t: usize,
    q: *const i32,
    stride: usize,
) {
    for t in t..t + 4 {
        for c in 0..N {
            // SAFETY: by this function's contract.
            unsafe {
                let four = _mm512_set1_epi32(q.add(c * stride + t).read_unaligned());
                sum[c] = _mm512_dpbusd_epi32(sum[c], w[t], four);
            }
        }
    }
}
