//! f32, f16 and bf16 weights on NEON.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::asm::{widen_halfs, widen_high_halfs};
use crate::cpu::dot::Weights;
use crate::cpu::dot::float::{Float, Floats};
use crate::cpu::math::LANES;

/// A float format on NEON.
pub(in crate::cpu) trait Load: Float {
    /// Eight elements.
    ///
    /// # Safety
    /// `8 * BYTES` bytes are readable.
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2];
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: by the trait's contract. Bytes, since floats of a file may lie anywhere.
        unsafe {
            let (first, second) = (vld1q_u8(at), vld1q_u8(at.add(16)));
            [vreinterpretq_f32_u8(first), vreinterpretq_f32_u8(second)]
        }
    }
}

impl Load for f16 {
    #[inline(always)]
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let halfs = vreinterpretq_u16_u8(vld1q_u8(at));
            [widen_halfs(vget_low_u16(halfs)), widen_high_halfs(halfs)]
        }
    }
}

impl Load for bf16 {
    #[inline(always)]
    unsafe fn load8(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: by the trait's contract.
        unsafe {
            let halfs = vreinterpretq_u16_u8(vld1q_u8(at));
            // They are the upper halves of f32.
            let zero = vdupq_n_u16(0);
            let (first, second) = (vzip1q_u16(zero, halfs), vzip2q_u16(zero, halfs));
            [vreinterpretq_f32_u16(first), vreinterpretq_f32_u16(second)]
        }
    }
}

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// Shapes as the table's type says.
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

/// Takes `R` rows of weights and `C` rows of activations at a time; where there are fewer left,
/// the last ones again.
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
                let rows =
                    std::array::from_fn(|r| w.bytes.as_ptr().add((row + r).min(last.0) * w.stride));
                let xs =
                    std::array::from_fn(|c| x.data.as_ptr().add((n + c).min(last.1) * x.stride));
                tile::<F, R, C>(rows, xs, x.width)
            };
            for (r, sums) in sums.iter().enumerate().take(w.rows - row) {
                for (c, sum) in sums.iter().enumerate().take(x.n - n) {
                    out[(n + c) * stride + row + r] = *sum;
                }
            }
        }
    }
}

/// [`LANES`] in registers.
type Sums = [float32x4_t; 4];

/// `R` times `C` dot products of `k` values.
///
/// # Safety
/// All rows are that long.
#[inline(always)]
unsafe fn tile<F: Load, const R: usize, const C: usize>(
    rows: [*const u8; R],
    xs: [*const f32; C],
    k: usize,
) -> [[f32; C]; R] {
    // SAFETY: by this function's contract; the rest is copied to where 16 can be read.
    unsafe {
        let mut acc = [[[vdupq_n_f32(0.0); 4]; C]; R];
        let whole = k / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            add::<F, R, C>(&mut acc, &rows, &xs, i);
        }
        if whole < k {
            let mut last_w = [[0u8; LANES * 4]; R];
            for (last, row) in last_w.iter_mut().zip(rows) {
                let from = row.add(whole * F::BYTES);
                std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), (k - whole) * F::BYTES);
            }
            let mut last_x = [[0.0; LANES]; C];
            for (last, x) in last_x.iter_mut().zip(xs) {
                std::ptr::copy_nonoverlapping(x.add(whole), last.as_mut_ptr(), k - whole);
            }
            let rows = last_w.each_ref().map(|last| last.as_ptr());
            let xs = last_x.each_ref().map(|last| last.as_ptr());
            add::<F, R, C>(&mut acc, &rows, &xs, 0);
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

/// Adds the products of values `at..at + 16`. Eight at a time: more do not fit the registers.
///
/// # Safety
/// All rows have these values.
#[inline(always)]
unsafe fn add<F: Load, const R: usize, const C: usize>(
    acc: &mut [[Sums; C]; R],
    rows: &[*const u8; R],
    xs: &[*const f32; C],
    at: usize,
) {
    for half in 0..2 {
        // SAFETY: by this function's contract.
        unsafe {
            let at = at + half * 8;
            let mut x = [[vdupq_n_f32(0.0); 2]; C];
            for c in 0..C {
                x[c] = f32::load8(xs[c].add(at).cast());
            }
            for r in 0..R {
                let w = F::load8(rows[r].add(at * F::BYTES));
                for c in 0..C {
                    let acc = &mut acc[r][c];
                    acc[2 * half] = vfmaq_f32(acc[2 * half], w[0], x[c][0]);
                    acc[2 * half + 1] = vfmaq_f32(acc[2 * half + 1], w[1], x[c][1]);
                }
            }
        }
    }
}

/// As [`tree`](crate::cpu::math::tree).
#[inline(always)]
fn tree(lanes: Sums) -> f32 {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let eight = [vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3])];
        let four = vaddq_f32(eight[0], eight[1]);
        let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
    }
}
