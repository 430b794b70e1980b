//! Q6_K: 256 values of 6 bits in 16 groups, `d s (q - 32)` with an 8-bit `s` a group.

use bytemuck::{Pod, Zeroable};

use super::k::{self, LEN, SMALL_GROUP, SMALL_GROUPS, ScaleFit};
use super::{Block, Format, Half, Quantized};

/// 256 values in 210 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6K {
    /// The low nibbles of `q`: of each run of 128 values, 64 bytes hold the first 64 in their
    /// low nibbles and the others in their high ones.
    pub ql: [u8; LEN / 2],
    /// The upper 2 bits of `q`: of each run of 128 values, byte `i` of 32 holds those of values
    /// `i`, `i + 32`, `i + 64` and `i + 96` from its lowest bits up.
    pub qh: [u8; LEN / 4],
    /// The groups' scales.
    pub scales: [i8; SMALL_GROUPS],
    /// The scale of the groups' scales.
    pub d: Half,
}

const _: () = assert!(size_of::<BlockQ6K>() == 210);

/// Values whose bits are stored together.
const RUN: usize = LEN / 2;

/// Where the nibble of value `i` lies: byte and shift.
#[inline(always)]
fn low(i: usize) -> (usize, usize) {
    (i / 128 * 64 + i % 64, i % 128 / 64 * 4)
}

/// Where the upper bits of value `i` lie: byte and shift.
#[inline(always)]
fn high(i: usize) -> (usize, usize) {
    (i / 128 * 32 + i % 32, i % 128 / 32 * 2)
}

impl BlockQ6K {
    /// The block of `x` for scales fitted to it: quantises those, then the values anew with them.
    #[inline(always)]
    pub(super) fn of_fit(x: &[f32], fit: &ScaleFit) -> Self {
        let (mut magnitude, mut peak) = (0.0, 0.0);
        for scale in fit.scale {
            if scale.abs() > magnitude {
                (magnitude, peak) = (scale.abs(), scale);
            }
        }
        let mut block = BlockQ6K::zeroed();
        if magnitude < k::TINY {
            return block;
        }
        let inverse = -128.0 / peak;
        block.d = Half::new(1.0 / inverse);
        block.scales = fit.scale.map(|s| k::nearest(inverse * s).min(127) as i8);
        let d = block.d.to_f32();
        let stored = |x: f32| (k::small_integer(x) + k::HALF) as u8;
        let mut q = [0; LEN];
        let groups = x.as_chunks::<SMALL_GROUP>().0.iter();
        for (group, (x, q)) in groups.zip(q.as_chunks_mut().0).enumerate() {
            let scale = d * f32::from(block.scales[group]);
            if scale != 0.0 {
                *q = x.map(|x| stored(x / scale));
            } else if fit.magnitude[group] >= k::TINY {
                *q = x.map(|x| stored(fit.inverse[group] * x));
            }
        }
        block.pack(&q);
        block
    }

    /// Stores the integers, [`k::HALF`] added, where there are zeros.
    #[inline(always)]
    fn pack(&mut self, q: &[u8; LEN]) {
        let runs = q.as_chunks::<RUN>().0.iter();
        let low = self.ql.as_chunks_mut::<{ RUN / 2 }>().0;
        let high = self.qh.as_chunks_mut::<{ RUN / 4 }>().0;
        for ((q, low), high) in runs.zip(low).zip(high) {
            for (i, low) in low.iter_mut().enumerate() {
                *low = (q[i] & 0xf) | (q[i + RUN / 2] << 4);
            }
            for (i, high) in high.iter_mut().enumerate() {
                let bits = |part: usize| (q[i + part * (RUN / 4)] >> 4) << (2 * part);
                *high = bits(0) | bits(1) | bits(2) | bits(3);
            }
        }
    }
}

impl Block for BlockQ6K {
    const FORMAT: Format = Format::Q6_K;
    const LEN: usize = LEN;

    #[inline(always)]
    fn quantize(x: &[f32]) -> Self {
        BlockQ6K::of_fit(x, &k::fit_scale(x))
    }

    fn dequantize(&self, out: &mut [f32]) {
        super::dequantize_integers(self, out);
    }
}

impl Quantized for BlockQ6K {
    const GROUP: usize = SMALL_GROUP;
    const HAS_MIN: bool = false;

    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]) {
        let d = self.d.to_f32();
        for (scale, &s) in scale.iter_mut().zip(&self.scales) {
            *scale = d * f32::from(s);
        }
        min.fill(0.0);
        for (i, q) in q.iter_mut().enumerate() {
            let ((l, l_shift), (h, h_shift)) = (low(i), high(i));
            let unsigned = ((self.ql[l] >> l_shift) & 0xf) | (((self.qh[h] >> h_shift) & 3) << 4);
            *q = (i32::from(unsigned) - k::HALF) as i8;
        }
    }
}
