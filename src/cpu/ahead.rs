//! Asking for memory before it is read.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Asks for the lines of `bytes` bytes from `at` on; as [`ask`].
#[inline(always)]
pub(super) fn ask_for(at: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        ask(at.wrapping_add(line * LINE));
    }
}

/// Asks for a line, into the second-level cache. It may lie anywhere: nothing is read.
#[inline(always)]
#[allow(unused_unsafe)] // later compilers call a prefetch safe
fn ask(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: never faults, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as there.
    unsafe {
        std::arch::asm!(
            "prfm pldl2keep, [{}]",
            in(reg) line,
            options(readonly, nostack, preserves_flags),
        );
    }
}
