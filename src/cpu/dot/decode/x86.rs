//! How x86 multiplies.

use std::arch::x86_64::*;

use super::{Multiply, Parts, in_order, rows};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::dot::Weights;
use crate::cpu::dot::step::{self, first, first_nibbles, next, next_nibbles, sixes};
use crate::cpu::dot::unpack::{STEPS, Scales, Unpack, unroll};
use crate::cpu::dot::wide::{Ints, MAX_PARTS, Wide};

/// How an instruction set multiplies bytes.
pub(super) trait Products {
    /// Its registers.
    type V: Ints;
    /// Whether signed integers are made unsigned first, by adding 128.
    const UNSIGNED: bool;

    /// The products of groups `g..g + N` of each part of a panel's blocks with activations `q`,
    /// with [`offset`] in them: `[N][part]`. Where the format has factors, times those, and without
    /// the offset: sums begin with `centre`, the activations' [`Rows::centre`].
    ///
    /// # Safety
    /// The instruction set; the blocks and `N` groups of activations are readable.
    unsafe fn products<B: Unpack, const N: usize>(
        block: *const u8,
        scales: &[B::Scales<Self::V>; MAX_PARTS],
        g: usize,
        q: *const i32,
        centre: *const i32,
    ) -> [[Self::V; 2]; N];
}

/// What is to be subtracted from the integers, given whether signed ones are made unsigned.
pub(in crate::cpu) const fn offset<B: Unpack>(unsigned: bool) -> i16 {
    if B::CHAIN == 1 && unsigned {
        128
    } else {
        B::OFFSET
    }
}

impl<P: Products> Multiply for P {
    type V = P::V;
    /// AVX-512 has 32 registers of which each is twice as wide.
    const WAIT: bool = P::V::PARTS > 1;

    #[inline(always)]
    unsafe fn sums<B: Unpack, const N: usize>(
        block: *const u8,
        scales: &[B::Scales<P::V>; MAX_PARTS],
        g: usize,
        x: &Rows<'_>,
        at: usize,
    ) -> [Parts<P::V>; N] {
        // SAFETY: by the trait's contract; two i16 are one i32.
        unsafe {
            let q = x.q.as_ptr().add(at * GROUP).cast();
            let centre = x.centre.as_ptr().add(at).cast();
            let products = P::products::<B, N>(block, scales, g, q, centre);
            let offset = const { offset::<B>(P::UNSIGNED) };
            let mut sums = [[P::V::zeros(); MAX_PARTS]; N];
            for e in 0..N {
                let halves = x.halves.as_ptr().add(at + e).cast::<i32>();
                let halves = P::V::splat32(halves.read_unaligned());
                for i in 0..P::V::PARTS {
                    let mut sum = products[e][i];
                    if offset != 0 && !B::FACTORS {
                        sum = sum.sub32(halves.madd16(P::V::splat16(offset)));
                    }
                    sums[e][i] = sum.to_floats();
                }
            }
            sums
        }
    }
}

/// Sums of two products of signed `w` and the four integers at `x`, i16: at most `2 * 128 * 127`.
///
/// # Safety
/// AVX2; `x` is readable.
#[inline(always)]
unsafe fn signed(w: [__m256i; 2], x: *const i32) -> [__m256i; 2] {
    // SAFETY: by this function's contract.
    unsafe {
        let x = _mm256_set1_epi32(x.read_unaligned());
        let [w0, w1] = w;
        [
            _mm256_maddubs_epi16(_mm256_abs_epi8(w0), _mm256_sign_epi8(x, w0)),
            _mm256_maddubs_epi16(_mm256_abs_epi8(w1), _mm256_sign_epi8(x, w1)),
        ]
    }
}

/// The `i`th step of formats that are [split](Unpack::SPLIT): both steps of a word, then both of the
/// next.
const fn split(i: usize) -> usize {
    i % 2 * (STEPS / 2) + i / 2
}

/// AVX2: 16-bit sums first.
enum Avx2 {}

impl Products for Avx2 {
    type V = __m256i;
    const UNSIGNED: bool = false;

    #[inline(always)]
    unsafe fn products<B: Unpack, const N: usize>(
        block: *const u8,
        scales: &[B::Scales<__m256i>; MAX_PARTS],
        g: usize,
        q: *const i32,
        centre: *const i32,
    ) -> [[__m256i; 2]; N] {
        // SAFETY: by the trait's contract.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; N];
            if B::NIBBLES {
                let mask = _mm256_set1_epi8(15);
                let mut short = [[_mm256_setzero_si256(); 2]; 2];
                unroll!(STEPS, T => {
                    const HIGH: usize = STEPS + T;
                    in_order();
                    let w = [B::nibbles(block, 0, g, T), B::nibbles(block, 1, g, T)];
                    if T == 0 {
                        short = first_nibbles::<T, HIGH>(w, mask, q);
                    } else {
                        next_nibbles::<T, HIGH>(&mut short, w, mask, q);
                    }
                });
                for e in 0..N {
                    for i in 0..2 {
                        sums[e][i] = _mm256_madd_epi16(short[e][i], _mm256_set1_epi16(1));
                    }
                }
                return sums;
            }
            if B::FACTORS {
                let mask = _mm256_set1_epi8(63);
                unroll!(2, HALF => {
                    let mut short = [[_mm256_setzero_si256(); 2]; 4];
                    for e in 0..N {
                        let begin = centre.add(2 * e + HALF).read_unaligned();
                        short[e] = [_mm256_set1_epi32(begin); 2];
                    }
                    unroll!(4, T => {
                        const AT: usize = 4 * HALF + T;
                        sixes::<AT>(&mut short, B::sixes(block, g), mask, q);
                    });
                    for e in 0..N {
                        for i in 0..2 {
                            let by = scales[i].factors(g + e).both16((g + e) % 2 * 2 + HALF);
                            let long = _mm256_madd_epi16(short[e][i], by);
                            sums[e][i] = _mm256_add_epi32(sums[e][i], long);
                        }
                    }
                });
                return sums;
            }
            let mut short = [[_mm256_setzero_si256(); 2]; N];
            unroll!(STEPS, I => {
                const SPLIT: usize = split(I);
                // A word's two steps may share one load of it.
                if !B::SPLIT || I % 2 == 0 {
                    in_order();
                }
                unroll!(N, E => {
                    let x = q.add(E * STEPS);
                    let short = &mut short[E];
                    let t = if B::SPLIT { SPLIT } else { I };
                    let w = [
                        B::unpack::<__m256i>(block, 0, g + E, t),
                        B::unpack::<__m256i>(block, 1, g + E, t),
                    ];
                    match (I % B::CHAIN, B::SPLIT) {
                        _ if B::CHAIN == 1 => *short = signed(w, x.add(t)),
                        (0, true) => *short = first::<SPLIT>(w, x),
                        (0, false) => *short = first::<I>(w, x),
                        (_, true) => next::<SPLIT>(short, w, x),
                        (_, false) => next::<I>(short, w, x),
                    }
                    if I % B::CHAIN == B::CHAIN - 1 {
                        for i in 0..2 {
                            let long = _mm256_madd_epi16(short[i], _mm256_set1_epi16(1));
                            sums[E][i] = _mm256_add_epi32(sums[E][i], long);
                        }
                    }
                });
            });
            sums
        }
    }
}

/// Makes a [`Multiply`] of one form of `vpdpbusd` and its decode kernel.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $v:ident, $features:literal, $step:ident) => {
        $(#[$doc])*
        enum $name {}

        impl Products for $name {
            type V = $v;
            const UNSIGNED: bool = true;

            #[inline(always)]
            unsafe fn products<B: Unpack, const N: usize>(
                block: *const u8,
                scales: &[B::Scales<$v>; MAX_PARTS],
                g: usize,
                q: *const i32,
                centre: *const i32,
            ) -> [[$v; 2]; N] {
                // SAFETY: by the trait's contract.
                unsafe {
                    let flip = $v::splat8(if B::CHAIN == 1 { -128 } else { 0 });
                    // Two chains, since each instruction waits for the one before; where there
                    // are factors, one for each.
                    let mut sums = [[[$v::zero(); $v::PARTS]; 2]; N];
                    unroll!(STEPS, I => {
                        const SPLIT: usize = split(I);
                        let t = if B::SPLIT { SPLIT } else { I };
                        if !B::SPLIT || I % 2 == 0 {
                            in_order();
                        }
                        let chain = if B::FACTORS { I / 4 } else { I % 2 };
                        if B::FACTORS && I % 4 == 0 {
                            for e in 0..N {
                                let begin = centre.add(2 * e + chain).read_unaligned();
                                let begin = $v::splat32(begin).madd16($v::splat16(1));
                                sums[e][chain] = [begin; $v::PARTS];
                            }
                        }
                        unroll!(N, E => {
                            let x = q.add(E * STEPS);
                            let mut w = [flip; $v::PARTS];
                            for i in 0..$v::PARTS {
                                w[i] = w[i].xor(B::unpack::<$v>(block, i, g + E, t));
                            }
                            let sums = &mut sums[E][chain];
                            if B::SPLIT {
                                step::$step::<SPLIT>(sums, w, x);
                            } else {
                                step::$step::<I>(sums, w, x);
                            }
                        });
                    });
                    let mut out = [[$v::zero(); 2]; N];
                    for e in 0..N {
                        for i in 0..$v::PARTS {
                            let (mut first, mut second) = (sums[e][0][i], sums[e][1][i]);
                            if B::FACTORS {
                                let (word, at) = (scales[i].factors(g + e), (g + e) % 2 * 2);
                                first = first.mul32(word.signed_byte(at));
                                second = second.mul32(word.signed_byte(at + 1));
                            }
                            out[e][i] = first.add32(second);
                        }
                    }
                    out
                }
            }
        }

        /// Decode: every row of `w` times the one row of `x`.
        ///
        /// # Safety
        /// The instruction set; shapes as the table's type says; `x.n` is 1.
        #[target_feature(enable = $features)]
        pub(in crate::cpu) unsafe fn $step<B: Unpack>(
            w: Weights<'_>,
            x: Rows<'_>,
            out: &mut [f32],
            _stride: usize,
        ) {
            // SAFETY: by this function's contract.
            unsafe { rows::<B, $name>(&w, &x, out) }
        }
    };
}

vnni! {
    /// AVX-VNNI.
    Vex, __m256i, "avx2,fma,f16c,avxvnni", vex
}
vnni! {
    /// The same instruction as AVX-512 encodes it.
    Evex, __m256i, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    evex
}
vnni! {
    /// AVX-512: a panel's 16 rows are one register.
    Avx512, __m512i, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    avx512
}

/// Decode on AVX2: every row of `w` times the one row of `x`.
///
/// # Safety
/// AVX2, FMA and F16C; shapes as the table's type says; `x.n` is 1.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn avx2<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { rows::<B, Avx2>(&w, &x, out) }
}
