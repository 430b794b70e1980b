//! Instruction sets: detected once, each a table of kernels.
//!
//! A [`Kernels`] reference is the proof that its instructions may run: the only way to one is
//! [`Isa::kernels`], which asks the processor. Its methods check shapes and are safe; what they
//! call was compiled for that instruction set.

use std::fmt;
use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use katari_gguf::Format;
use katari_gguf::block::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

use super::activation::{GROUP, Rows};
use super::dot::float::{self, Floats};
use super::dot::{self, Weights};
#[cfg(target_arch = "x86_64")]
use super::gemm;
use super::math::Math;

/// An instruction set that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// What every processor of the architecture has.
    Scalar,
    /// AVX2 with FMA and F16C (Intel from Haswell, 2013; AMD from Excavator, 2015).
    Avx2,
}

impl Isa {
    /// Every one, worst first.
    pub const ALL: &'static [Isa] = &[Isa::Scalar, Isa::Avx2];

    /// Its name, as `--isa` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        self.kernels().is_some()
    }

    /// The best that this processor has.
    pub fn best() -> Isa {
        let mut available = Isa::ALL.iter().rev().filter(|isa| isa.is_available());
        available.next().copied().unwrap_or(Isa::Scalar)
    }

    /// Its kernels, where this processor can run them.
    pub(super) fn kernels(self) -> Option<&'static Kernels> {
        match self {
            Isa::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                let has = std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c");
                has.then_some(&AVX2)
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => None,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`Isa`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is no instruction set (expected {})", names())]
pub struct UnknownIsa {
    /// What was given.
    pub found: String,
}

fn names() -> String {
    let names: Vec<_> = Isa::ALL.iter().map(|isa| isa.name()).collect();
    names.join(", ")
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(s: &str) -> Result<Isa, UnknownIsa> {
        let found = Isa::ALL.iter().find(|isa| isa.name() == s);
        found.copied().ok_or_else(|| UnknownIsa {
            found: s.to_string(),
        })
    }
}

/// Every row of a quantised weight times every row of integers.
///
/// Safety: the processor has the table's instruction set; `w.bytes` holds `w.rows` rows of whole
/// blocks, `x.groups` groups each; `out` holds `[x.n, stride]` with `stride >= w.rows`.
type IntDot = unsafe fn(w: Weights<'_>, x: Rows<'_>, out: &mut [f32], stride: usize);

/// Every row of a float weight times every row of f32.
///
/// Safety: as [`IntDot`], with rows of at least `x.width` elements.
type FloatDot = unsafe fn(w: Weights<'_>, x: Floats<'_>, out: &mut [f32], stride: usize);

/// A quantised format's kernels.
#[derive(Clone, Copy)]
pub(super) struct IntKernels {
    /// For one row of activations: weights are read as they lie.
    decode: IntDot,
    /// For many rows: weights are unpacked once for all of them.
    prefill: IntDot,
}

/// What one instruction set can do.
pub(super) struct Kernels {
    isa: Isa,
    math: Math,
    f32: FloatDot,
    f16: FloatDot,
    bf16: FloatDot,
    q4_0: IntKernels,
    q4_1: IntKernels,
    q5_0: IntKernels,
    q5_1: IntKernels,
    q8_0: IntKernels,
    q4_k: IntKernels,
    q5_k: IntKernels,
    q6_k: IntKernels,
}

/// The reference kernels, which do both jobs.
const fn both(kernel: IntDot) -> IntKernels {
    IntKernels {
        decode: kernel,
        prefill: kernel,
    }
}

static SCALAR: Kernels = Kernels {
    isa: Isa::Scalar,
    math: Math::SCALAR,
    f32: float::scalar::<f32>,
    f16: float::scalar::<f16>,
    bf16: float::scalar::<bf16>,
    q4_0: both(dot::scalar::<BlockQ4_0>),
    q4_1: both(dot::scalar::<BlockQ4_1>),
    q5_0: both(dot::scalar::<BlockQ5_0>),
    q5_1: both(dot::scalar::<BlockQ5_1>),
    q8_0: both(dot::scalar::<BlockQ8_0>),
    q4_k: both(dot::scalar::<BlockQ4K>),
    q5_k: both(dot::scalar::<BlockQ5K>),
    q6_k: both(dot::scalar::<BlockQ6K>),
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels {
    isa: Isa::Avx2,
    math: Math::AVX2,
    f32: float::avx2::product::<f32>,
    f16: float::avx2::product::<f16>,
    bf16: float::avx2::product::<bf16>,
    q4_0: avx2::<BlockQ4_0>(),
    q4_1: avx2::<BlockQ4_1>(),
    q5_0: avx2::<BlockQ5_0>(),
    q5_1: avx2::<BlockQ5_1>(),
    q8_0: avx2::<BlockQ8_0>(),
    q4_k: avx2::<BlockQ4K>(),
    q5_k: avx2::<BlockQ5K>(),
    q6_k: avx2::<BlockQ6K>(),
};

#[cfg(target_arch = "x86_64")]
const fn avx2<B: dot::avx2::Unpack>() -> IntKernels {
    IntKernels {
        decode: dot::avx2::decode::<B>,
        prefill: gemm::avx2::prefill::<B>,
    }
}

/// How a format's weights are multiplied.
#[derive(Clone, Copy)]
pub(super) enum Product {
    /// With f32 activations.
    Float(FloatDot),
    /// With integer activations.
    Int(IntKernels),
}

impl Kernels {
    /// Which instruction set these are for.
    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    /// The arithmetic between matrix products.
    pub(super) fn math(&self) -> &Math {
        &self.math
    }

    /// How weights of `format` are multiplied.
    pub(super) fn product(&self, format: Format) -> Product {
        match format {
            Format::F32 => Product::Float(self.f32),
            Format::F16 => Product::Float(self.f16),
            Format::BF16 => Product::Float(self.bf16),
            Format::Q4_0 => Product::Int(self.q4_0),
            Format::Q4_1 => Product::Int(self.q4_1),
            Format::Q5_0 => Product::Int(self.q5_0),
            Format::Q5_1 => Product::Int(self.q5_1),
            Format::Q8_0 => Product::Int(self.q8_0),
            Format::Q4_K => Product::Int(self.q4_k),
            Format::Q5_K => Product::Int(self.q5_k),
            Format::Q6_K => Product::Int(self.q6_k),
        }
    }

    /// `out[n][i] = row n of x . row i of w`, for weights of a quantised `format`; `out` is
    /// `[x.n, stride]`.
    ///
    /// # Panics
    /// Where shapes do not fit each other.
    pub(super) fn int_product(
        &self,
        format: Format,
        w: Weights<'_>,
        x: Rows<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        let Product::Int(kernels) = self.product(format) else {
            panic!("{format} weights take f32 activations");
        };
        check(format, &w, x.groups * GROUP, x.n, out, stride);
        let values = x.n * x.groups;
        assert!(x.q.len() == values * GROUP && x.scale.len() == values);
        assert!(x.scaled_sum.len() == values && x.halves.len() == values);
        let kernel = if x.n == 1 {
            kernels.decode
        } else {
            kernels.prefill
        };
        // SAFETY: a table is handed out by `Isa::kernels` only where its instruction set was
        // detected; shapes were checked just now.
        unsafe { kernel(w, x, out, stride) }
    }

    /// The same for weights of a float `format`.
    ///
    /// # Panics
    /// Where shapes do not fit each other.
    pub(super) fn float_product(
        &self,
        format: Format,
        w: Weights<'_>,
        x: Floats<'_>,
        out: &mut [f32],
        stride: usize,
    ) {
        let Product::Float(kernel) = self.product(format) else {
            panic!("{format} weights take integer activations");
        };
        check(format, &w, x.width, x.n, out, stride);
        assert!(
            x.n == 0 || (x.width <= x.stride && x.data.len() >= (x.n - 1) * x.stride + x.width)
        );
        // SAFETY: as in `int_product`.
        unsafe { kernel(w, x, out, stride) }
    }

    /// Unpacks whole blocks of a KV store's `format`; the same values as
    /// [`Format::dequantize`], sooner.
    pub(super) fn unpack(&self, format: Format, bytes: &[u8], out: &mut [f32]) {
        match format {
            Format::Q8_0 => self.math.unpack_q8_0(bytemuck::cast_slice(bytes), out),
            Format::Q4_0 => self.math.unpack_q4_0(bytemuck::cast_slice(bytes), out),
            Format::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
                Ok(halfs) => halfs.convert_to_f32_slice(out),
                Err(_) => format.dequantize(bytes, out),
            },
            _ => format.dequantize(bytes, out),
        }
    }
}

/// Asserts that `w` has rows of at least `width` values and `out` is `[n, stride]`.
fn check(format: Format, w: &Weights<'_>, width: usize, n: usize, out: &[f32], stride: usize) {
    let row = width / format.block_len() * format.block_bytes();
    assert!(width % format.block_len() == 0 && row <= w.stride);
    assert!(w.bytes.len() >= w.rows * w.stride);
    assert!(w.rows <= stride && (n == 0 || out.len() >= (n - 1) * stride + w.rows));
}
