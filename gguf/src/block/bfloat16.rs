//! BF16: the upper half of a binary32, little-endian.

use bytemuck::{Pod, Zeroable};

use super::{Block, Format};

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct BlockBF16(pub [u8; 2]);

const _: () = assert!(size_of::<BlockBF16>() == 2);

impl Block for BlockBF16 {
    const FORMAT: Format = Format::BF16;
    const LEN: usize = 1;

    /// Rounds to nearest, ties to even; a NaN keeps its sign and upper payload and becomes quiet.
    fn quantize(x: &[f32]) -> Self {
        let bits = x[0].to_bits();
        let upper = if x[0].is_nan() {
            (bits >> 16) | 0x40
        } else {
            // The carry runs into the exponent, up to infinity, where it should.
            (bits + 0x7fff + ((bits >> 16) & 1)) >> 16
        };
        BlockBF16((upper as u16).to_le_bytes())
    }

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16);
    }
}
