//! AVX2's steps, each the products of two registers of weights with a word of activations, written
//! out. The compiler knows nothing of them but their operands, and that it must not change their
//! order: of intrinsics it would take one accumulator after the other, and keep all weights of a
//! group for that, in memory. Where a word lies is a constant in the instruction, so that a step has
//! no other to find it.

use std::arch::asm;
use std::arch::x86_64::__m256i;

/// Sums of two products of unsigned `w` and the four integers `AT` words after `x`, i16.
///
/// # Safety
/// AVX2; that word is readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn first<const AT: usize>(
    w: [__m256i; 2],
    x: *const i32,
) -> [__m256i; 2] {
    let (s0, s1);
    // SAFETY: reads that word and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
            "vpmaddubsw {s0}, {w0}, {x}",
            "vpmaddubsw {s1}, {w1}, {x}",
            x_at = in(reg) x,
            offset = const 4 * AT,
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

/// Those of [`first`] added to the two i16 of the word `START` words after `x`.
///
/// # Safety
/// As [`first`], of both words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn first_from<const START: usize, const AT: usize>(
    w: [__m256i; 2],
    x: *const i32,
) -> [__m256i; 2] {
    let (s0, s1);
    // SAFETY: reads those words and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
            "vpbroadcastd {s1}, dword ptr [{x_at} + {start}]",
            "vpmaddubsw {s0}, {w0}, {x}",
            "vpmaddubsw {x}, {w1}, {x}",
            "vpaddw {s0}, {s0}, {s1}",
            "vpaddw {s1}, {s1}, {x}",
            x_at = in(reg) x,
            offset = const 4 * AT,
            start = const 4 * START,
            w0 = in(ymm_reg) w[0],
            w1 = in(ymm_reg) w[1],
            x = out(ymm_reg) _,
            s0 = out(ymm_reg) s0,
            s1 = out(ymm_reg) s1,
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
pub(in crate::cpu) unsafe fn next<const AT: usize>(
    sums: &mut [__m256i; 2],
    w: [__m256i; 2],
    x: *const i32,
) {
    let [s0, s1] = sums;
    // SAFETY: reads that word and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
            "vpmaddubsw {p}, {w0}, {x}",
            "vpmaddubsw {x}, {w1}, {x}",
            "vpaddw {s0}, {s0}, {p}",
            "vpaddw {s1}, {s1}, {x}",
            x_at = in(reg) x,
            offset = const 4 * AT,
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

/// Products of two i16 in each i32 of `w` and the two `AT` words after `x`, i32.
///
/// # Safety
/// As [`first`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn first_wide<const AT: usize>(
    w: [__m256i; 2],
    x: *const i32,
) -> [__m256i; 2] {
    let (s0, s1);
    // SAFETY: reads that word and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
            "vpmaddwd {s0}, {w0}, {x}",
            "vpmaddwd {s1}, {w1}, {x}",
            x_at = in(reg) x,
            offset = const 4 * AT,
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

/// Adds those of [`first_wide`] to `sums`, i32.
///
/// # Safety
/// As [`first`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn next_wide<const AT: usize>(
    sums: &mut [__m256i; 2],
    w: [__m256i; 2],
    x: *const i32,
) {
    let [s0, s1] = sums;
    // SAFETY: reads that word and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
            "vpmaddwd {p}, {w0}, {x}",
            "vpmaddwd {x}, {w1}, {x}",
            "vpaddd {s0}, {s0}, {p}",
            "vpaddd {s1}, {s1}, {x}",
            x_at = in(reg) x,
            offset = const 4 * AT,
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
