//! GPT-NeoX-Japanese (abeja): GPT-NeoX with a sequential residual and without biases, but for
//! one on the last layer's attention output; output tied to the embedding.

use super::block::Biases;
use super::{Architecture, Block, Hyper, HyperReader, LoadError, Loader, Output};
use crate::ops::{Activation, Device, Ops, RopePairs};

/// The architecture.
pub struct GptNeoXJapanese;

impl<T> Architecture<T> for GptNeoXJapanese {
    type Layer = Block<T>;

    const OUTPUT: Output = Output::Tied;

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        let mut hyper = reader.common(Activation::GeluErf)?;
        hyper.rope = Some(reader.rope(RopePairs::Halves, hyper.heads.head_dim)?);
        Ok(hyper)
    }

    fn load_layer<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        i: usize,
    ) -> Result<Block<T>, LoadError> {
        let biases = Biases {
            attn_qkv: false,
            attn_output: i + 1 == hyper.n_layer,
            ffn: false,
        };
        Block::load(loader, hyper, i, biases)
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
