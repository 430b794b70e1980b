//! GPT-NeoX (Black et al. 2022): rotary positions on halves, biases on every linear but the
//! output, residual parallel (two norms) or sequential.

use super::block::Biases;
use super::{Architecture, Block, Hyper, HyperReader, LoadError, Loader, Output};
use crate::ops::{Activation, Device, Ops, RopePairs};

/// The architecture.
pub struct GptNeoX;

impl<T> Architecture<T> for GptNeoX {
    type Layer = Block<T>;

    const OUTPUT: Output = Output::Untied { bias: false };

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        let mut hyper = reader.common(Activation::GeluErf)?;
        hyper.rope = Some(reader.rope(RopePairs::Halves, hyper.heads.head_dim)?);
        hyper.parallel_residual = reader.parallel_residual()?;
        Ok(hyper)
    }

    fn load_layer<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        i: usize,
    ) -> Result<Block<T>, LoadError> {
        Block::load(loader, hyper, i, Biases::ALL)
    }

    fn layer<O: Ops<Tensor = T>>(
        ops: &O,
        layer: &Block<T>,
        hyper: &Hyper,
        i: usize,
        x: O::Value,
    ) -> O::Value {
        layer.forward(ops, hyper, i, x)
    }
}
