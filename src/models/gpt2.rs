//! GPT-2 (Radford et al. 2019): learned positions, biases on every linear, output tied to the
//! embedding.

use super::block::Biases;
use super::{Architecture, Block, Hyper, HyperReader, LoadError, Loader, Output};
use crate::ops::{Activation, Device, Ops};

/// The architecture.
pub struct Gpt2;

impl<T> Architecture<T> for Gpt2 {
    type Layer = Block<T>;

    const OUTPUT: Output = Output::Tied;

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        let mut hyper = reader.common(Activation::GeluTanh)?;
        hyper.scale_by_inverse_layer = reader.scale_by_inverse_layer()?;
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
