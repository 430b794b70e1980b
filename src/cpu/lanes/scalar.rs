//! The reference: plain arrays.

use katari_gguf::block::{BlockQ4_0, BlockQ8_0, Half};

use super::{LANES, Lanes, tree};

/// An array. (Where the processor's baseline has vectors, the compiler uses them.)
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Scalar([f32; LANES]);

impl Scalar {
    /// Lane by lane.
    #[inline(always)]
    fn from(lane: impl FnMut(usize) -> f32) -> Scalar {
        Scalar(std::array::from_fn(lane))
    }
}

// Nothing here needs an instruction set: only what `Lanes` says of memory is unsafe.
impl Lanes for Scalar {
    type Halfs = Self;
    const MANY: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Scalar([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: by the trait's contract.
        Scalar(unsafe { at.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(at: *const u8) -> Self {
        // SAFETY: by the trait's contract.
        let halfs = unsafe { at.cast::<[Half; LANES]>().read() };
        Scalar(halfs.map(Half::to_f32))
    }

    #[inline(always)]
    unsafe fn load_q8_0(block: *const BlockQ8_0) -> [Self; 2] {
        // SAFETY: by the trait's contract; blocks need no alignment.
        let BlockQ8_0 { d, qs } = unsafe { block.read() };
        let d = d.to_f32();
        [0, LANES].map(|start| Scalar::from(|i| d * f32::from(qs[start + i])))
    }

    #[inline(always)]
    unsafe fn load_q4_0(block: *const BlockQ4_0) -> [Self; 2] {
        // SAFETY: by the trait's contract; blocks need no alignment.
        let BlockQ4_0 { d, qs } = unsafe { block.read() };
        let d = d.to_f32();
        let value = |nibble: u8| d * f32::from(nibble as i8 - 8);
        [
            Scalar::from(|i| value(qs[i] & 15)),
            Scalar::from(|i| value(qs[i] >> 4)),
        ]
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: by the trait's contract.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Scalar::from(|i| a.0[i].mul_add(b.0[i], self.0[i]))
    }

    #[inline(always)]
    unsafe fn trees(lanes: [Self; 4]) -> [f32; 4] {
        lanes.map(|lanes| tree(lanes.0))
    }

    #[inline(always)]
    unsafe fn store_f16(self, at: *mut u8) {
        // SAFETY: by the trait's contract.
        unsafe { at.cast::<[Half; LANES]>().write(self.0.map(Half::new)) }
    }

    #[inline(always)]
    unsafe fn largest(self, other: Self) -> f32 {
        // As integers, magnitudes order like the floats, and a NaN comes out on top.
        let both = self.0.iter().chain(&other.0);
        let largest = both.fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        f32::from_bits(largest)
    }

    #[inline(always)]
    unsafe fn store_i8(self, divisor: f32, at: *mut i8) -> [i16; 2] {
        /// Adding it leaves the rounded sum in the low mantissa bits.
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
        let q = self.0.map(|x| {
            let x = x / divisor;
            let x = if x.is_nan() { 0.0 } else { x };
            let whole = ((x + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
            whole.clamp(-128, 127) as i8
        });
        // SAFETY: by the trait's contract.
        unsafe { at.cast::<[i8; LANES]>().write(q) };
        let mut sums = [0; 2];
        for (i, q) in q.into_iter().enumerate() {
            sums[i % 4 / 2] += i16::from(q);
        }
        sums
    }
}
