//! f32, f16 and bf16 weights (and keys): activations stay f32.

use half::{bf16, f16};

use super::Weights;
use crate::cpu::math::{LANES, tree};

/// Rows of f32, borrowed.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Floats<'a> {
    /// Row `i` is `stride` long and starts at `i * stride`.
    pub data: &'a [f32],
    /// Values from row to row.
    pub stride: usize,
    /// How many rows.
    pub n: usize,
    /// How many values of each row count.
    pub width: usize,
}

/// An element of a float format.
pub(in crate::cpu) trait Float: Copy {
    /// Bytes an element.
    const BYTES: usize;
    /// The value of `BYTES` bytes.
    fn load(bytes: &[u8]) -> f32;
}

impl Float for f32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Float for f16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

impl Float for bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load(bytes: &[u8]) -> f32 {
        bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// The reference: every row of `w` times every row of `x`, to `out` `[x.n, stride]`.
///
/// # Safety
/// None needed: unsafe only so that all instruction sets have one type.
pub(in crate::cpu) unsafe fn scalar<F: Float>(
    w: Weights<'_>,
    x: Floats<'_>,
    out: &mut [f32],
    stride: usize,
) {
    let mut row = vec![0.0; x.width];
    for i in 0..w.rows {
        let bytes = w.row(i)[..x.width * F::BYTES].chunks_exact(F::BYTES);
        for (value, bytes) in row.iter_mut().zip(bytes) {
            *value = F::load(bytes);
        }
        for n in 0..x.n {
            let x = &x.data[n * x.stride..][..x.width];
            let mut lanes = [0.0f32; LANES];
            for (row, x) in row.chunks(LANES).zip(x.chunks(LANES)) {
                let (mut w16, mut x16) = ([0.0; LANES], [0.0; LANES]);
                w16[..row.len()].copy_from_slice(row);
                x16[..x.len()].copy_from_slice(x);
                for ((lane, w), x) in lanes.iter_mut().zip(w16).zip(x16) {
                    *lane = w.mul_add(x, *lane);
                }
            }
            out[n * stride + i] = tree(lanes);
        }
    }
}
