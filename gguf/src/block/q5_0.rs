//! Q5_0: 32 values of 5 bits and one scale, `(q - 16) d`.

use bytemuck::{Pod, Zeroable};

use super::legacy::{self, LEN};
use super::{Block, Format, Half, Quantized};

/// 32 values in 22 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// The scale.
    pub d: Half,
    /// The fifth bits of `q`: value `i`'s in bit `i`, counted from the first byte's lowest.
    pub qh: [u8; LEN / 8],
    /// The low bits of `q`: value `i` in the low nibble of byte `i`, value `i + 16` in the high
    /// one.
    pub qs: [u8; LEN / 2],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl Block for BlockQ5_0 {
    const FORMAT: Format = Format::Q5_0;
    const LEN: usize = LEN;

    #[inline(always)]
    fn quantize(x: &[f32]) -> Self {
        // The value of greatest magnitude, whatever its sign, lands on q = 0.
        let d = legacy::peak(x) / -16.0;
        let inverse = legacy::inverse(d);
        let mut q = [0; LEN];
        for (q, x) in q.iter_mut().zip(x) {
            *q = legacy::truncate(x * inverse + 16.5).min(31) as u8;
        }
        BlockQ5_0 {
            d: Half::new(d),
            qh: legacy::pack_fifth(&q),
            qs: legacy::pack_nibbles(&q),
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_integers(self, out);
    }
}

impl Quantized for BlockQ5_0 {
    const GROUP: usize = LEN;
    const HAS_MIN: bool = false;

    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        (scale[0], min[0]) = (self.d.to_f32(), 0.0);
        let mut unsigned = legacy::unpack_nibbles(&self.qs);
        legacy::unpack_fifth(&mut unsigned, &self.qh);
        for (q, u) in q.iter_mut().zip(unsigned) {
            *q = u as i8 - 16;
        }
    }
}
