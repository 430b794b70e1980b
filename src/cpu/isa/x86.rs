//! The tables of x86-64, and how each is detected.

use std::arch::is_x86_feature_detected;

use half::{bf16, f16};
use katari_gguf::block::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

use super::{IntKernels, Isa, Kernels, table};
use crate::cpu::dot::unpack::Unpack;
use crate::cpu::dot::{decode, float};
use crate::cpu::gemm;
use crate::cpu::math::Math;

static AVX2: Kernels = table!(Isa::Avx2, Math::AVX2, float::avx2::product, avx2);
static AVX2_VNNI: Kernels = table!(Isa::Avx2Vnni, Math::AVX2, float::avx2::product, vex);
/// For a processor that has the instructions only as AVX-512 encodes them.
static AVX2_EVEX: Kernels = table!(Isa::Avx2Vnni, Math::AVX2, float::avx2::product, evex);
static AVX512_VNNI: Kernels = table!(Isa::Avx512Vnni, Math::AVX512, float::avx2::product, avx512);

const fn avx2<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::x86::avx2::<B>,
        prefill: gemm::avx2::prefill::<B>,
    }
}

const fn vex<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::x86::vex::<B>,
        prefill: gemm::vnni::vex::<B>,
    }
}

const fn evex<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::x86::evex::<B>,
        prefill: gemm::vnni::evex::<B>,
    }
}

const fn avx512<B: Unpack>() -> IntKernels {
    IntKernels {
        decode: decode::x86::avx512::<B>,
        prefill: gemm::avx512::prefill::<B>,
    }
}

/// The kernels of `isa`, where this processor can run them.
pub(super) fn kernels(isa: Isa) -> Option<&'static Kernels> {
    match isa {
        Isa::Avx2 => has_avx2().then_some(&AVX2),
        Isa::Avx2Vnni if has_avx2() && is_x86_feature_detected!("avxvnni") => Some(&AVX2_VNNI),
        Isa::Avx2Vnni => (has_avx2() && has_avx512_vnni()).then_some(&AVX2_EVEX),
        Isa::Avx512Vnni => (has_avx2() && has_avx512_vnni()).then_some(&AVX512_VNNI),
        _ => None,
    }
}

fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

fn has_avx512_vnni() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}
