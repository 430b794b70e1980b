//! Products of weights with many rows of activations, for prefill and for several sequences.
//!
//! Weights are unpacked to panels of 8-bit integers once for all rows; a register-tiled
//! microkernel then multiplies panel and activations. The order of accumulation is that of the
//! dot products in [`dot`](super::dot), so the bits are the same.
// Tiles are gone through by row and column: iterators are closures around intrinsics, which might
// not be inlined.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel;
#[cfg(target_arch = "x86_64")]
pub(super) mod vnni;
#[cfg(target_arch = "x86_64")]
mod x86;
