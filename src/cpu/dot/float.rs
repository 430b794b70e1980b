//! f32, f16 and bf16 weights (and keys): activations stay f32.

use half::{bf16, f16};

use super::Weights;
use crate::cpu::math::{LANES, tree};

/// Rows of f32, borrowed.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Floats<'a> {
    /// Row `i` is `stride` long and starts at `i * stride`.
    pub data: &'a [f32],
    /// Values from row to row.
    pub stride: usize,
    /// How many rows.
    pub n: usize,
    /// How many values of each row count.
    pub width: usize,
}

/// An element of a float format.
pub(in crate::cpu) trait Float: Copy {
    /// Bytes an element.
    const BYTES: usize;
    /// The value of `BYTES` bytes.
    fn load(bytes: &[u8]) -> f32;
}

impl Float for f32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Float for f16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

impl Float for bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// The reference: every row of `w` times every row of `x`, to `out` `[x.n, stride]`.
///
/// # Safety
/// None needed: unsafe only so that all instruction sets have one type.
pub(in crate::cpu) unsafe fn scalar<F: Float>(
    w: Weights<'_>,
    x: Floats<'_>,
    out: &mut [f32],
    stride: usize,
) {
    let mut row = vec![0.0; x.width];
    for i in 0..w.rows {
        let bytes = w.row(i)[..x.width * F::BYTES].chunks_exact(F::BYTES);
        for (value, bytes) in row.iter_mut().zip(bytes) {
            *value = F::load(bytes);
        }
        for n in 0..x.n {
            let x = &x.data[n * x.stride..][..x.width];
            let mut lanes = [0.0f32; LANES];
            for (row, x) in row.chunks(LANES).zip(x.chunks(LANES)) {
                let (mut w16, mut x16) = ([0.0; LANES], [0.0; LANES]);
                w16[..row.len()].copy_from_slice(row);
                x16[..x.len()].copy_from_slice(x);
                for ((lane, w), x) in lanes.iter_mut().zip(w16).zip(x16) {
                    *lane = w.mul_add(x, *lane);
                }
            }
            out[n * stride + i] = tree(lanes);
        }
    }
}

/// AVX2.
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) mod avx2 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{Float, Floats};
    use crate::cpu::dot::Weights;
    use crate::cpu::math::LANES;

    /// [`LANES`] in registers.
    type Lanes = [__m256; 2];

    /// A float format on AVX2.
    pub(in crate::cpu) trait Load: Float {
        /// 16 elements.
        ///
        /// # Safety
        /// AVX2 and F16C; `16 * BYTES` bytes are readable.
        unsafe fn load16(at: *const u8) -> Lanes;
    }

    impl Load for f32 {
        #[inline(always)]
        unsafe fn load16(at: *const u8) -> Lanes {
            let at = at.cast::<f32>();
            // SAFETY: by the trait's contract.
            unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
        }
    }

    impl Load for f16 {
        #[inline(always)]
        unsafe fn load16(at: *const u8) -> Lanes {
            let at = at.cast::<__m128i>();
            // SAFETY: by the trait's contract.
            unsafe {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(at)),
                    _mm256_cvtph_ps(_mm_loadu_si128(at.add(1))),
                ]
            }
        }
    }

    impl Load for bf16 {
        #[inline(always)]
        unsafe fn load16(at: *const u8) -> Lanes {
            let at = at.cast::<__m128i>();
            // SAFETY: by the trait's contract.
            unsafe {
                let first = _mm256_cvtepu16_epi32(_mm_loadu_si128(at));
                let second = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(1)));
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(first)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(second)),
                ]
            }
        }
    }

    /// Every row of `w` times every row of `x`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; shapes as the table's type says.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::cpu) unsafe fn product<F: Load>(
        w: Weights<'_>,
        x: Floats<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        // SAFETY: by this function's contract.
        unsafe {
            if x.n == 1 {
                tiles::<F, 4, 1>(&w, &x, out, stride);
            } else {
                tiles::<F, 2, 3>(&w, &x, out, stride);
            }
        }
    }

    /// Takes `R` rows of weights and `C` rows of activations at a time; where there are fewer
    /// left, the last ones again.
    ///
    /// # Safety
    /// As [`product`].
    #[inline(always)]
    unsafe fn tiles<F: Load, const R: usize, const C: usize>(
        w: &Weights<'_>,
        x: &Floats<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        for n in (0..x.n).step_by(C) {
            for row in (0..w.rows).step_by(R) {
                // SAFETY: rows are clamped to those there are.
                let sums = unsafe {
                    let last = (w.rows - 1, x.n - 1);
                    let rows = std::array::from_fn(|r| {
                        w.bytes.as_ptr().add((row + r).min(last.0) * w.stride)
                    });
                    let xs = std::array::from_fn(|c| {
                        x.data.as_ptr().add((n + c).min(last.1) * x.stride)
                    });
                    tile::<F, R, C>(rows, w.stride, xs, x.width)
                };
                for (r, sums) in sums.iter().enumerate().take(w.rows - row) {
                    for (c, sum) in sums.iter().enumerate().take(x.n - n) {
                        out[(n + c) * stride + row + r] = *sum;
                    }
                }
            }
        }
    }

    /// `R` times `C` dot products of `k` values.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; all rows are that long.
    #[inline(always)]
    unsafe fn tile<F: Load, const R: usize, const C: usize>(
        rows: [*const u8; R],
        row_bytes: usize,
        xs: [*const f32; C],
        k: usize,
    ) -> [[f32; C]; R] {
        // SAFETY: by this function's contract; the rest is copied to where 16 can be read.
        unsafe {
            let mut acc = [[[_mm256_setzero_ps(); 2]; C]; R];
            let whole = k / LANES * LANES;
            for i in (0..whole).step_by(LANES) {
                if C == 1 {
                    // The next rows lie behind these: as much of them as is read of these, in one
                    // stream. A prefetch reads nothing; the address may be anything.
                    let next = rows[0].wrapping_add(R * (row_bytes + i * F::BYTES));
                    for line in (0..R * LANES * F::BYTES).step_by(64) {
                        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line).cast());
                    }
                }
                let mut x = [[_mm256_setzero_ps(); 2]; C];
                for c in 0..C {
                    x[c] = f32::load16(xs[c].add(i).cast());
                }
                for r in 0..R {
                    add::<C>(&mut acc[r], F::load16(rows[r].add(i * F::BYTES)), &x);
                }
            }
            if whole < k {
                let mut rest = [0u8; LANES * 4];
                let mut x = [[_mm256_setzero_ps(); 2]; C];
                for c in 0..C {
                    let mut rest = [0.0; LANES];
                    std::ptr::copy_nonoverlapping(xs[c].add(whole), rest.as_mut_ptr(), k - whole);
                    x[c] = f32::load16(rest.as_ptr().cast());
                }
                for r in 0..R {
                    let from = rows[r].add(whole * F::BYTES);
                    let n = (k - whole) * F::BYTES;
                    std::ptr::copy_nonoverlapping(from, rest.as_mut_ptr(), n);
                    add::<C>(&mut acc[r], F::load16(rest.as_ptr()), &x);
                }
            }
            let mut sums = [[0.0; C]; R];
            for r in 0..R {
                for c in 0..C {
                    sums[r][c] = tree(acc[r][c]);
                }
            }
            sums
        }
    }

    /// `acc += w * x` for `C` rows of activations.
    ///
    /// # Safety
    /// AVX2 and FMA.
    #[inline(always)]
    unsafe fn add<const C: usize>(acc: &mut [Lanes; C], w: Lanes, x: &[Lanes; C]) {
        for (acc, x) in acc.iter_mut().zip(x) {
            for i in 0..2 {
                // SAFETY: by this function's contract.
                acc[i] = unsafe { _mm256_fmadd_ps(w[i], x[i], acc[i]) };
            }
        }
    }

    /// As [`tree`](crate::cpu::math::tree).
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn tree(lanes: Lanes) -> f32 {
        // SAFETY: by this function's contract.
        unsafe {
            let eight = _mm256_add_ps(lanes[0], lanes[1]);
            let high = _mm256_extractf128_ps::<1>(eight);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), high);
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
