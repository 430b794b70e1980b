//! Prefill with `vpdpbusd` on 256 bits: a tile is the two registers of a panel's rows times up to
//! four rows of activations.

use std::arch::x86_64::*;

use super::panel::{Tile, WIDE, run};
use super::x86::{Group, Kernel, ROWS};
use crate::cpu::activation::Rows;
use crate::cpu::dot::Weights;
use crate::cpu::dot::decode::x86::offset;
use crate::cpu::dot::unpack::{STEPS, Unpack};

/// One encoding of the instruction.
trait Encoding {
    /// Adds products of four unsigned and four signed bytes to an i32.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

/// Makes an [`Encoding`] and its prefill kernel.
macro_rules! encoding {
    ($(#[$doc:meta])* $name:ident, $features:literal, $dot:ident, $prefill:ident) => {
        $(#[$doc])*
        enum $name {}

        impl Encoding for $name {
            #[inline(always)]
            unsafe fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
                // SAFETY: by the trait's contract.
                unsafe { $dot(sum, w, x) }
            }
        }

        /// Every row of `w` times every row of `x`.
        ///
        /// # Safety
        /// The instruction set, AVX2, FMA and F16C; shapes as the table's type says.
        #[target_feature(enable = $features)]
        pub(in crate::cpu) unsafe fn $prefill<B: Unpack>(
            w: Weights<'_>,
            x: Rows<'_>,
            out: &mut [f32],
            stride: usize,
        ) {
            // SAFETY: by this function's contract.
            unsafe { run::<B, $name>(&w, &x, out, stride) }
        }
    };
}

encoding! {
    /// AVX-VNNI.
    Vex, "avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32, vex
}
encoding! {
    /// As AVX-512 encodes it.
    Evex, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", _mm256_dpbusd_epi32, evex
}

impl<E: Encoding> Kernel for E {
    type V = __m256i;
    const TALL: usize = 4;
    const UNSIGNED: bool = true;

    #[inline(always)]
    unsafe fn tile<B: Unpack>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize {
        // SAFETY: by the trait's contract; as many rows of activations are left.
        unsafe {
            match x.n - to.n {
                1 => add::<B, E, 1>(panel, x, to),
                2 => add::<B, E, 2>(panel, x, to),
                3 => add::<B, E, 3>(panel, x, to),
                _ => add::<B, E, 4>(panel, x, to),
            }
        }
    }
}

/// Adds the panel's products with `N` rows of activations to the output.
///
/// # Safety
/// The instruction set of `E`, AVX2, FMA and F16C; `x` has these rows and the panel's groups.
#[inline(always)]
unsafe fn add<B: Unpack, E: Encoding, const N: usize>(
    panel: &[Group],
    x: &Rows<'_>,
    to: Tile<'_>,
) -> usize {
    // SAFETY: by this function's contract; `c` is below `N`, `g` below `panel.len()`, which is
    // at most `DEPTH`.
    unsafe {
        let at = to.n * x.groups + to.first;
        let (x_scale, x_sum) = (x.scale.as_ptr().add(at), x.scaled_sum.as_ptr().add(at));
        let mut lanes: [[f32; WIDE]; N] = to.load();
        let mut acc = [[_mm256_setzero_ps(); 2]; N];
        for c in 0..N {
            for i in 0..2 {
                acc[c][i] = _mm256_loadu_ps(lanes[c].as_ptr().add(i * ROWS));
            }
        }
        for (g, group) in panel.iter().enumerate() {
            let (q, stride) = (to.words.q.add(g * STEPS), to.words.q_stride);
            let begin = to.words.begin_of::<B>(g);
            let mut sum = [[_mm256_setzero_si256(); 2]; N];
            if B::FACTORS {
                for c in 0..N {
                    sum[c] = [_mm256_set1_epi32(*begin.add(c * to.words.begin_stride)); 2];
                }
                half::<E, N>(&mut sum, group, 0, q, stride);
                let mut second = [[_mm256_setzero_si256(); 2]; N];
                for c in 0..N {
                    second[c] = [_mm256_set1_epi32(*begin.add(c * to.words.begin_stride + 1)); 2];
                }
                half::<E, N>(&mut second, group, 4, q, stride);
                for i in 0..2 {
                    let [first, last] = [group.rest[0][i], group.rest[1][i]];
                    for c in 0..N {
                        sum[c][i] = _mm256_add_epi32(
                            _mm256_mullo_epi32(sum[c][i], first),
                            _mm256_mullo_epi32(second[c][i], last),
                        );
                    }
                }
            } else {
                if const { offset::<B>(true) } != 0 {
                    for c in 0..N {
                        sum[c] = [_mm256_set1_epi32(*begin.add(c * to.words.begin_stride)); 2];
                    }
                }
                half::<E, N>(&mut sum, group, 0, q, stride);
                half::<E, N>(&mut sum, group, 4, q, stride);
            }
            for c in 0..N {
                let x_scale = _mm256_broadcast_ss(&*x_scale.add(c * x.groups + g));
                for i in 0..2 {
                    let by = _mm256_mul_ps(group.scale[i], x_scale);
                    acc[c][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[c][i]), by, acc[c][i]);
                }
                if B::HAS_MIN {
                    let x_sum = _mm256_broadcast_ss(&*x_sum.add(c * x.groups + g));
                    for i in 0..2 {
                        acc[c][i] = _mm256_fnmadd_ps(
                            _mm256_castsi256_ps(group.rest[0][i]),
                            x_sum,
                            acc[c][i],
                        );
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

/// Adds the products of steps `t..t + 4` of a group to the sums of `N` rows of activations, whose
/// i32s lie `stride` apart.
///
/// # Safety
/// The instruction set of `E`; these are readable.
#[inline(always)]
unsafe fn half<E: Encoding, const N: usize>(
    sum: &mut [[__m256i; 2]; N],
    group: &Group,
    t: usize,
    q: *const i32,
    stride: usize,
) {
    for t in t..t + 4 {
        for c in 0..N {
            // SAFETY: by this function's contract.
            unsafe {
                let four = _mm256_set1_epi32(q.add(c * stride + t).read_unaligned());
                for i in 0..2 {
                    sum[c][i] = E::dot(sum[c][i], group.q[t][i], four);
                }
            }
        }
    }
}
