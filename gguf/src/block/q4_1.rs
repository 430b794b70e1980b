//! Q4_1: 32 values of 4 bits, a scale and a least value, `q d + m`.

use bytemuck::{Pod, Zeroable};

use super::legacy::{self, LEN};
use super::{Block, Format, Half, Quantized};

/// 32 values in 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// The scale.
    pub d: Half,
    /// The least value.
    pub m: Half,
    /// `q`: value `i` in the low nibble of byte `i`, value `i + 16` in the high one.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl Block for BlockQ4_1 {
    const FORMAT: Format = Format::Q4_1;
    const LEN: usize = LEN;

    #[inline(always)]
    fn quantize(x: &[f32]) -> Self {
        let (min, max) = legacy::range(x);
        let d = (max - min) / 15.0;
        let inverse = legacy::inverse(d);
        let mut q = [0; LEN];
        for (q, x) in q.iter_mut().zip(x) {
            *q = legacy::truncate((x - min) * inverse + 0.5).min(15) as u8;
        }
        BlockQ4_1 {
            d: Half::new(d),
            m: Half::new(min),
            qs: legacy::pack_nibbles(&q),
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_integers(self, out);
    }
}

impl Quantized for BlockQ4_1 {
    const GROUP: usize = LEN;
    const HAS_MIN: bool = true;

    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        (scale[0], min[0]) = (self.d.to_f32(), -self.m.to_f32());
        for (q, u) in q.iter_mut().zip(legacy::unpack_nibbles(&self.qs)) {
            *q = u as i8;
        }
    }
}
