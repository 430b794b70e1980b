//! GPT-NeoX (Black et al. 2022): rotary positions on halves, queries, keys and values
//! interleaved head by head, biases on every linear but the head.

use katari_gguf::keys::{self, tensor::*};

use super::{Builder, Config, Model, rope::Rope};
use crate::Error;
use crate::checkpoint::Checkpoint;

const NAME: &str = "gptneox";

/// Converts a GPTNeoXForCausalLM.
pub fn convert(checkpoint: &Checkpoint, config: &Config<'_>) -> Result<Model, Error> {
    let sizes = super::Sizes::neox(config)?;
    let (n, n_ff) = (sizes.n_embd, sizes.n_ff);
    let has_bias = config.bool("attention_bias", true)?;
    let mut metadata = sizes.metadata(NAME, "gelu", config)?;
    Rope::of_fraction(config, sizes.head_dim(), 0.25)?.write(NAME, &mut metadata);
    metadata.set(
        keys::arch::use_parallel_residual(NAME),
        config.bool("use_parallel_residual", true)?,
    );

    let mut tensors = Builder::new(checkpoint, "gpt_neox.");
    tensors.weight(TOKEN_EMBD, "embed_in", [sizes.n_vocab, n])?;
    let split = sizes.split_qkv();
    for i in 0..sizes.n_layer {
        let to = |module| block(i, module);
        let from = |module| format!("layers.{i}.{module}");
        let (qkv, dense) = (from("attention.query_key_value"), from("attention.dense"));
        tensors.norm(&to(ATTN_NORM), &from("input_layernorm"), n)?;
        tensors.add(
            weight(&to(ATTN_QKV)),
            &format!("{qkv}.weight"),
            &[3 * n, n],
            split,
        )?;
        tensors.weight(&to(ATTN_OUTPUT), &dense, [n, n])?;
        if has_bias {
            // A vector is one row of 3n columns; as [3n, 1] its rows are reordered like the
            // weight's.
            tensors.add(bias(&to(ATTN_QKV)), &format!("{qkv}.bias"), &[3 * n], split)?;
            tensors.bias(&to(ATTN_OUTPUT), &dense, n)?;
        } else {
            tensors.zero_bias(&to(ATTN_QKV), 3 * n);
            tensors.zero_bias(&to(ATTN_OUTPUT), n);
        }
        tensors.norm(&to(FFN_NORM), &from("post_attention_layernorm"), n)?;
        tensors.linear(&to(FFN_UP), &from("mlp.dense_h_to_4h"), [n_ff, n])?;
        tensors.linear(&to(FFN_DOWN), &from("mlp.dense_4h_to_h"), [n, n_ff])?;
    }
    tensors.norm(OUTPUT_NORM, "final_layer_norm", n)?;
    // Readers of this architecture demand an output matrix, even a tied one.
    if config.bool("tie_word_embeddings", false)? {
        tensors.weight(OUTPUT, "embed_in", [sizes.n_vocab, n])?;
        for head in super::NEOX_HEADS {
            tensors.skip(&format!("{head}.weight"));
        }
    } else {
        let head = tensors.either(&super::NEOX_HEADS);
        tensors.weight(OUTPUT, head, [sizes.n_vocab, n])?;
    }
    sizes.model(NAME, metadata, tensors)
}
