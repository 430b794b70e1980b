//! Sixteen f32 side by side: what attention's products are written with, once for all
//! instruction sets.
//!
//! A sum over a head's dimensions has 16 partial sums, element `k` going to lane `k % 16` by a
//! fused multiply-add, and a tree at the end (see [`tree`]). Every operation here is exact or
//! rounded once, lane by lane, so all implementations give the same bits.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod scalar;
#[cfg(test)]
mod tests;

pub(super) use scalar::Scalar;

use katari_gguf::block::{BlockQ4_0, BlockQ8_0};

/// How many.
pub(super) const LANES: usize = 16;

/// The sum of `lanes`, as a tree: halves are added until one is left.
#[inline(always)]
pub(super) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// [`LANES`] f32.
///
/// # Safety
/// All functions need the instruction set of the type, and that what they read or write is there:
/// a block, 64 bytes of f32, 32 of f16 (little-endian) or 16 of i8, without any alignment.
pub(super) trait Lanes: Copy {
    /// Those of the same instruction set in which f16 that are used once become f32 fastest.
    type Halfs: Lanes;
    /// Whether there are registers for 24 of these, rather than for 7.
    const MANY: bool;

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self;
    /// 16 f32.
    unsafe fn load(at: *const f32) -> Self;
    /// 16 f16.
    unsafe fn load_f16(at: *const u8) -> Self;
    /// The 32 values of a block, exactly.
    unsafe fn load_q8_0(block: *const BlockQ8_0) -> [Self; 2];
    /// The 32 values of a block, exactly.
    unsafe fn load_q4_0(block: *const BlockQ4_0) -> [Self; 2];
    /// Writes 16 f32.
    unsafe fn store(self, at: *mut f32);
    /// `self + a * b`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// [`tree`] of each.
    unsafe fn trees(lanes: [Self; 4]) -> [f32; 4];
    /// Rounds each to f16, ties to even, and writes them; a NaN becomes the quiet one without
    /// payload.
    unsafe fn store_f16(self, at: *mut u8);
    /// The largest magnitude among `self` and `other`; a NaN is larger than infinity.
    unsafe fn largest(self, other: Self) -> f32;
    /// Writes each over `divisor`, rounded to the nearest integer, ties to even, those beyond i8 as
    /// its ends, a NaN as 0, and returns the sum of the first two of each four, and that of the last
    /// two. For quotients below 2^21.
    unsafe fn store_i8(self, divisor: f32, at: *mut i8) -> [i16; 2];
}
