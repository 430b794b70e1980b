//! GPT-NeoX (Black et al. 2022): rotary positions on halves, biases on every linear but the
//! output, residual parallel (two norms) or sequential.

use super::block::{Biases, OfBlocks};
use super::{Hyper, HyperReader, LoadError, Output};
use crate::ops::{Activation, RopePairs};

/// The architecture.
pub struct GptNeoX;

impl OfBlocks for GptNeoX {
    const OUTPUT: Output = Output::Untied { bias: false };

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        let mut hyper = reader.common(Activation::GeluErf)?;
        hyper.rope = Some(reader.rope(RopePairs::Halves, hyper.heads.head_dim)?);
        hyper.parallel_residual = reader.parallel_residual()?;
        Ok(hyper)
    }

    fn biases(_: &Hyper, _: usize) -> Biases {
        Biases::ALL
    }
}
