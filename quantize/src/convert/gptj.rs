//! GPT-J (Wang and Komatsuzaki 2021): biases in the MLP and the head only, one norm a layer,
//! rotary positions on adjacent pairs.

use katari_gguf::keys::{self, tensor::*};

use super::{Builder, Config, Model, rope::Rope};
use crate::Error;
use crate::checkpoint::Checkpoint;

const NAME: &str = "gptj";

/// Converts a GPTJForCausalLM.
pub fn convert(checkpoint: &Checkpoint, config: &Config<'_>) -> Result<Model, Error> {
    config.refuse_unless("rotary", true, "positions without rotation")?;
    let sizes = super::Sizes::gpt(config)?;
    let (n, n_ff) = (sizes.n_embd, sizes.n_ff);
    let mut metadata = sizes.metadata(NAME, "gelu_new", config)?;
    Rope::of_dims(config, sizes.head_dim())?.write(NAME, &mut metadata);
    metadata.set(keys::arch::use_parallel_residual(NAME), true);

    let mut tensors = Builder::new(checkpoint, "transformer.");
    tensors.weight(TOKEN_EMBD, "wte", [sizes.n_vocab, n])?;
    for i in 0..sizes.n_layer {
        let to = |module| block(i, module);
        let from = |module| format!("h.{i}.{module}");
        tensors.norm(&to(ATTN_NORM), &from("ln_1"), n)?;
        tensors.weight(&to(ATTN_Q), &from("attn.q_proj"), [n, n])?;
        tensors.weight(&to(ATTN_K), &from("attn.k_proj"), [n, n])?;
        tensors.weight(&to(ATTN_V), &from("attn.v_proj"), [n, n])?;
        tensors.weight(&to(ATTN_OUTPUT), &from("attn.out_proj"), [n, n])?;
        tensors.linear(&to(FFN_UP), &from("mlp.fc_in"), [n_ff, n])?;
        tensors.linear(&to(FFN_DOWN), &from("mlp.fc_out"), [n, n_ff])?;
    }
    tensors.norm(OUTPUT_NORM, "ln_f", n)?;
    if config.bool("tie_word_embeddings", false)? {
        tensors.weight(OUTPUT, "wte", [sizes.n_vocab, n])?;
        tensors.skip("lm_head.weight");
    } else {
        tensors.weight(OUTPUT, "lm_head", [sizes.n_vocab, n])?;
    }
    tensors.bias(OUTPUT, "lm_head", sizes.n_vocab)?;
    sizes.model(NAME, metadata, tensors)
}
