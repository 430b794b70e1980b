//! The arithmetic between the matrix products, one source for all instruction sets: [`per_isa!`]
//! compiles every function here once for each, and since it is plain IEEE arithmetic with fused
//! multiply-adds written out and sums in fixed lanes, all give the same bits.

mod elementwise;
mod functions;
mod softmax;
#[cfg(test)]
mod tests;

use elementwise::{add, finish_linear, layer_norm, rotate};
pub(super) use softmax::Softmax;
use softmax::{merge, softmax};

use super::activation::{RowMut, quantize_row};
use super::attend::pack;
use super::attend::products::{Stored, score, score_block, unpack, weigh, weigh_block};
// The weights' float products sum in the same lanes.
pub(super) use super::lanes::{LANES, tree};
use crate::kv::KvType;
use crate::ops::{Activation, RopePairs};

/// Makes a module of each instruction set with every function compiled for it. A function may be
/// generic in `L`, the [`Lanes`](super::lanes::Lanes) of the instruction set.
macro_rules! per_isa {
    ($($(#[$doc:meta])*
       fn $name:ident $(<$lanes:ident>)? ($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// Compiled for what every processor of the architecture has.
        mod scalar {
            use super::*;
            #[allow(dead_code)]
            type L = crate::cpu::lanes::Scalar;
            $(
                /// # Safety
                /// None needed: unsafe only so that all instruction sets have one type.
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    super::$name $(::<$lanes>)? ($($arg),*)
                }
            )*
        }

        /// Compiled for AVX2, FMA and F16C.
        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            use super::*;
            type L = crate::cpu::lanes::avx2::Avx2;
            $(
                /// # Safety
                /// The processor must have AVX2, FMA and F16C.
                #[target_feature(enable = "avx2,fma,f16c")]
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    super::$name $(::<$lanes>)? ($($arg),*)
                }
            )*
        }

        /// Compiled for AVX-512 F, BW, DQ and VL.
        #[cfg(target_arch = "x86_64")]
        mod avx512 {
            use super::*;
            type L = crate::cpu::lanes::avx512::Avx512;
            $(
                /// # Safety
                /// The processor must have AVX-512 F, BW, DQ and VL, and AVX2, FMA and F16C.
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    super::$name $(::<$lanes>)? ($($arg),*)
                }
            )*
        }

        /// Compiled for NEON, which every processor of the architecture has.
        #[cfg(target_arch = "aarch64")]
        mod neon {
            use super::*;
            type L = crate::cpu::lanes::neon::Neon;
            $(
                /// # Safety
                /// None needed: unsafe only so that all instruction sets have one type.
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    super::$name $(::<$lanes>)? ($($arg),*)
                }
            )*
        }

        /// The functions of one instruction set. Safe to call, since a table of kernels, which
        /// this is part of, is given out only where its instruction set was detected.
        pub(in crate::cpu) struct Math {
            $($name: unsafe fn($($type),*) $(-> $ret)?,)*
        }

        impl Math {
            /// To be put in the scalar table only.
            pub(in crate::cpu) const SCALAR: Math = Math { $($name: scalar::$name,)* };
            /// To be put in tables only that need AVX2, FMA and F16C.
            #[cfg(target_arch = "x86_64")]
            pub(in crate::cpu) const AVX2: Math = Math { $($name: avx2::$name,)* };
            /// To be put in tables only that need AVX-512 F, BW, DQ and VL too.
            #[cfg(target_arch = "x86_64")]
            pub(in crate::cpu) const AVX512: Math = Math { $($name: avx512::$name,)* };
            /// To be put in any table.
            #[cfg(target_arch = "aarch64")]
            pub(in crate::cpu) const NEON: Math = Math { $($name: neon::$name,)* };

            $(
                $(#[$doc])*
                #[inline]
                #[allow(clippy::too_many_arguments)]
                pub(in crate::cpu) fn $name(&self, $($arg: $type),*) $(-> $ret)? {
                    // SAFETY: the functions need nothing but the instruction set, see above.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }
    };
}

per_isa! {
    /// Quantises one row of activations.
    fn quantize_row<L>(x: &[f32], out: RowMut<'_>);
    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]);
    /// `a += b`.
    fn add(a: &mut [f32], b: &[f32]);
    /// `y = act(y + bias)`, `y` as many rows as there are of the bias' length.
    fn finish_linear(y: &mut [f32], bias: Option<&[f32]>, activation: Option<Activation>);
    /// Turns one head's first `2 * cos.len()` dimensions.
    fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopePairs);

    /// Scores to weights; see the function.
    fn softmax(scores: &mut [f32], n: usize, scale: f32) -> Softmax;
    /// Merges a chunk's weighted sum into that of those before; see the function.
    fn merge(total: &mut Softmax, acc: &mut [f32], part: Softmax, part_acc: &[f32]);
    /// The scores of one query.
    fn score<L>(q: &[f32], keys: Stored<'_>, out: &mut [f32]);
    /// `acc += sum over cells of weights[cell] * values[cell]`.
    fn weigh<L>(weights: &[f32], values: Stored<'_>, acc: &mut [f32]);
    /// Packs one head's values.
    fn pack<L>(kind: KvType, x: &[f32], out: &mut [u8]);
    /// Unpacks every cell to `width` values, the last ones 0 where fewer are stored.
    fn unpack<L>(from: Stored<'_>, width: usize, out: &mut [f32]);
    /// The scores of many queries.
    fn score_block<L>(
        q: &[f32], seen: usize, keys: &[f32], width: usize, out: &mut [f32], stride: usize,
    );
    /// [`Math::weigh`] for many rows of weights.
    fn weigh_block<L>(
        weights: &[f32], stride: usize, seen: usize, values: &[f32], width: usize, acc: &mut [f32],
    );
}
