//! Q4_K: 256 values of 4 bits in 8 groups, `d s q - dmin m` with 6-bit `s` and `m` a group.

use bytemuck::{Pod, Zeroable};

use super::k::{self, LEN, PackedScales};
use super::{Block, Format, Half, Quantized};

/// 256 values in 144 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4K {
    /// The scale of the groups' scales.
    pub d: Half,
    /// The scale of the groups' mins.
    pub dmin: Half,
    /// The groups' scales and mins.
    pub scales: PackedScales,
    /// `q`: of each run of 64 values, 32 bytes hold the first 32 in their low nibbles and the
    /// others in their high ones.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<BlockQ4K>() == 144);

impl Block for BlockQ4K {
    const FORMAT: Format = Format::Q4_K;
    const LEN: usize = LEN;

    #[inline(always)]
    fn quantize(x: &[f32]) -> Self {
        let search = k::Search {
            greatest: 15,
            first: -1.0,
            steps: 20,
        };
        let k::Quants { d, dmin, scales, q } = k::quantize_range(x, &search);
        BlockQ4K {
            d,
            dmin,
            scales,
            qs: k::pack_nibbles(&q),
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_integers(self, out);
    }
}

impl Quantized for BlockQ4K {
    const GROUP: usize = k::GROUP;
    const HAS_MIN: bool = true;

    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        k::range_scales(self.d, self.dmin, &self.scales, scale, min);
        for (i, q) in q.iter_mut().enumerate() {
            *q = k::nibble(&self.qs, i) as i8;
        }
    }
}
