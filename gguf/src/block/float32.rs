//! F32: IEEE 754 binary32, little-endian.

use bytemuck::{Pod, Zeroable};

use super::{Block, Format};

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct BlockF32(pub [u8; 4]);

const _: () = assert!(size_of::<BlockF32>() == 4);

impl Block for BlockF32 {
    const FORMAT: Format = Format::F32;
    const LEN: usize = 1;

    fn quantize(x: &[f32]) -> Self {
        BlockF32(x[0].to_le_bytes())
    }

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = f32::from_le_bytes(self.0);
    }
}
