//! GPT-2 (Radford et al. 2019): learned positions, Conv1D weights stored as `[in, out]`, the
//! output tied to the embedding.

use katari_gguf::keys::tensor::*;

use super::{Builder, Config, Layout, Model};
use crate::Error;
use crate::checkpoint::Checkpoint;

const NAME: &str = "gpt2";

/// Converts a GPT2LMHeadModel.
pub fn convert(checkpoint: &Checkpoint, config: &Config<'_>) -> Result<Model, Error> {
    config.refuse_unless(
        "scale_attn_by_inverse_layer_idx",
        false,
        "attention scores divided by the layer's number",
    )?;
    config.refuse_unless("scale_attn_weights", true, "unscaled attention scores")?;
    config.refuse_unless("add_cross_attention", false, "attention to an encoder")?;
    let sizes = super::Sizes::gpt(config)?;
    let (n, n_ff) = (sizes.n_embd, sizes.n_ff);
    let metadata = sizes.metadata(NAME, "gelu_new", config)?;

    let mut tensors = Builder::new(checkpoint, "transformer.");
    tensors.weight(TOKEN_EMBD, "wte", [sizes.n_vocab, n])?;
    tensors.weight(POSITION_EMBD, "wpe", [sizes.n_ctx, n])?;
    for i in 0..sizes.n_layer {
        let mut conv1d = |to: &str, from: &str, shape: [usize; 2]| {
            let (to, from) = (block(i, to), format!("h.{i}.{from}"));
            tensors.add(
                weight(&to),
                &format!("{from}.weight"),
                &shape,
                Layout::Transposed,
            )?;
            tensors.bias(&to, &from, shape[0])
        };
        conv1d(ATTN_QKV, "attn.c_attn", [3 * n, n])?;
        conv1d(ATTN_OUTPUT, "attn.c_proj", [n, n])?;
        conv1d(FFN_UP, "mlp.c_fc", [n_ff, n])?;
        conv1d(FFN_DOWN, "mlp.c_proj", [n, n_ff])?;
        tensors.norm(&block(i, ATTN_NORM), &format!("h.{i}.ln_1"), n)?;
        tensors.norm(&block(i, FFN_NORM), &format!("h.{i}.ln_2"), n)?;
    }
    tensors.norm(OUTPUT_NORM, "ln_f", n)?;
    if config.bool("tie_word_embeddings", true)? {
        tensors.skip("lm_head.weight");
    } else {
        tensors.weight(OUTPUT, "lm_head", [sizes.n_vocab, n])?;
    }
    sizes.model(NAME, metadata, tensors)
}
