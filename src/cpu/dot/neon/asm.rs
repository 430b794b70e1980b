//! Instructions that stable Rust has no function for, or in whose place the compiler would take
//! more. All work on registers alone.

use std::arch::aarch64::*;
use std::arch::asm;

/// Each lane of `acc` plus the sum of four products, `a[4 i..4 i + 4]` with lane `LANE` of `b`, its
/// values `4 LANE..4 LANE + 4`.
#[inline]
#[target_feature(enable = "dotprod")]
pub(in crate::cpu) fn sdot_lane<const LANE: i32>(
    mut acc: int32x4_t,
    a: int8x16_t,
    b: int8x16_t,
) -> int32x4_t {
    // SAFETY: reads and writes registers only; the processor has the instruction.
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
    // SAFETY: as in `sdot_lane`.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Products of `w` and `x` as i16, of the first eight values and of the last. Of intrinsics, where
/// `x` is known to repeat itself, the compiler would take the low half of `x` both times and move
/// that of `w` down. In order, as [`settle`].
#[inline]
pub(in crate::cpu) fn products(w: int8x16_t, x: int8x16_t) -> [int16x8_t; 2] {
    let (low, high);
    // SAFETY: as in `sdot_lane`; every 64-bit ARM has the instructions.
    unsafe {
        asm!(
            "smull {low:v}.8h, {w:v}.8b, {x:v}.8b",
            "smull2 {high:v}.8h, {w:v}.16b, {x:v}.16b",
            low = out(vreg) low, high = lateout(vreg) high, w = in(vreg) w, x = in(vreg) x,
            options(nomem, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// Adds those of [`products`] to `sums`.
#[inline]
pub(in crate::cpu) fn add_products(sums: &mut [int16x8_t; 2], w: int8x16_t, x: int8x16_t) {
    let [low, high] = sums;
    // SAFETY: as in `products`.
    unsafe {
        asm!(
            "smlal {low:v}.8h, {w:v}.8b, {x:v}.8b",
            "smlal2 {high:v}.8h, {w:v}.16b, {x:v}.16b",
            low = inout(vreg) *low, high = inout(vreg) *high, w = in(vreg) w, x = in(vreg) x,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// `x`, by no instruction, and in order: the compiler has it ready before the next of these. Left
/// alone it would multiply one group after the other, and keep the weights that two share, and what
/// is yet to be added up, in memory for that.
#[inline]
pub(in crate::cpu) fn settle(mut x: int32x4_t) -> int32x4_t {
    // SAFETY: no instruction.
    unsafe {
        asm!("/* {x:v} */", x = inout(vreg) x, options(nomem, nostack, preserves_flags));
    }
    x
}

/// All ones in each byte of `a` that has a bit of `b`, zero elsewhere. Of a comparison that it
/// knows the compiler would make two, and a selection.
#[inline]
pub(in crate::cpu) fn test_bits(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    let has;
    // SAFETY: as in `products`.
    unsafe {
        asm!(
            "cmtst {has:v}.16b, {a:v}.16b, {b:v}.16b",
            has = lateout(vreg) has, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    has
}

/// The bits of `low` moved down by `N`, below the top `N` bits of each byte of `high`. Of an
/// insertion that it knows the compiler would make four instructions.
#[inline]
pub(in crate::cpu) fn insert_below<const N: u8>(high: uint8x16_t, low: uint8x16_t) -> uint8x16_t {
    let mut both = high;
    // SAFETY: as in `products`.
    unsafe {
        asm!(
            "sri {both:v}.16b, {low:v}.16b, #{n}",
            both = inout(vreg) both, low = in(vreg) low, n = const N,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    both
}

/// Four f16 as f32.
#[inline]
pub(in crate::cpu) fn widen_halfs(halfs: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: as in `sdot_lane`; every 64-bit ARM has the instruction.
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
