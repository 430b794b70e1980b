//! Block formats: a tensor's values as they lie in the file.
//!
//! Each format is one file here and one line in the list below. A quantised
//! format keeps `LEN` values in one block with scales of their own; blocks follow one another
//! along the contiguous dimension. The layouts are ggml's, and quantising gives the bytes that
//! ggml's reference quantiser gives (`quantize_row_*_ref`, built without fused multiply-add).
//! Every block is `#[repr(C)]` with alignment 1, so that bytes of a file can be viewed as blocks
//! wherever they lie (`bytemuck::cast_slice`).

mod k;
mod legacy;
#[allow(unsafe_code)]
mod simd;

use std::fmt;
use std::str::FromStr;

use bytemuck::Pod;

pub use simd::{all_within, f16_to_f32};

/// A block of one format: `LEN` values in `size_of::<Self>()` bytes.
pub trait Block: Pod {
    /// The format this is a block of.
    const FORMAT: Format;
    /// Values in a block.
    const LEN: usize;

    /// The block nearest to `x` by ggml's reference method; `x` holds `LEN` values.
    ///
    /// Any values are taken. What is not finite has no good approximation: the block's values
    /// are then unspecified, though the same as ggml's on x86-64.
    fn quantize(x: &[f32]) -> Self;

    /// Writes the block's `LEN` values, bit for bit as ggml does.
    fn dequantize(&self, out: &mut [f32]);

    /// Quantises whole blocks: `src` holds `LEN` values for each block of `dst`.
    #[inline(always)]
    fn quantize_all(src: &[f32], dst: &mut [Self]) {
        for (x, block) in src.chunks_exact(Self::LEN).zip(dst) {
            *block = Self::quantize(x);
        }
    }

    /// Dequantises whole blocks: `dst` holds `LEN` values for each block of `src`.
    fn dequantize_all(src: &[Self], dst: &mut [f32]) {
        for (block, out) in src.iter().zip(dst.chunks_exact_mut(Self::LEN)) {
            block.dequantize(out);
        }
    }

    /// `sum(value[i] * x[i])`: dequantised and multiplied in f32, summed in f64. The reference
    /// that kernels are held to; `x` holds `LEN` values for each block of `row`.
    fn dot(row: &[Self], x: &[f32]) -> f32 {
        let mut values = [0.0; MAX_LEN];
        let mut sum = 0.0;
        for (block, x) in row.iter().zip(x.chunks_exact(Self::LEN)) {
            block.dequantize(&mut values[..Self::LEN]);
            let products = values.iter().zip(x).map(|(v, x)| f64::from(v * x));
            sum += products.sum::<f64>();
        }
        sum as f32
    }
}

/// A quantised block as the integers and scales that kernels work with.
///
/// `value[i] = scale[i / GROUP] * q[i] - min[i / GROUP]`, in f32 and in that order, is exactly
/// what [`Block::dequantize`] writes.
pub trait Quantized: Block {
    /// How many neighbouring values share a scale: 32, or 16 for Q6_K.
    const GROUP: usize;
    /// Whether `min` is anything but 0.
    const HAS_MIN: bool;

    /// Writes the block's integers (`[LEN]`), scales and mins (`[LEN / GROUP]` each).
    fn integers(&self, q: &mut [i8], scale: &mut [f32], min: &mut [f32]);
}

/// The longest block, in values.
const MAX_LEN: usize = 256;
/// The most groups in a block.
const MAX_GROUPS: usize = 16;

/// [`Block::dequantize`] of every quantised format.
fn dequantize_integers<B: Quantized>(block: &B, out: &mut [f32]) {
    let mut q = [0; MAX_LEN];
    let (mut scale, mut min) = ([0.0; MAX_GROUPS], [0.0; MAX_GROUPS]);
    let groups = B::LEN / B::GROUP;
    block.integers(&mut q[..B::LEN], &mut scale[..groups], &mut min[..groups]);
    let rows = out.chunks_exact_mut(B::GROUP).zip(q.chunks_exact(B::GROUP));
    for ((out, q), (scale, min)) in rows.zip(scale.iter().zip(&min)) {
        for (out, &q) in out.iter_mut().zip(q) {
            *out = scale * f32::from(q) - min;
        }
    }
}

/// Declares the formats: the enum with ggml's type numbers, names, sizes and dispatch.
///
/// A line is `Variant = ggml's number, "name", file::Block;`.
macro_rules! formats {
    ($($variant:ident = $id:literal, $name:literal, $module:ident::$block:ident;)*) => {
        $(mod $module; pub use $module::$block;)*

        /// A tensor's format.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, non_camel_case_types)] // each is the format of its name
        #[repr(u32)]
        pub enum Format { $($variant = $id,)* }

        impl Format {
            /// Every format, in order of ggml's type numbers as listed.
            pub const ALL: &[Format] = &[$(Format::$variant,)*];

            /// The format with ggml's type number `id`.
            pub fn from_id(id: u32) -> Option<Format> {
                match id {
                    $($id => Some(Format::$variant),)*
                    _ => None,
                }
            }

            /// The name in lower case, as `q4_k`.
            pub const fn name(self) -> &'static str {
                match self { $(Format::$variant => $name,)* }
            }

            /// Values in a block: 1, 32 or 256.
            pub const fn block_len(self) -> usize {
                match self { $(Format::$variant => $block::LEN,)* }
            }

            /// Bytes in a block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Format::$variant => size_of::<$block>(),)* }
            }

            /// Quantises whole blocks.
            ///
            /// # Panics
            /// Where `src` is no whole number of blocks, or `dst` not as long as they are.
            pub fn quantize(self, src: &[f32], dst: &mut [u8]) {
                self.assert_lengths(dst.len(), src.len());
                match self { $(
                    Format::$variant => simd::quantize::<$block>(src, bytemuck::cast_slice_mut(dst)),
                )* }
            }

            /// Dequantises whole blocks.
            ///
            /// # Panics
            /// Where `dst` is no whole number of blocks, or `src` not as long as they are.
            pub fn dequantize(self, src: &[u8], dst: &mut [f32]) {
                self.assert_lengths(src.len(), dst.len());
                match self { $(
                    Format::$variant => $block::dequantize_all(bytemuck::cast_slice(src), dst),
                )* }
            }

            /// The scalar reference of a row's dot product with `x`: [`Block::dot`].
            ///
            /// # Panics
            /// Where `x` is no whole number of blocks, or `row` not as long as they are.
            pub fn dot(self, row: &[u8], x: &[f32]) -> f32 {
                self.assert_lengths(row.len(), x.len());
                match self { $(
                    Format::$variant => $block::dot(bytemuck::cast_slice(row), x),
                )* }
            }
        }

        // A block says its own format, its alignment is 1, and a block fits the buffers above.
        $(const _: () = {
            assert!($block::FORMAT as u32 == $id);
            assert!(align_of::<$block>() == 1);
            assert!($block::LEN <= MAX_LEN);
        };)*
    };
}

// The list of formats.
formats! {
    F32 = 0, "f32", float32::BlockF32;
    F16 = 1, "f16", float16::Half;
    Q4_0 = 2, "q4_0", q4_0::BlockQ4_0;
    Q4_1 = 3, "q4_1", q4_1::BlockQ4_1;
    Q5_0 = 6, "q5_0", q5_0::BlockQ5_0;
    Q5_1 = 7, "q5_1", q5_1::BlockQ5_1;
    Q8_0 = 8, "q8_0", q8_0::BlockQ8_0;
    Q4_K = 12, "q4_k", q4_k::BlockQ4K;
    Q5_K = 13, "q5_k", q5_k::BlockQ5K;
    Q6_K = 14, "q6_k", q6_k::BlockQ6K;
    BF16 = 30, "bf16", bfloat16::BlockBF16;
}

impl Format {
    /// ggml's type number, as files carry it.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of `n` values; `None` where `n` is no multiple of [`Format::block_len`] or the
    /// bytes exceed 64 bits.
    pub fn bytes(self, n: u64) -> Option<u64> {
        let len = self.block_len() as u64;
        if !n.is_multiple_of(len) {
            return None;
        }
        (n / len).checked_mul(self.block_bytes() as u64)
    }

    /// Whether values lie in blocks with scales (and are no floats of their own).
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    fn assert_lengths(self, bytes: usize, values: usize) {
        assert_eq!(
            Some(bytes as u64),
            self.bytes(values as u64),
            "bytes of {values} values in {self}"
        );
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No format is called so.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no tensor format is called '{0}' (expected one of {names})", names = names())]
pub struct UnknownFormat(String);

/// All names, for errors.
pub(crate) fn names() -> String {
    let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
    names.join(", ")
}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// Reads a name as [`Format::name`] writes it, in either case.
    fn from_str(name: &str) -> Result<Format, UnknownFormat> {
        let found = Format::ALL
            .iter()
            .find(|format| format.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}
