//! F16: IEEE 754 binary16, little-endian; also the scales of other formats.

use bytemuck::{Pod, Zeroable};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Block, Format};

/// One half-precision number as it lies in a file, with alignment 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Half(pub [u8; 2]);

const _: () = assert!(size_of::<Half>() == 2);

impl Half {
    /// The nearest half, ties to even; every NaN becomes the quiet one without payload, as in
    /// ggml.
    #[inline]
    pub fn new(x: f32) -> Half {
        Half::from_f16(f16::from_f32(x))
    }

    /// The same number; NaN as in [`Half::new`].
    #[inline]
    fn from_f16(x: f16) -> Half {
        let bits = x.to_bits();
        let quiet = (bits & 0x8000) | 0x7e00;
        Half((if x.is_nan() { quiet } else { bits }).to_le_bytes())
    }

    /// The number as the `half` crate's type.
    #[inline]
    pub fn to_f16(self) -> f16 {
        f16::from_le_bytes(self.0)
    }

    /// The number, exactly.
    #[inline]
    pub fn to_f32(self) -> f32 {
        self.to_f16().to_f32()
    }
}

/// Values converted at a time: enough for the conversion instructions, few enough for the stack.
const CHUNK: usize = 64;

impl Block for Half {
    const FORMAT: Format = Format::F16;
    const LEN: usize = 1;

    fn quantize(x: &[f32]) -> Self {
        Half::new(x[0])
    }

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = self.to_f32();
    }

    fn quantize_all(src: &[f32], dst: &mut [Self]) {
        let mut chunk = [f16::ZERO; CHUNK];
        for (x, out) in src.chunks(CHUNK).zip(dst.chunks_mut(CHUNK)) {
            let chunk = &mut chunk[..x.len()];
            chunk.convert_from_f32_slice(x);
            for (out, &half) in out.iter_mut().zip(chunk.iter()) {
                *out = Half::from_f16(half);
            }
        }
    }

    fn dequantize_all(src: &[Self], dst: &mut [f32]) {
        let mut chunk = [f16::ZERO; CHUNK];
        for (x, out) in src.chunks(CHUNK).zip(dst.chunks_mut(CHUNK)) {
            for (half, x) in chunk.iter_mut().zip(x) {
                *half = x.to_f16();
            }
            chunk[..out.len()].convert_to_f32_slice(out);
        }
    }
}
