//! The published models as headers alone: their shapes, for measuring without their weights.
//!
//! A [`Shape`] is a checkpoint whose tensors have names, types and sizes but no bytes. It goes
//! through the same conversion and plan as a folder does, so that what is measured is what
//! [`quantize`](crate::quantize) would have written. The sizes are those of the models'
//! config.json on Hugging Face.

use katari_gguf::{Metadata, TensorSpec, keys};
use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, Dtype};
use crate::{Error, FileType, convert, plan};

/// A published model's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // each is the model of its name
pub enum Shape {
    #[value(name = "genji-jp-6b")]
    GenjiJp6b,
    #[value(name = "rinna-neox-3.6b")]
    RinnaNeox36b,
    #[value(name = "abeja-neox-2.7b")]
    AbejaNeox27b,
    #[value(name = "rinna-gpt-1b")]
    RinnaGpt1b,
}

/// A file's header: everything but the tokenizer and the weights' bytes.
#[derive(Debug, Clone)]
pub struct Header {
    /// The architecture's keys.
    pub metadata: Metadata,
    /// The tensors in order.
    pub tensors: Vec<TensorSpec>,
}

/// A tensor of a checkpoint: its name and shape.
type Listed = (String, Vec<u64>);

impl Shape {
    /// Every shape there is.
    pub const ALL: [Shape; 4] = [
        Shape::GenjiJp6b,
        Shape::RinnaNeox36b,
        Shape::AbejaNeox27b,
        Shape::RinnaGpt1b,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Shape::GenjiJp6b => "genji-jp-6b",
            Shape::RinnaNeox36b => "rinna-neox-3.6b",
            Shape::AbejaNeox27b => "abeja-neox-2.7b",
            Shape::RinnaGpt1b => "rinna-gpt-1b",
        }
    }

    /// The header that [`quantize`](crate::quantize) writes for a checkpoint of this shape.
    ///
    /// # Errors
    /// None for the shapes there are; the conversion's are passed on.
    pub fn header(self, file_type: FileType) -> Result<Header, Error> {
        let (config, tensors) = self.checkpoint();
        let tensors = tensors.into_iter();
        let checkpoint = Checkpoint::of_header(
            self.name(),
            config,
            tensors.map(|(name, shape)| (name, Dtype::F16, shape)),
        );
        let model = convert::convert(&checkpoint)?;
        let planned = plan::plan(&checkpoint, &model, file_type, false)?;
        let mut metadata = Metadata::new();
        metadata.set(keys::general::ARCHITECTURE, model.architecture);
        metadata.set(keys::general::NAME, self.name());
        metadata.set(keys::general::FILE_TYPE, file_type.id());
        for (key, value) in model.metadata.iter() {
            metadata.set(key, value.clone());
        }
        let tensors = planned.into_iter().map(|planned| TensorSpec {
            name: planned.name,
            dims: planned.shape.iter().rev().map(|&n| n as u64).collect(),
            format: planned.to,
        });
        Ok(Header {
            metadata,
            tensors: tensors.collect(),
        })
    }

    /// config.json and the tensors of the published checkpoint.
    fn checkpoint(self) -> (Value, Vec<Listed>) {
        match self {
            Shape::GenjiJp6b => gptj(),
            Shape::RinnaNeox36b => gpt_neox(),
            Shape::AbejaNeox27b => gpt_neox_japanese(),
            Shape::RinnaGpt1b => gpt2(),
        }
    }
}

/// Collects tensors under prefixes.
#[derive(Default)]
struct Tensors(Vec<Listed>);

impl Tensors {
    fn weight(&mut self, module: &str, shape: &[u64]) {
        self.0.push((format!("{module}.weight"), shape.to_vec()));
    }

    fn bias(&mut self, module: &str, n: u64) {
        self.0.push((format!("{module}.bias"), vec![n]));
    }

    fn norm(&mut self, module: &str, n: u64) {
        self.weight(module, &[n]);
        self.bias(module, n);
    }
}

/// NovelAI's Genji-JP 6B.
fn gptj() -> (Value, Vec<Listed>) {
    let (n, n_ff, n_vocab, n_layer) = (4096, 16384, 50400, 28);
    let config = json!({
        "model_type": "gptj", "activation_function": "gelu_new", "n_embd": n, "n_head": 16,
        "n_layer": n_layer, "n_positions": 2048, "rotary": true, "rotary_dim": 64,
        "layer_norm_epsilon": 1e-5, "vocab_size": n_vocab, "tie_word_embeddings": false,
    });
    let mut t = Tensors::default();
    t.weight("transformer.wte", &[n_vocab, n]);
    for i in 0..n_layer {
        let of = |module: &str| format!("transformer.h.{i}.{module}");
        t.norm(&of("ln_1"), n);
        for module in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            t.weight(&of(&format!("attn.{module}")), &[n, n]);
        }
        t.weight(&of("mlp.fc_in"), &[n_ff, n]);
        t.bias(&of("mlp.fc_in"), n_ff);
        t.weight(&of("mlp.fc_out"), &[n, n_ff]);
        t.bias(&of("mlp.fc_out"), n);
    }
    t.norm("transformer.ln_f", n);
    t.weight("lm_head", &[n_vocab, n]);
    t.bias("lm_head", n_vocab);
    (config, t.0)
}

/// rinna's japanese-gpt-neox-3.6b.
fn gpt_neox() -> (Value, Vec<Listed>) {
    let (n, n_ff, n_vocab, n_layer) = (2816, 11264, 32000, 36);
    let config = json!({
        "model_type": "gpt_neox", "hidden_act": "gelu", "hidden_size": n,
        "num_attention_heads": 22, "num_hidden_layers": n_layer, "intermediate_size": n_ff,
        "max_position_embeddings": 2048, "rotary_pct": 1.0, "rotary_emb_base": 10000,
        "layer_norm_eps": 1e-5, "use_parallel_residual": false, "vocab_size": n_vocab,
        "tie_word_embeddings": false,
    });
    let mut t = Tensors::default();
    t.weight("gpt_neox.embed_in", &[n_vocab, n]);
    for i in 0..n_layer {
        let of = |module: &str| format!("gpt_neox.layers.{i}.{module}");
        t.norm(&of("input_layernorm"), n);
        t.norm(&of("post_attention_layernorm"), n);
        for (module, shape) in neox_linears(n, n_ff) {
            t.weight(&of(module), &shape);
            t.bias(&of(module), shape[0]);
        }
    }
    t.norm("gpt_neox.final_layer_norm", n);
    t.weight("embed_out", &[n_vocab, n]);
    (config, t.0)
}

/// abeja's gpt-neox-japanese-2.7b.
fn gpt_neox_japanese() -> (Value, Vec<Listed>) {
    let (n, n_vocab, n_layer) = (2560, 32000, 32);
    let config = json!({
        "model_type": "gpt_neox_japanese", "hidden_act": "gelu", "hidden_size": n,
        "num_attention_heads": 32, "num_hidden_layers": n_layer,
        "intermediate_multiple_size": 4, "max_position_embeddings": 2048, "rotary_pct": 1.0,
        "rotary_emb_base": 10000, "layer_norm_eps": 1e-5, "vocab_size": n_vocab,
    });
    let mut t = Tensors::default();
    t.weight("gpt_neox_japanese.embed_in", &[n_vocab, n]);
    for i in 0..n_layer {
        let of = |module: &str| format!("gpt_neox_japanese.layers.{i}.{module}");
        t.norm(&of("input_layernorm"), n);
        t.norm(&of("post_attention_layernorm"), n);
        for (module, shape) in neox_linears(n, 4 * n) {
            t.weight(&of(module), &shape);
        }
        if i + 1 == n_layer {
            t.0.push((of("attention.dense_bias"), vec![n]));
        }
    }
    t.norm("gpt_neox_japanese.final_layer_norm", n);
    t.weight("embed_out", &[n_vocab, n]);
    (config, t.0)
}

/// The linears of a GPT-NeoX layer, `[n_out, n_in]`.
fn neox_linears(n: u64, n_ff: u64) -> [(&'static str, [u64; 2]); 4] {
    [
        ("attention.query_key_value", [3 * n, n]),
        ("attention.dense", [n, n]),
        ("mlp.dense_h_to_4h", [n_ff, n]),
        ("mlp.dense_4h_to_h", [n, n_ff]),
    ]
}

/// rinna's japanese-gpt-1b.
fn gpt2() -> (Value, Vec<Listed>) {
    let (n, n_vocab, n_ctx, n_layer) = (2048, 44928, 1024, 24);
    let config = json!({
        "model_type": "gpt2", "activation_function": "gelu_fast", "n_embd": n, "n_head": 16,
        "n_layer": n_layer, "n_positions": n_ctx, "n_inner": 4 * n,
        "layer_norm_epsilon": 1e-5, "vocab_size": n_vocab,
    });
    let mut t = Tensors::default();
    t.weight("transformer.wte", &[n_vocab, n]);
    t.weight("transformer.wpe", &[n_ctx, n]);
    for i in 0..n_layer {
        let of = |module: &str| format!("transformer.h.{i}.{module}");
        t.norm(&of("ln_1"), n);
        t.norm(&of("ln_2"), n);
        // Conv1D: stored `[n_in, n_out]`.
        for (module, [n_in, n_out]) in [
            ("attn.c_attn", [n, 3 * n]),
            ("attn.c_proj", [n, n]),
            ("mlp.c_fc", [n, 4 * n]),
            ("mlp.c_proj", [4 * n, n]),
        ] {
            t.weight(&of(module), &[n_in, n_out]);
            t.bias(&of(module), n_out);
        }
    }
    t.norm("transformer.ln_f", n);
    (config, t.0)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// In GB, the sizes of files that `katari quantize` wrote from checkpoints of these shapes.
    #[test]
    fn files_are_as_large_as_those_made_from_checkpoints() {
        for (shape, file_type, gigabytes) in [
            (Shape::GenjiJp6b, FileType::Q4_0, 3.46),
            (Shape::GenjiJp6b, FileType::Q4_K_M, 3.76),
            (Shape::RinnaNeox36b, FileType::Q4_0, 2.06),
            (Shape::RinnaNeox36b, FileType::Q8_0, 3.84),
            (Shape::RinnaNeox36b, FileType::Q4_K_M, 2.32),
            (Shape::AbejaNeox27b, FileType::Q4_0, 1.49),
            (Shape::RinnaGpt1b, FileType::Q4_0, 0.77),
            (Shape::RinnaGpt1b, FileType::Q4_K_M, 0.86),
        ] {
            let header = shape.header(file_type).unwrap();
            let bytes: u64 = header.tensors.iter().map(|t| t.bytes().unwrap()).sum();
            let found = bytes as f64 / 1e9;
            assert!((found - gigabytes).abs() < 0.011, "{shape:?}: {found}");
        }
    }

    #[test]
    fn each_shape_converts_to_each_type() {
        for shape in Shape::ALL {
            for file_type in FileType::value_variants() {
                let header = shape.header(*file_type).unwrap();
                assert!(header.tensors.len() > 100, "{shape:?}");
            }
            let value = shape.to_possible_value().unwrap();
            assert_eq!(value.get_name(), shape.name());
        }
    }
}
