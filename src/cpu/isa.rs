//! Instruction sets: detected once, each a table of kernels.
//!
//! A [`Kernels`] reference is the proof that its instructions may run: the only way to one is
//! [`Isa::kernels`], which asks the processor. Its methods check shapes and are safe; what they
//! call was compiled for that instruction set.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use katari_gguf::Format;
use katari_gguf::block::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

use super::activation::{GROUP, Rows};
use super::dot::float::{self, Floats};
use super::dot::{self, Weights};
use super::math::Math;

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

/// An instruction set that kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// What every processor of the architecture has.
    Scalar,
    /// AVX2 with FMA and F16C (Intel from Haswell, 2013; AMD from Excavator, 2015).
    Avx2,
    /// AVX2 with 8-bit dot products on 256 bits: AVX-VNNI (Intel from Alder Lake, 2021; AMD from
    /// Zen 5, 2024), or the same instruction as AVX-512 encodes it.
    Avx2Vnni,
    /// AVX-512 F, BW, DQ, VL and VNNI (Intel from Cascade Lake, 2019; AMD from Zen 4, 2022).
    Avx512Vnni,
    /// NEON, which every 64-bit ARM has.
    Neon,
    /// NEON with 8-bit dot products (ARM from 8.2, most since 2018).
    NeonDotprod,
    /// NEON with 8-bit products of matrices (ARM from 8.6, most servers since 2021).
    NeonI8mm,
}

impl Isa {
    /// Every one, worst first.
    pub const ALL: &'static [Isa] = &[
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx2Vnni,
        Isa::Avx512Vnni,
        Isa::Neon,
        Isa::NeonDotprod,
        Isa::NeonI8mm,
    ];

    /// Its name, as `--isa` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
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

    /// How many rows of quantised weights its kernels want interleaved, as
    /// [`pack`](dot::pack) does; 1 where they take them as they lie.
    pub(super) const fn panel(self) -> usize {
        match self {
            Isa::Scalar => 1,
            _ => dot::pack::ROWS,
        }
    }

    /// Its kernels, where this processor can run them.
    pub(super) fn kernels(self) -> Option<&'static Kernels> {
        match self {
            Isa::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx2Vnni | Isa::Avx512Vnni => x86::kernels(self),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => arm::kernels(self),
            // Another architecture's.
            _ => None,
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
/// blocks, `x.groups` groups each: as they lie in a file where [`Isa::panel`] is 1, else in whole
/// panels of that many rows without gaps, the last one filled up; `out` holds `[x.n, stride]` with
/// `stride >= w.rows`.
type IntDot = unsafe fn(w: Weights<'_>, x: Rows<'_>, out: &mut [f32], stride: usize);

/// Every row of a float weight times every row of f32.
///
/// Safety: as [`IntDot`], with rows of at least `x.width` elements.
type FloatDot = unsafe fn(w: Weights<'_>, x: Floats<'_>, out: &mut [f32], stride: usize);

/// A quantised format's kernels.
#[derive(Clone, Copy)]
pub(super) struct IntKernels {
    /// For one row of activations: each weight is used once, straight from memory.
    decode: IntDot,
    /// For many rows: weights are unpacked to the cache, once for all of them.
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

/// A table: what one instruction set does, by a function that is generic in the element of a
/// float format, and one that is generic in the block of a quantised format and gives its
/// [`IntKernels`].
macro_rules! table {
    ($isa:expr, $math:expr, $($float:ident)::+, $($int:ident)::+) => {
        Kernels {
            isa: $isa,
            math: $math,
            f32: $($float)::+::<f32>,
            f16: $($float)::+::<f16>,
            bf16: $($float)::+::<bf16>,
            q4_0: $($int)::+::<BlockQ4_0>(),
            q4_1: $($int)::+::<BlockQ4_1>(),
            q5_0: $($int)::+::<BlockQ5_0>(),
            q5_1: $($int)::+::<BlockQ5_1>(),
            q8_0: $($int)::+::<BlockQ8_0>(),
            q4_k: $($int)::+::<BlockQ4K>(),
            q5_k: $($int)::+::<BlockQ5K>(),
            q6_k: $($int)::+::<BlockQ6K>(),
        }
    };
}
// For the tables of an architecture, each in a file of its own.
#[allow(unused_imports)]
use table;

static SCALAR: Kernels = table!(Isa::Scalar, Math::SCALAR, float::scalar, scalar);

/// The reference kernels, which do both jobs.
const fn scalar<B: dot::Groups>() -> IntKernels {
    IntKernels {
        decode: dot::scalar::<B>,
        prefill: dot::scalar::<B>,
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
        let panel = self.isa.panel();
        check(format, &w, panel, x.groups * GROUP, x.n, out, stride);
        let values = x.n * x.groups;
        assert!(x.q.len() == values * GROUP && x.scale.len() == values);
        assert!(x.scaled_sum.len() == values);
        assert!(x.halves.len() == values && x.centre.len() == values);
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
        check(format, &w, 1, x.width, x.n, out, stride);
        assert!(
            x.n == 0 || (x.width <= x.stride && x.data.len() >= (x.n - 1) * x.stride + x.width)
        );
        // SAFETY: as in `int_product`.
        unsafe { kernel(w, x, out, stride) }
    }
}

/// Asserts that `w` has rows of at least `width` values in panels of `panel` rows and `out` is
/// `[n, stride]`.
fn check(
    format: Format,
    w: &Weights<'_>,
    panel: usize,
    width: usize,
    n: usize,
    out: &[f32],
    stride: usize,
) {
    let row = width / format.block_len() * format.block_bytes();
    assert!(width.is_multiple_of(format.block_len()) && row <= w.stride);
    // Panels lie without gaps.
    assert!(panel == 1 || row == w.stride);
    assert!(w.bytes.len() >= w.rows.next_multiple_of(panel) * w.stride);
    assert!(w.rows <= stride && (n == 0 || out.len() >= (n - 1) * stride + w.rows));
}
