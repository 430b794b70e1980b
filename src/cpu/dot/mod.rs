//! Dot products with weights: one format a file, taken apart once for all instruction sets.
//!
//! Every quantised format is seen as groups of 32 integers, `value = scale * q - min`, and one
//! output is summed in one order on every instruction set, for one row of activations or many:
//! an f32 accumulator takes, group after group,
//! `acc = fma(sum of q * xq, scale * xscale, acc)` with the sum exact in integers, and for formats
//! with a min then `acc = fma(-min, xscale * sum of xq, acc)`. So all give the same bits.
//!
//! Float formats have 16 partial sums, element `k` going to lane `k % 16` by a fused
//! multiply-add, and the tree of [`math::tree`](super::math) at the end.

pub(super) mod decode;
pub(super) mod float;
mod k;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod pack;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
#[cfg(target_arch = "x86_64")]
pub(super) mod step;
#[cfg(test)]
mod tests;
pub(super) mod unpack;
pub(super) mod wide;

use katari_gguf::block::Quantized;

use super::activation::{GROUP, Rows};

/// Rows of a weight, as they lie in the file or interleaved.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    /// The first row's first byte is the first; row `i` starts at `i * stride`, or where rows are
    /// interleaved each panel of them does.
    pub bytes: &'a [u8],
    /// Bytes in a row, and from row to row.
    pub stride: usize,
    /// How many rows.
    pub rows: usize,
}

impl<'a> Weights<'a> {
    /// Rows `start..start + rows` of these, whose panels have `panel` rows each (1 as they lie in
    /// the file); `start` begins a panel.
    pub(super) fn rows(&self, start: usize, rows: usize, panel: usize) -> Weights<'a> {
        assert!(start.is_multiple_of(panel));
        let end = (start + rows).next_multiple_of(panel);
        Weights {
            bytes: &self.bytes[start * self.stride..end * self.stride],
            stride: self.stride,
            rows,
        }
    }

    /// Row `i`, of rows as they lie.
    pub(super) fn row(&self, i: usize) -> &'a [u8] {
        &self.bytes[i * self.stride..(i + 1) * self.stride]
    }
}

/// The longest block, in values, and its groups.
const BLOCK: usize = 256;
const BLOCK_GROUPS: usize = BLOCK / GROUP;

/// A block as integers.
pub(super) struct Integers {
    /// The integers, `[LEN]`.
    pub q: [i8; BLOCK],
    /// What the sums of each 16 products are multiplied by, `[LEN / 16]`.
    pub factor: [i32; BLOCK / 16],
    /// `[LEN / 32]`.
    pub scale: [f32; BLOCK_GROUPS],
    /// `[LEN / 32]`.
    pub min: [f32; BLOCK_GROUPS],
}

impl Integers {
    const ZERO: Integers = Integers {
        q: [0; BLOCK],
        factor: [1; BLOCK / 16],
        scale: [0.0; BLOCK_GROUPS],
        min: [0.0; BLOCK_GROUPS],
    };
}

/// A quantised format as the kernels see it.
pub(super) trait Groups: Quantized {
    /// Takes the block apart.
    fn groups(&self, out: &mut Integers) {
        let n = Self::LEN / GROUP;
        self.integers(
            &mut out.q[..Self::LEN],
            &mut out.scale[..n],
            &mut out.min[..n],
        );
    }
}

/// The reference: every row of `w` times every row of `x`, to `out` `[x.n, stride]`.
///
/// # Safety
/// None needed: unsafe only so that all instruction sets have one type.
pub(super) unsafe fn scalar<B: Groups>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    let mut block = Integers::ZERO;
    for i in 0..w.rows {
        for n in 0..x.n {
            out[n * stride + i] = 0.0;
        }
        let blocks: &[B] = bytemuck::cast_slice(w.row(i));
        for (b, packed) in blocks.iter().enumerate() {
            packed.groups(&mut block);
            for g in 0..B::LEN / GROUP {
                for n in 0..x.n {
                    let at = n * x.groups + b * (B::LEN / GROUP) + g;
                    let acc = &mut out[n * stride + i];
                    *acc = group::<B>(&block, g, &x, at, *acc);
                }
            }
        }
    }
}

/// Adds the products of group `g` of a block and group `at` of the activations to `acc`.
#[inline(always)]
fn group<B: Groups>(block: &Integers, g: usize, x: &Rows<'_>, at: usize, acc: f32) -> f32 {
    let mut sum = 0;
    for half in 0..2 {
        let q = &block.q[g * GROUP + half * 16..][..16];
        let xq = &x.q[at * GROUP + half * 16..][..16];
        let products = q.iter().zip(xq).map(|(&q, &x)| i32::from(q) * i32::from(x));
        sum += block.factor[g * 2 + half] * products.sum::<i32>();
    }
    let acc = (sum as f32).mul_add(block.scale[g] * x.scale[at], acc);
    if B::HAS_MIN {
        (-block.min[g]).mul_add(x.scaled_sum[at], acc)
    } else {
        acc
    }
}
