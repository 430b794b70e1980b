//! The sizes that every architecture has, in both families' spellings.

use katari_gguf::Metadata;
use katari_gguf::keys::{self, arch};

use super::{Builder, Config, Layout, Model};
use crate::Error;

const N_HEAD: [&str; 2] = ["n_head", "num_attention_heads"];
const N_LAYER: [&str; 2] = ["n_layer", "num_hidden_layers"];
const EPSILON: [&str; 2] = ["layer_norm_epsilon", "layer_norm_eps"];

/// Deepest that a configuration may claim; published models have less than a hundred layers.
const MAX_LAYERS: usize = 4096;

/// Widths and counts of a model.
pub struct Sizes {
    /// Rows of the embedding.
    pub n_vocab: usize,
    /// Positions the model was trained on.
    pub n_ctx: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Width of the MLP.
    pub n_ff: usize,
    /// How many layers.
    pub n_layer: usize,
    /// How many heads; divides `n_embd`.
    pub n_head: usize,
}

impl Sizes {
    /// GPT-2's and GPT-J's: `n_inner` is four times the width where it is null.
    pub fn gpt(config: &Config<'_>) -> Result<Self, Error> {
        Self::read(config, |n_embd| {
            Ok(config
                .opt_size(&["n_inner", "intermediate_size"])?
                .unwrap_or(4 * n_embd))
        })
    }

    /// GPT-NeoX's: `intermediate_size`, or abeja's `intermediate_multiple_size`.
    pub fn neox(config: &Config<'_>) -> Result<Self, Error> {
        Self::read(config, |n_embd| {
            if let Some(n_ff) = config.opt_size(&["intermediate_size"])? {
                return Ok(n_ff);
            }
            const MULTIPLE: [&str; 1] = ["intermediate_multiple_size"];
            let multiple = config.opt_positive(&MULTIPLE)?.unwrap_or(4.0);
            let n_ff = n_embd as f64 * multiple;
            if n_ff < 1.0 || n_ff > (1u64 << 20) as f64 {
                return Err(config.wrong(&MULTIPLE, multiple, "a small multiple, such as 4"));
            }
            Ok(n_ff as usize)
        })
    }

    fn read(
        config: &Config<'_>,
        n_ff: impl FnOnce(usize) -> Result<usize, Error>,
    ) -> Result<Self, Error> {
        let n_embd = config.size(&["n_embd", "hidden_size"])?;
        let n_head = config.size(&N_HEAD)?;
        if n_embd % n_head != 0 {
            return Err(config.wrong(
                &N_HEAD,
                n_head,
                &format!("a divisor of the hidden state's width, {n_embd}"),
            ));
        }
        let n_layer = config.size(&N_LAYER)?;
        if n_layer > MAX_LAYERS {
            return Err(config.wrong(&N_LAYER, n_layer, &format!("at most {MAX_LAYERS}")));
        }
        Ok(Sizes {
            n_vocab: config.size(&["vocab_size"])?,
            n_ctx: config.size(&["n_positions", "max_position_embeddings", "n_ctx"])?,
            n_embd,
            n_ff: n_ff(n_embd)?,
            n_layer,
            n_head,
        })
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// The layout of GPT-NeoX's query_key_value.
    pub fn split_qkv(&self) -> Layout {
        Layout::SplitQkv {
            n_head: self.n_head,
            head_dim: self.head_dim(),
        }
    }

    /// The keys that every architecture has.
    pub fn metadata(
        &self,
        name: &str,
        default_activation: &str,
        config: &Config<'_>,
    ) -> Result<Metadata, Error> {
        let mut metadata = Metadata::new();
        let sizes = [
            (arch::vocab_size(name), self.n_vocab),
            (arch::context_length(name), self.n_ctx),
            (arch::embedding_length(name), self.n_embd),
            (arch::block_count(name), self.n_layer),
            (arch::feed_forward_length(name), self.n_ff),
            (arch::head_count(name), self.n_head),
        ];
        for (key, size) in sizes {
            metadata.set(key, size as u32);
        }
        let epsilon = config.opt_positive(&EPSILON)?.unwrap_or(1e-5);
        metadata.set(arch::layer_norm_epsilon(name), epsilon as f32);
        metadata.set(
            keys::katari::ACTIVATION,
            super::activation(config, default_activation)?,
        );
        Ok(metadata)
    }

    /// The converted header.
    pub fn model(
        &self,
        architecture: &'static str,
        metadata: Metadata,
        tensors: Builder<'_>,
    ) -> Result<Model, Error> {
        Ok(Model {
            architecture,
            metadata,
            outputs: tensors.finish()?,
            n_vocab: self.n_vocab,
            n_layer: self.n_layer,
        })
    }
}
