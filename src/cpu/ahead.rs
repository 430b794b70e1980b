//! Asking for memory before it is read.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Asks for the lines of `bytes` bytes from `at` on, into the second-level cache. They may lie
/// anywhere: nothing is read.
#[inline(always)]
pub(super) fn ask_for(at: *const u8, bytes: usize) {
    ask::<2>(at, bytes);
}

/// The same, into the first-level cache: for what the second has and is read next.
#[inline(always)]
pub(super) fn ask_near(at: *const u8, bytes: usize) {
    ask::<1>(at, bytes);
}

/// Asks for lines into the cache of that level, 1 or 2.
#[inline(always)]
#[allow(unused_unsafe)] // later compilers call a prefetch safe
fn ask<const LEVEL: u8>(at: *const u8, bytes: usize) {
    for i in 0..bytes.div_ceil(LINE) {
        let line = at.wrapping_add(i * LINE);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: never faults, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
            match LEVEL {
                1 => _mm_prefetch::<_MM_HINT_T0>(line.cast()),
                _ => _mm_prefetch::<_MM_HINT_T1>(line.cast()),
            }
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as there.
        unsafe {
            std::arch::asm!(
                "prfm pldl{level}keep, [{line}]",
                level = const LEVEL,
                line = in(reg) line,
                options(readonly, nostack, preserves_flags),
            );
        }
    }
}
