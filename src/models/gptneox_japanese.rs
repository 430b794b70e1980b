//! GPT-NeoX-Japanese (abeja): GPT-NeoX with a sequential residual and without biases, but for
//! one on the last layer's attention output; output tied to the embedding.

use super::block::{Biases, OfBlocks};
use super::{Hyper, HyperReader, LoadError, Output};
use crate::ops::{Activation, RopePairs};

/// The architecture.
pub struct GptNeoXJapanese;

impl OfBlocks for GptNeoXJapanese {
    const OUTPUT: Output = Output::Tied;

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        let mut hyper = reader.common(Activation::GeluErf)?;
        hyper.rope = Some(reader.rope(RopePairs::Halves, hyper.heads.head_dim)?);
        Ok(hyper)
    }

    fn biases(hyper: &Hyper, i: usize) -> Biases {
        Biases {
            attn_qkv: false,
            attn_output: i + 1 == hyper.n_layer,
            ffn: false,
        }
    }
}
