//! Instructions that stable Rust has no function for. All work on registers alone.

use std::arch::aarch64::*;
use std::arch::asm;

/// Each lane of `acc` plus the sum of four products, `a[4 i..4 i + 4]` with those of `b`.
#[inline]
#[target_feature(enable = "dotprod")]
pub(in crate::cpu) fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes registers only; the processor has the instruction.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// As [`sdot`], with lane `LANE` of `b` (its values `4 LANE..4 LANE + 4`) for every lane.
#[inline]
#[target_feature(enable = "dotprod")]
pub(in crate::cpu) fn sdot_lane<const LANE: usize>(
    mut acc: int32x4_t,
    a: int8x16_t,
    b: int8x16_t,
) -> int32x4_t {
    // SAFETY: as in `sdot`.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// `acc[2 i + j]` plus the sum of eight products, `a[8 i..8 i + 8]` with `b[8 j..8 j + 8]`: a
/// 2 x 8 matrix times an 8 x 2 one.
#[inline]
#[target_feature(enable = "i8mm")]
pub(in crate::cpu) fn smmla(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot`.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Four f16 as f32.
#[inline]
pub(in crate::cpu) fn widen_halfs(halfs: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: as in `sdot`; every 64-bit ARM has the instruction.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halfs:v}.4h",
            wide = lateout(vreg) wide, halfs = in(vreg) halfs,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

/// The last four of eight f16 as f32.
#[inline]
pub(in crate::cpu) fn widen_high_halfs(halfs: uint16x8_t) -> float32x4_t {
    let wide;
    // SAFETY: as in `widen_halfs`.
    unsafe {
        asm!(
            "fcvtl2 {wide:v}.4s, {halfs:v}.8h",
            wide = lateout(vreg) wide, halfs = in(vreg) halfs,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

/// Four f32 rounded to f16, ties to even.
#[inline]
pub(in crate::cpu) fn narrow_to_halfs(wide: float32x4_t) -> uint16x4_t {
    let halfs;
    // SAFETY: as in `widen_halfs`.
    unsafe {
        asm!(
            "fcvtn {halfs:v}.4h, {wide:v}.4s",
            halfs = lateout(vreg) halfs, wide = in(vreg) wide,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    halfs
}

/// Asks for the cache line at `at`, for the second-level cache.
#[inline]
pub(in crate::cpu) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch reads nothing that the program sees; the address may be anything.
    unsafe {
        asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
    }
}
