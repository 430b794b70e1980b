//! Q8_0: 32 values of 8 bits and one scale, `q d`.

use bytemuck::{Pod, Zeroable};

use super::legacy::{self, LEN};
use super::{Block, Format, Half, Quantized};

/// 32 values in 34 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// The scale.
    pub d: Half,
    /// `q`, in order.
    pub qs: [i8; LEN],
}

const _: () = assert!(size_of::<BlockQ8_0>() == 34);

/// To the nearest integer, halves away from zero. (`f32::round` is the same, but a function call
/// a value where the processor has no instruction for it.) What does not fit 32 bits becomes 0.
#[inline(always)]
fn round(x: f32) -> i8 {
    const LIMIT: f32 = 2147483648.0;
    let x = if x.abs() < LIMIT { x } else { 0.0 };
    let whole = x as i32;
    // Exact: the fraction has no more bits than x.
    let fraction = x - whole as f32;
    let nearest = whole + i32::from(fraction >= 0.5) - i32::from(fraction <= -0.5);
    nearest as i8
}

impl Block for BlockQ8_0 {
    const FORMAT: Format = Format::Q8_0;
    const LEN: usize = LEN;

    #[inline(always)]
    fn quantize(x: &[f32]) -> Self {
        let d = legacy::magnitude(x) / 127.0;
        let inverse = legacy::inverse(d);
        let mut qs = [0; LEN];
        for (q, x) in qs.iter_mut().zip(x) {
            *q = round(x * inverse);
        }
        BlockQ8_0 {
            d: Half::new(d),
            qs,
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_integers(self, out);
    }
}

impl Quantized for BlockQ8_0 {
    const GROUP: usize = LEN;
    const HAS_MIN: bool = false;

    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        (scale[0], min[0]) = (self.d.to_f32(), 0.0);
        q.copy_from_slice(&self.qs);
    }
}
