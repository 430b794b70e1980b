//! GPT-NeoX-Japanese (abeja): GPT-NeoX with a sequential residual and without biases, but for
//! one on the last layer's attention output; the output tied to the embedding.

use katari_gguf::keys::{self, tensor::*};

use super::{Builder, Config, Layout, Model, rope::Rope};
use crate::Error;
use crate::checkpoint::Checkpoint;

const NAME: &str = "gptneox-japanese";

/// Converts a GPTNeoXJapaneseForCausalLM.
pub fn convert(checkpoint: &Checkpoint, config: &Config<'_>) -> Result<Model, Error> {
    let sizes = super::Sizes::neox(config)?;
    let (n, n_ff) = (sizes.n_embd, sizes.n_ff);
    let mut metadata = sizes.metadata(NAME, "gelu", config)?;
    Rope::of_fraction(config, sizes.head_dim(), 1.0)?.write(NAME, &mut metadata);
    metadata.set(keys::arch::use_parallel_residual(NAME), false);

    let mut tensors = Builder::new(checkpoint, "gpt_neox_japanese.");
    tensors.weight(TOKEN_EMBD, "embed_in", [sizes.n_vocab, n])?;
    for i in 0..sizes.n_layer {
        let to = |module| block(i, module);
        let from = |module| format!("layers.{i}.{module}");
        tensors.norm(&to(ATTN_NORM), &from("input_layernorm"), n)?;
        tensors.add(
            weight(&to(ATTN_QKV)),
            &from("attention.query_key_value.weight"),
            &[3 * n, n],
            sizes.split_qkv(),
        )?;
        tensors.weight(&to(ATTN_OUTPUT), &from("attention.dense"), [n, n])?;
        if i + 1 == sizes.n_layer {
            tensors.add(
                bias(&to(ATTN_OUTPUT)),
                &from("attention.dense_bias"),
                &[n],
                Layout::Same,
            )?;
        }
        tensors.norm(&to(FFN_NORM), &from("post_attention_layernorm"), n)?;
        tensors.weight(&to(FFN_UP), &from("mlp.dense_h_to_4h"), [n_ff, n])?;
        tensors.weight(&to(FFN_DOWN), &from("mlp.dense_4h_to_h"), [n, n_ff])?;
    }
    tensors.norm(OUTPUT_NORM, "final_layer_norm", n)?;
    if config.bool("tie_word_embeddings", true)? {
        for head in super::NEOX_HEADS {
            tensors.skip(&format!("{head}.weight"));
        }
    } else {
        let head = tensors.either(&super::NEOX_HEADS);
        tensors.weight(OUTPUT, head, [sizes.n_vocab, n])?;
    }
    sizes.model(NAME, metadata, tensors)
}
