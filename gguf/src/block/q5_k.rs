//! Q5_K: 256 values of 5 bits in 8 groups, `d s q - dmin m` with 6-bit `s` and `m` a group.

use bytemuck::{Pod, Zeroable};

use super::k::{self, GROUP, LEN, PackedScales};
use super::{Block, Format, Half, Quantized};

/// 256 values in 176 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5K {
    /// The scale of the groups' scales.
    pub d: Half,
    /// The scale of the groups' mins.
    pub dmin: Half,
    /// The groups' scales and mins.
    pub scales: PackedScales,
    /// The fifth bits of `q`: byte `i` holds those of values `i`, `i + 32` ... from its lowest
    /// bit up.
    pub qh: [u8; LEN / 8],
    /// The low bits of `q`: of each run of 64 values, 32 bytes hold the first 32 in their low
    /// nibbles and the others in their high ones.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<BlockQ5K>() == 176);

impl Block for BlockQ5K {
    const FORMAT: Format = Format::Q5_K;
    const LEN: usize = LEN;

    #[inline(always)]
    fn quantize(x: &[f32]) -> Self {
        let search = k::Search {
            greatest: 31,
            first: -0.5,
            steps: 15,
        };
        let k::Quants { d, dmin, scales, q } = k::quantize_range(x, &search);
        let fifth = |i: usize, group: usize| ((q[group * GROUP + i] >> 4) & 1) << group;
        BlockQ5K {
            d,
            dmin,
            scales,
            qh: std::array::from_fn(|i| (0..k::GROUPS).fold(0, |b, group| b | fifth(i, group))),
            qs: k::pack_nibbles(&q),
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_integers(self, out);
    }
}

impl Quantized for BlockQ5K {
    const GROUP: usize = GROUP;
    const HAS_MIN: bool = true;

    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        k::range_scales(self.d, self.dmin, &self.scales, scale, min);
        for (i, q) in q.iter_mut().enumerate() {
            let fifth = (self.qh[i % GROUP] >> (i / GROUP)) & 1;
            *q = (k::nibble(&self.qs, i) | (fifth << 4)) as i8;
        }
    }
}
