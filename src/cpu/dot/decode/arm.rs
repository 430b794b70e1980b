//! How NEON multiplies: four rows a register, so that a line of a panel is four of them.
//!
//! What a kernel calls must be inlined into it, so there are no closures on the way, and none of
//! the standard library's functions that take one: they are not always.

use std::arch::aarch64::*;

use super::{Multiply, Parts, in_order, rows};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::dot::Weights;
use crate::cpu::dot::neon::{
    MAGIC, add_products, factors, from_magic, products, sdot_lane, settle, splat, times_factors,
};
use crate::cpu::dot::unpack::{STEPS, Scales, Unpack, unroll};
use crate::cpu::dot::wide::{MAX_PARTS, Wide};

/// The integers of four rows.
type V = uint8x16_t;

/// Decode with dot products: every row of `w` times the one row of `x`.
///
/// # Safety
/// Dotprod; shapes as the table's type says; `x.n` is 1.
#[target_feature(enable = "dotprod")]
pub(in crate::cpu) unsafe fn dotprod<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { rows::<B, Dotprod>(&w, &x, out) }
}

/// Decode with what every 64-bit ARM has: every row of `w` times the one row of `x`.
///
/// # Safety
/// Shapes as the table's type says; `x.n` is 1.
pub(in crate::cpu) unsafe fn baseline<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { rows::<B, Baseline>(&w, &x, out) }
}

/// How an instruction set multiplies registers.
pub(super) trait Products {
    /// Sums of the products of a register and a group of activations.
    type Sums: Copy;
    /// In how many rounds four groups are multiplied whose values share bytes, since registers do
    /// not hold all their sums.
    const ROUNDS: usize;

    /// Sums of nothing, to which `start` is added: the first for all, or the two for halves.
    fn begin(start: [int32x4_t; 2]) -> Self::Sums;

    /// Adds the products of the `s`th step, of `w` with lane `LANE` of `q`.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn add<B: Unpack, const LANE: i32>(
        sums: &mut Self::Sums,
        s: usize,
        w: int8x16_t,
        q: int8x16_t,
    );

    /// The sums, a row a lane.
    fn end(sums: Self::Sums) -> [int32x4_t; 2];
}

/// Steps that are summed together: a group's, or where halves have factors a half's.
const fn span<B: Unpack>() -> usize {
    if B::FACTORS { STEPS / 2 } else { STEPS }
}

/// Dot products: a step of four rows is one instruction.
enum Dotprod {}

impl Products for Dotprod {
    type Sums = [int32x4_t; 2];
    const ROUNDS: usize = 1;

    #[inline(always)]
    fn begin(start: [int32x4_t; 2]) -> [int32x4_t; 2] {
        start
    }

    #[inline(always)]
    unsafe fn add<B: Unpack, const LANE: i32>(
        sums: &mut [int32x4_t; 2],
        s: usize,
        w: int8x16_t,
        q: int8x16_t,
    ) {
        let sum = &mut sums[s / span::<B>()];
        // SAFETY: by the trait's contract.
        *sum = unsafe { settle(sdot_lane::<LANE>(*sum, w, q)) };
    }

    #[inline(always)]
    fn end(sums: [int32x4_t; 2]) -> [int32x4_t; 2] {
        sums
    }
}

/// What every 64-bit ARM has: sums of 16 bits as long as they fit, then of 32.
enum Baseline {}

/// Sums of the baseline.
#[derive(Clone, Copy)]
struct Growing {
    /// Of two rows each.
    short: [int16x8_t; 2],
    /// Of two rows each.
    long: [int32x4_t; 2],
    /// Of all four.
    sums: [int32x4_t; 2],
}

impl Products for Baseline {
    type Sums = Growing;
    const ROUNDS: usize = 2;

    #[inline(always)]
    fn begin(start: [int32x4_t; 2]) -> Growing {
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            Growing {
                short: [vdupq_n_s16(0); 2],
                long: [vdupq_n_s32(0); 2],
                sums: start,
            }
        }
    }

    #[inline(always)]
    unsafe fn add<B: Unpack, const LANE: i32>(
        sums: &mut Growing,
        s: usize,
        w: int8x16_t,
        q: int8x16_t,
    ) {
        // Where sums of two products fit, twice as many of one do.
        let chain = const { if B::CHAIN < 4 { 2 * B::CHAIN } else { STEPS } };
        let Growing { short, long, sums } = sums;
        let sum = &mut sums[s / span::<B>()];
        let q = splat::<LANE>(q);
        if s.is_multiple_of(chain) {
            *short = products(w, q);
        } else {
            add_products(short, w, q);
        }
        // SAFETY: every 64-bit ARM has NEON.
        unsafe {
            if B::CHAIN == 8 {
                // 16 products fit.
                if s == STEPS - 1 {
                    *sum = vpadalq_s16(*sum, vpaddq_s16(short[0], short[1]));
                }
                return;
            }
            if s.is_multiple_of(span::<B>()) {
                *long = [vdupq_n_s32(0); 2];
            }
            if (s + 1).is_multiple_of(chain) {
                long[0] = vpadalq_s16(long[0], short[0]);
                long[1] = vpadalq_s16(long[1], short[1]);
            }
            if (s + 1).is_multiple_of(span::<B>()) {
                *sum = vaddq_s32(*sum, vpaddq_s32(long[0], long[1]));
            }
        }
    }

    #[inline(always)]
    fn end(sums: Growing) -> [int32x4_t; 2] {
        sums.sums
    }
}

/// How many of `n` groups are multiplied at once.
const fn at_once<P: Products>(n: usize) -> usize {
    if n == 4 { n / P::ROUNDS } else { n }
}

impl<P: Products> Multiply for P {
    type V = V;
    const WAIT: bool = false;

    /// What two steps or groups share are a word's low nibbles and its high ones, and the high ones
    /// go first: the low ones may then be completed where the word is.
    #[inline(always)]
    unsafe fn sums<B: Unpack, const N: usize>(
        block: *const u8,
        scales: &[B::Scales<V>; MAX_PARTS],
        g: usize,
        x: &Rows<'_>,
        at: usize,
    ) -> [Parts<V>; N] {
        // SAFETY: by the trait's contract.
        unsafe {
            let mut out = [[V::zeros(); MAX_PARTS]; N];
            unroll!(N / at_once::<P>(N), R => {
                let (first, last) = (R * at_once::<P>(N), (R + 1) * at_once::<P>(N) - 1);
                let mut sums = [[P::begin([vdupq_n_s32(0); 2]); MAX_PARTS]; N];
                let mut q = [[vdupq_n_s8(0); 2]; N];
                unroll!(at_once::<P>(N), E => {
                    let e = first + E;
                    sums[e] = [P::begin(start::<B>(x, at + e)); MAX_PARTS];
                    let from = x.q.as_ptr().add((at + e) * GROUP);
                    q[e] = [vld1q_s8(from), vld1q_s8(from.add(16))];
                });
                unroll!(STEPS, S => {
                    let t = if B::SPLIT { S / 2 + (1 - S % 2) * 4 } else { S };
                    if B::LEN > GROUP {
                        in_order();
                    }
                    unroll!(at_once::<P>(N), E => {
                        let e = last - E;
                        let mut w = [vdupq_n_s8(0); MAX_PARTS];
                        for i in 0..MAX_PARTS {
                            w[i] = vreinterpretq_s8_u8(B::unpack::<V>(block, i, g + e, t));
                        }
                        for i in 0..MAX_PARTS {
                            let (sums, q) = (&mut sums[e][i], q[e][t / 4]);
                            if B::SPLIT {
                                P::add::<B, { S as i32 / 2 }>(sums, S, w[i], q);
                            } else {
                                P::add::<B, { S as i32 % 4 }>(sums, S, w[i], q);
                            }
                        }
                    });
                });
                unroll!(at_once::<P>(N), E => {
                    let e = first + E;
                    for i in 0..MAX_PARTS {
                        let [first, second] = P::end(sums[e][i]);
                        out[e][i] = if B::FACTORS {
                            let halves = [from_magic(first), from_magic(second)];
                            let last = (g + e) % 2 == 1;
                            times_factors(halves, factors(scales[i].factors(g + e), last))
                        } else {
                            from_magic(first)
                        };
                    }
                });
            });
            out
        }
    }

    #[inline(always)]
    fn settle(acc: &mut Parts<V>) {
        for acc in acc {
            // SAFETY: every 64-bit ARM has NEON.
            *acc = unsafe { vreinterpretq_f32_s32(settle(vreinterpretq_s32_f32(*acc))) };
        }
    }
}

/// What is added to the sums of a group's halves, or to the sum of all in the first place: what is
/// to be subtracted from weights, times activations, and [`MAGIC`].
///
/// # Safety
/// Group `at` of `x` is readable.
#[inline(always)]
unsafe fn start<B: Unpack>(x: &Rows<'_>, at: usize) -> [int32x4_t; 2] {
    // SAFETY: by this function's contract; every 64-bit ARM has NEON.
    unsafe {
        if B::FACTORS {
            let [first, second] = *x.centre.get_unchecked(at);
            let sum = |[a, b]: [i16; 2]| i32::from(a) + i32::from(b);
            [
                vdupq_n_s32(MAGIC + sum(first)),
                vdupq_n_s32(MAGIC + sum(second)),
            ]
        } else {
            let [first, second] = *x.halves.get_unchecked(at);
            let sum = i32::from(first) + i32::from(second);
            [vdupq_n_s32(MAGIC - i32::from(B::OFFSET) * sum); 2]
        }
    }
}
