//! Decode: panels of interleaved rows of weights times one row of activations.
//!
//! A panel is read in one stream, each line once and in order, all parts of a line one after the
//! other: so the processor's own prefetching keeps up, and asking for lines ahead only gets in its
//! way. Activations, which every panel reads again, do not stay in the first-level cache beside
//! such a stream, and are asked for.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#![allow(clippy::needless_range_loop)] // as in `gemm`

use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};

use super::unpack::{Scales, Unpack, unroll};
use super::wide::{MAX_PARTS, Wide};
use super::{Weights, pack};
use crate::cpu::activation::{CENTRE, GROUP, Rows};
use crate::cpu::ahead::ask_near;

#[cfg(target_arch = "aarch64")]
pub(in crate::cpu) mod arm;
#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) mod x86;

/// Groups of activations that are asked for at once, while as many before them are multiplied: four
/// cache lines of integers. Of 16 at a time Q4_0 gained half as much, and of one at a time nothing.
const ASKED: usize = 8;

/// The f32 of each part of a panel.
type Parts<V> = [<V as Wide>::Floats; MAX_PARTS];

/// How an instruction set multiplies bytes.
trait Multiply {
    /// Its registers.
    type V: Wide;
    /// Whether a super-block's scales and mins wait in memory, all made before its products:
    /// where registers do not hold their bytes either.
    const WAIT: bool;

    /// The sums of the products of groups `g..g + N` of each part of a panel's blocks with groups
    /// `at..at + N` of activations, exact, times factors where the format has them.
    ///
    /// # Safety
    /// The instruction set; the blocks and these groups are readable.
    unsafe fn sums<B: Unpack, const N: usize>(
        block: *const u8,
        scales: &[B::Scales<Self::V>; MAX_PARTS],
        g: usize,
        x: &Rows<'_>,
        at: usize,
    ) -> [Parts<Self::V>; N];

    /// Has the accumulators ready before what comes next, where that matters to the compiler's
    /// order.
    #[inline(always)]
    fn settle(_acc: &mut Parts<Self::V>) {}
}

/// The scales and mins of a super-block's groups, `[8, parts]`.
#[derive(Clone, Copy)]
struct Waiting<V: Wide> {
    scale: [Parts<V>; 8],
    min: [Parts<V>; 8],
}

/// Whether a format's scales and mins are [`Waiting`].
const fn wait<B: Unpack, M: Multiply>() -> bool {
    M::WAIT && B::LEN == 8 * GROUP && B::HAS_MIN
}

/// Keeps the compiler from reading weights in another order.
#[inline(always)]
fn in_order() {
    compiler_fence(Ordering::SeqCst);
}

/// Every row of `w` times the one row of `x`.
///
/// # Safety
/// The instruction set of `M`; shapes as the table's type says; `x.n` is 1.
#[inline(always)]
unsafe fn rows<B: Unpack, M: Multiply>(w: &Weights<'_>, x: &Rows<'_>, out: &mut [f32]) {
    const { assert!(!B::FACTORS || B::OFFSET == CENTRE && B::TOGETHER == 4) };
    for (panel, out) in out[..w.rows].chunks_mut(pack::ROWS).enumerate() {
        let mut lanes = [0.0; pack::ROWS];
        // SAFETY: by this function's contract a panel is whole.
        unsafe {
            let panel = w.bytes.as_ptr().add(panel * pack::ROWS * w.stride);
            panel_dot::<B, M>(panel, x, &mut lanes);
        }
        match <&mut [f32; pack::ROWS]>::try_from(&mut *out) {
            Ok(out) => *out = lanes,
            Err(_) => out.copy_from_slice(&lanes[..out.len()]),
        }
    }
}

/// A panel times one row of activations.
///
/// # Safety
/// As [`rows`]; the panel is as long as `x`.
#[inline(always)]
unsafe fn panel_dot<B: Unpack, M: Multiply>(
    panel: *const u8,
    x: &Rows<'_>,
    out: &mut [f32; pack::ROWS],
) {
    let groups = const { B::LEN / GROUP };
    // SAFETY: by this function's contract: blocks and activations below `x.groups` are read.
    unsafe {
        let mut acc = [M::V::zeros(); MAX_PARTS];
        let mut waiting = Waiting {
            scale: [acc; 8],
            min: [acc; 8],
        };
        for b in 0..x.groups / groups {
            let block = panel.add(b * pack::ROWS * size_of::<B>());
            if (b * groups).is_multiple_of(ASKED) {
                ask::<B>(x, b * groups + ASKED);
            }
            let mut scales = [B::Scales::<M::V>::load(block, 0); MAX_PARTS];
            for i in 1..M::V::PARTS {
                scales[i] = B::Scales::load(block, i);
            }
            if const { wait::<B, M>() } {
                unroll!(8, G => {
                    for i in 0..M::V::PARTS {
                        waiting.scale[G][i] = scales[i].scale(G);
                        waiting.min[G][i] = scales[i].min(G);
                    }
                });
                // The compiler would make them between the products.
                black_box(&mut waiting);
            }
            unroll!(B::LEN / GROUP / B::TOGETHER, I => {
                let g = I * B::TOGETHER;
                let at = b * groups + g;
                match B::TOGETHER {
                    1 => add::<B, M, 1>(block, &scales, &waiting, g, x, at, &mut acc),
                    2 => add::<B, M, 2>(block, &scales, &waiting, g, x, at, &mut acc),
                    _ => add::<B, M, 4>(block, &scales, &waiting, g, x, at, &mut acc),
                }
            });
        }
        for i in 0..M::V::PARTS {
            M::V::store(acc[i], out.as_mut_ptr().add(i * M::V::ROWS));
        }
    }
}

/// Asks for the activations of [`ASKED`] groups from `at` on, or behind the last for the first ones,
/// with which the next panel begins.
#[inline(always)]
fn ask<B: Unpack>(x: &Rows<'_>, at: usize) {
    let at = if at < x.groups { at } else { 0 };
    ask_near(x.q.as_ptr().wrapping_add(at * GROUP).cast(), ASKED * GROUP);
    ask_near(
        x.scale.as_ptr().wrapping_add(at).cast(),
        ASKED * size_of::<f32>(),
    );
    if B::HAS_MIN {
        ask_near(
            x.scaled_sum.as_ptr().wrapping_add(at).cast(),
            ASKED * size_of::<f32>(),
        );
    } else if B::FACTORS {
        ask_near(
            x.centre.as_ptr().wrapping_add(at).cast(),
            ASKED * size_of::<[[i16; 2]; 2]>(),
        );
    } else {
        ask_near(
            x.halves.as_ptr().wrapping_add(at).cast(),
            ASKED * size_of::<[i16; 2]>(),
        );
    }
}

/// Adds the products of groups `g..g + N` of a panel's blocks and groups `at..at + N` of the
/// activations to the parts' accumulators.
///
/// # Safety
/// As [`rows`]; `at + N` is at most `x.groups`.
#[inline(always)]
unsafe fn add<B: Unpack, M: Multiply, const N: usize>(
    block: *const u8,
    scales: &[B::Scales<M::V>; MAX_PARTS],
    waiting: &Waiting<M::V>,
    g: usize,
    x: &Rows<'_>,
    at: usize,
    acc: &mut Parts<M::V>,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let sums = M::sums::<B, N>(block, scales, g, x, at);
        for e in 0..N {
            let x_scale = M::V::splat(*x.scale.get_unchecked(at + e));
            let x_sum = M::V::splat(*x.scaled_sum.get_unchecked(at + e));
            for i in 0..M::V::PARTS {
                let (scale, min) = if const { wait::<B, M>() } {
                    (waiting.scale[g + e][i], waiting.min[g + e][i])
                } else {
                    (scales[i].scale(g + e), scales[i].min(g + e))
                };
                let scale = M::V::mul(scale, x_scale);
                acc[i] = M::V::fma(sums[e][i], scale, acc[i]);
                if B::HAS_MIN {
                    acc[i] = M::V::fnma(min, x_sum, acc[i]);
                }
            }
        }
        M::settle(acc);
    }
}
