//! The steps of x86, each the products of registers of weights with a word of activations, written
//! out. The compiler knows nothing of them but their operands, and that it must not change their
//! order: of intrinsics it would take one accumulator after the other, and keep all weights of a
//! group for that, in memory. Where a word lies is a constant in the instruction, so that a step has
//! no other to find it. That a step writes no memory (`readonly`) lets what two of them share be
//! loaded once.

use std::arch::asm;
use std::arch::x86_64::{__m256i, __m512i};

/// Makes a first step and one that adds to it.
macro_rules! steps {
    ($(#[$doc:meta])* $first:ident, $next:ident, $multiply:literal, $add:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// AVX2; that word is readable.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(in crate::cpu) unsafe fn $first<const AT: usize>(
            w: [__m256i; 2],
            x: *const i32,
        ) -> [__m256i; 2] {
            let (s0, s1);
            // SAFETY: reads that word and nothing else.
            unsafe {
                asm!(
                    "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
                    concat!($multiply, " {s0}, {w0}, {x}"),
                    concat!($multiply, " {s1}, {w1}, {x}"),
                    x_at = in(reg) x,
                    offset = const 4 * AT,
                    w0 = in(ymm_reg) w[0],
                    w1 = in(ymm_reg) w[1],
                    x = out(ymm_reg) _,
                    s0 = out(ymm_reg) s0,
                    s1 = lateout(ymm_reg) s1,
                    options(readonly, nostack, preserves_flags),
                );
            }
            [s0, s1]
        }

        #[doc = concat!("Adds those of [`", stringify!($first), "`] to `sums`.")]
        ///
        /// # Safety
        /// As there.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(in crate::cpu) unsafe fn $next<const AT: usize>(
            sums: &mut [__m256i; 2],
            w: [__m256i; 2],
            x: *const i32,
        ) {
            let [s0, s1] = sums;
            // SAFETY: reads that word and nothing else.
            unsafe {
                asm!(
                    "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
                    concat!($multiply, " {p}, {w0}, {x}"),
                    concat!($multiply, " {x}, {w1}, {x}"),
                    concat!($add, " {s0}, {s0}, {p}"),
                    concat!($add, " {s1}, {s1}, {x}"),
                    x_at = in(reg) x,
                    offset = const 4 * AT,
                    w0 = in(ymm_reg) w[0],
                    w1 = in(ymm_reg) w[1],
                    x = out(ymm_reg) _,
                    p = out(ymm_reg) _,
                    s0 = inout(ymm_reg) *s0,
                    s1 = inout(ymm_reg) *s1,
                    options(readonly, nostack, preserves_flags),
                );
            }
        }
    };
}

steps! {
    /// Sums of two products of unsigned `w` and the four integers `AT` words after `x`, i16.
    first, next, "vpmaddubsw", "vpaddw"
}
steps! {
    /// Products of two i16 in each i32 of `w` and the two `AT` words after `x`, added, i32.
    first_wide, next_wide, "vpmaddwd", "vpaddd"
}

/// Those of [`first`] added to what they begin with: two i16 of `begin`, `[groups, CHAINS]`, for
/// group `at` and, where it has two chains, the one that step `AT` begins.
///
/// # Safety
/// As [`first`]; so is that of `begin`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn first_from<const AT: usize, const CHAINS: usize>(
    w: [__m256i; 2],
    x: *const i32,
    begin: *const i32,
    at: usize,
) -> [__m256i; 2] {
    let (s0, s1);
    // SAFETY: reads those words and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
            "vpbroadcastd {s1}, dword ptr [{begin} + {each} * {at} + {start}]",
            "vpmaddubsw {s0}, {w0}, {x}",
            "vpmaddubsw {x}, {w1}, {x}",
            "vpaddw {s0}, {s0}, {s1}",
            "vpaddw {s1}, {s1}, {x}",
            x_at = in(reg) x,
            offset = const 4 * AT,
            begin = in(reg) begin,
            at = in(reg) at,
            each = const 4 * CHAINS,
            start = const AT / 4 * 4 * (CHAINS - 1),
            w0 = in(ymm_reg) w[0],
            w1 = in(ymm_reg) w[1],
            x = out(ymm_reg) _,
            s0 = out(ymm_reg) s0,
            s1 = out(ymm_reg) s1,
            options(readonly, nostack, preserves_flags),
        );
    }
    [s0, s1]
}

/// [`first`] of the low nibbles of `w` with the word `LOW` words after `x`, and of the high ones
/// with that `HIGH` words after it; `mask` is 15 in each byte.
///
/// # Safety
/// As [`first`], of both words.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn first_nibbles<const LOW: usize, const HIGH: usize>(
    [w0, w1]: [__m256i; 2],
    mask: __m256i,
    x: *const i32,
) -> [[__m256i; 2]; 2] {
    let (l0, l1, h0, h1);
    // SAFETY: reads those words and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {low}]",
            "vpand {l0}, {h0}, {mask}",
            "vpand {l1}, {h1}, {mask}",
            "vpmaddubsw {l0}, {l0}, {x}",
            "vpmaddubsw {l1}, {l1}, {x}",
            "vpbroadcastd {x}, dword ptr [{x_at} + {high}]",
            "vpsrlw {h0}, {h0}, 4",
            "vpsrlw {h1}, {h1}, 4",
            "vpand {h0}, {h0}, {mask}",
            "vpand {h1}, {h1}, {mask}",
            "vpmaddubsw {h0}, {h0}, {x}",
            "vpmaddubsw {h1}, {h1}, {x}",
            x_at = in(reg) x,
            low = const 4 * LOW,
            high = const 4 * HIGH,
            mask = in(ymm_reg) mask,
            x = out(ymm_reg) _,
            l0 = out(ymm_reg) l0,
            l1 = out(ymm_reg) l1,
            h0 = inout(ymm_reg) w0 => h0,
            h1 = inout(ymm_reg) w1 => h1,
            options(readonly, nostack, preserves_flags),
        );
    }
    [[l0, l1], [h0, h1]]
}

/// Adds those of [`first_nibbles`] to `sums`.
///
/// # Safety
/// As [`first_nibbles`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn next_nibbles<const LOW: usize, const HIGH: usize>(
    sums: &mut [[__m256i; 2]; 2],
    [w0, w1]: [__m256i; 2],
    mask: __m256i,
    x: *const i32,
) {
    let [[l0, l1], [h0, h1]] = sums;
    // SAFETY: reads those words and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {low}]",
            "vpand {p0}, {w0}, {mask}",
            "vpand {p1}, {w1}, {mask}",
            "vpmaddubsw {p0}, {p0}, {x}",
            "vpmaddubsw {p1}, {p1}, {x}",
            "vpbroadcastd {x}, dword ptr [{x_at} + {high}]",
            "vpsrlw {w0}, {w0}, 4",
            "vpsrlw {w1}, {w1}, 4",
            "vpand {w0}, {w0}, {mask}",
            "vpand {w1}, {w1}, {mask}",
            "vpaddw {l0}, {l0}, {p0}",
            "vpaddw {l1}, {l1}, {p1}",
            "vpmaddubsw {w0}, {w0}, {x}",
            "vpmaddubsw {w1}, {w1}, {x}",
            "vpaddw {h0}, {h0}, {w0}",
            "vpaddw {h1}, {h1}, {w1}",
            x_at = in(reg) x,
            low = const 4 * LOW,
            high = const 4 * HIGH,
            mask = in(ymm_reg) mask,
            w0 = inout(ymm_reg) w0 => _,
            w1 = inout(ymm_reg) w1 => _,
            x = out(ymm_reg) _,
            p0 = out(ymm_reg) _,
            p1 = out(ymm_reg) _,
            l0 = inout(ymm_reg) *l0,
            l1 = inout(ymm_reg) *l1,
            h0 = inout(ymm_reg) *h0,
            h1 = inout(ymm_reg) *h1,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// The products of step `AT` of four groups, whose `words` are laid by
/// [`sixes`](super::pack), with the words of `x` `AT` after each group's first, added to `sums`, i16;
/// `mask` is 63 in each byte.
///
/// # Safety
/// As [`first`]; the step's words of a panel are readable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn sixes<const AT: usize>(
    sums: &mut [[__m256i; 2]; 4],
    words: *const u8,
    mask: __m256i,
    x: *const i32,
) {
    let [[a0, a1], [b0, b1], [c0, c1], [d0, d1]] = sums;
    // SAFETY: reads those words and nothing else.
    unsafe {
        asm!(
            "vpbroadcastd {x}, dword ptr [{x_at} + {x_word}]",
            "vpand {p0}, {mask}, ymmword ptr [{w} + {w_word}]",
            "vpand {p1}, {mask}, ymmword ptr [{w} + {w_word} + 32]",
            "vpmaddubsw {p0}, {p0}, {x}",
            "vpmaddubsw {p1}, {p1}, {x}",
            "vpbroadcastd {x}, dword ptr [{x_at} + {x_word} + 32]",
            "vpaddw {a0}, {a0}, {p0}",
            "vpaddw {a1}, {a1}, {p1}",
            "vpand {p0}, {mask}, ymmword ptr [{w} + {w_word} + 64]",
            "vpand {p1}, {mask}, ymmword ptr [{w} + {w_word} + 96]",
            "vpmaddubsw {p0}, {p0}, {x}",
            "vpmaddubsw {p1}, {p1}, {x}",
            "vpbroadcastd {x}, dword ptr [{x_at} + {x_word} + 64]",
            "vpaddw {b0}, {b0}, {p0}",
            "vpaddw {b1}, {b1}, {p1}",
            "vpand {p0}, {mask}, ymmword ptr [{w} + {w_word} + 128]",
            "vpand {p1}, {mask}, ymmword ptr [{w} + {w_word} + 160]",
            "vpmaddubsw {p0}, {p0}, {x}",
            "vpmaddubsw {p1}, {p1}, {x}",
            "vpbroadcastd {x}, dword ptr [{x_at} + {x_word} + 96]",
            "vpaddw {c0}, {c0}, {p0}",
            "vpaddw {c1}, {c1}, {p1}",
            // The top bits of the three.
            "vpandn {p0}, {mask}, ymmword ptr [{w} + {w_word}]",
            "vpandn {p1}, {mask}, ymmword ptr [{w} + {w_word} + 32]",
            "vpandn {t0}, {mask}, ymmword ptr [{w} + {w_word} + 64]",
            "vpandn {t1}, {mask}, ymmword ptr [{w} + {w_word} + 96]",
            "vpsrlw {p0}, {p0}, 2",
            "vpsrlw {p1}, {p1}, 2",
            "vpor {p0}, {p0}, {t0}",
            "vpor {p1}, {p1}, {t1}",
            "vpandn {t0}, {mask}, ymmword ptr [{w} + {w_word} + 128]",
            "vpandn {t1}, {mask}, ymmword ptr [{w} + {w_word} + 160]",
            "vpsrlw {p0}, {p0}, 2",
            "vpsrlw {p1}, {p1}, 2",
            "vpor {p0}, {p0}, {t0}",
            "vpor {p1}, {p1}, {t1}",
            "vpsrlw {p0}, {p0}, 2",
            "vpsrlw {p1}, {p1}, 2",
            "vpmaddubsw {p0}, {p0}, {x}",
            "vpmaddubsw {p1}, {p1}, {x}",
            "vpaddw {d0}, {d0}, {p0}",
            "vpaddw {d1}, {d1}, {p1}",
            x_at = in(reg) x,
            x_word = const 4 * AT,
            w = in(reg) words,
            w_word = const 3 * 64 * AT,
            mask = in(ymm_reg) mask,
            x = out(ymm_reg) _,
            p0 = out(ymm_reg) _,
            p1 = out(ymm_reg) _,
            t0 = out(ymm_reg) _,
            t1 = out(ymm_reg) _,
            a0 = inout(ymm_reg) *a0,
            a1 = inout(ymm_reg) *a1,
            b0 = inout(ymm_reg) *b0,
            b1 = inout(ymm_reg) *b1,
            c0 = inout(ymm_reg) *c0,
            c1 = inout(ymm_reg) *c1,
            d0 = inout(ymm_reg) *d0,
            d1 = inout(ymm_reg) *d1,
            options(readonly, nostack, preserves_flags),
        );
    }
}

/// Makes a step of `vpdpbusd` from its instructions.
macro_rules! dots {
    ($(#[$doc:meta])* $name:ident, $features:literal, $v:ident, $reg:ident, $n:literal,
     [$($line:literal),*], {$($w:ident, $s:ident, $i:literal);*} $(, $x:ident)?) => {
        $(#[$doc])*
        /// Adds the products of the four unsigned bytes in each i32 of `w` and the four integers
        /// `AT` words after `x` to `sums`, i32.
        ///
        /// # Safety
        /// The instruction set; that word is readable.
        #[inline]
        #[target_feature(enable = $features)]
        pub(in crate::cpu) unsafe fn $name<const AT: usize>(
            sums: &mut [$v; $n],
            w: [$v; $n],
            x: *const i32,
        ) {
            // SAFETY: reads that word and nothing else.
            unsafe {
                asm!(
                    $($line,)*
                    x_at = in(reg) x,
                    offset = const 4 * AT,
                    $($w = in($reg) w[$i], $s = inout($reg) sums[$i],)*
                    $($x = out($reg) _,)?
                    options(readonly, nostack, preserves_flags),
                );
            }
        }
    };
}

dots! {
    /// AVX-VNNI.
    vex, "avx2,fma,f16c,avxvnni", __m256i, ymm_reg, 2,
    [
        "vpbroadcastd {x}, dword ptr [{x_at} + {offset}]",
        "{{vex}} vpdpbusd {s0}, {w0}, {x}",
        "{{vex}} vpdpbusd {s1}, {w1}, {x}"
    ],
    {w0, s0, 0; w1, s1, 1}, x
}
dots! {
    /// As AVX-512 encodes it.
    evex, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", __m256i, ymm_reg, 2,
    [
        "vpdpbusd {s0}, {w0}, dword ptr [{x_at} + {offset}]{{1to8}}",
        "vpdpbusd {s1}, {w1}, dword ptr [{x_at} + {offset}]{{1to8}}"
    ],
    {w0, s0, 0; w1, s1, 1}
}
dots! {
    /// On 512 bits.
    avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni", __m512i, zmm_reg, 1,
    ["vpdpbusd {s0}, {w0}, dword ptr [{x_at} + {offset}]{{1to16}}"],
    {w0, s0, 0}
}
