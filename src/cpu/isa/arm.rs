//! The tables of 64-bit ARM, and how each is detected.

use std::arch::is_aarch64_feature_detected;

use half::{bf16, f16};
use katari_gguf::block::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

use super::{IntKernels, Isa, Kernels, table};
use crate::cpu::dot::unpack::Unpack;
use crate::cpu::dot::{decode, neon};
use crate::cpu::gemm::neon as gemm;
use crate::cpu::math::Math;

static NEON: Kernels = table!(Isa::Neon, Math::NEON, neon::float::product, baseline);
static NEON_DOTPROD: Kernels = table!(Isa::NeonDotprod, Math::NEON, neon::float::product, dotprod);
static NEON_I8MM: Kernels = table!(Isa::NeonI8mm, Math::NEON, neon::float::product, i8mm);

const fn baseline<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::arm::baseline::<B>,
        prefill: gemm::prefill::<B>,
    }
}

const fn dotprod<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::arm::dotprod::<B>,
        prefill: gemm::prefill_dotprod::<B>,
    }
}

/// One row of activations has nothing to fill a matrix with: it takes dot products.
const fn i8mm<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::arm::dotprod::<B>,
        prefill: gemm::prefill_i8mm::<B>,
    }
}

/// The kernels of `isa`, where this processor can run them.
pub(super) fn kernels(isa: Isa) -> Option<&'static Kernels> {
    let has_dotprod = || is_aarch64_feature_detected!("dotprod");
    let has_i8mm = || is_aarch64_feature_detected!("i8mm");
    match isa {
        Isa::Neon => Some(&NEON),
        Isa::NeonDotprod => has_dotprod().then_some(&NEON_DOTPROD),
        Isa::NeonI8mm => (has_dotprod() && has_i8mm()).then_some(&NEON_I8MM),
        _ => None,
    }
}
