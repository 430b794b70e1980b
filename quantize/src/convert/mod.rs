//! From a checkpoint's tensors and configuration to a GGUF's: one file an architecture.
//!
//! A converter reads nothing but headers: it says which stored tensor each written one comes
//! from and how its rows are found there, and the pipeline moves the bytes.

mod builder;
mod config;
mod gpt2;
mod gptj;
mod gptneox;
mod gptneox_japanese;
mod rope;
mod sizes;

use katari_gguf::Metadata;

use crate::Error;
use crate::checkpoint::Checkpoint;
use builder::Builder;
use config::Config;
use sizes::Sizes;

/// How a written tensor's rows lie in the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As they are written.
    Same,
    /// The stored tensor is `[cols, rows]` (GPT-2's Conv1D).
    Transposed,
    /// The stored rows are `[n_head, 3, head_dim]` and are written as `[3, n_head, head_dim]`:
    /// all queries, all keys, all values (GPT-NeoX).
    SplitQkv {
        /// How many heads.
        n_head: usize,
        /// Rows a head has in each of q, k and v.
        head_dim: usize,
    },
}

/// Where a written tensor's values come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A tensor of the checkpoint, by its name there.
    Stored {
        /// Its name.
        tensor: String,
        /// How its rows lie.
        layout: Layout,
    },
    /// Nowhere: a bias that the model does not have and readers of its architecture demand.
    Zeros,
}

/// A tensor of the file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name in GGUF.
    pub name: String,
    /// `[rows, cols]`, or `[n]` for a vector.
    pub shape: Vec<usize>,
    /// Where its values come from.
    pub source: Source,
}

impl Output {
    /// How many rows; 1 for a vector.
    pub fn rows(&self) -> usize {
        match self.shape.as_slice() {
            [rows, _] => *rows,
            _ => 1,
        }
    }

    /// Elements a row.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }
}

/// A converted header: what to write, and the keys of the architecture.
#[derive(Debug)]
pub struct Model {
    /// GGUF's name of the architecture.
    pub architecture: &'static str,
    /// `{architecture}.*` and `katari.activation`, in the order they are written.
    pub metadata: Metadata,
    /// In the order they are written.
    pub outputs: Vec<Output>,
    /// Rows of the embedding.
    pub n_vocab: usize,
    /// How many layers.
    pub n_layer: usize,
}

/// What GPT-NeoX's head is called: published checkpoints have the first, newer exports the second.
const NEOX_HEADS: [&str; 2] = ["embed_out", "lm_head"];

/// How one architecture is converted.
struct Architecture {
    /// `model_type` in config.json.
    model_type: &'static str,
    /// `architectures` in config.json, for configurations without a `model_type`.
    class: &'static str,
    convert: fn(&Checkpoint, &Config<'_>) -> Result<Model, Error>,
}

/// The architectures, one a line.
#[rustfmt::skip]
const ARCHITECTURES: [Architecture; 4] = [
    Architecture { model_type: "gptj", class: "GPTJForCausalLM", convert: gptj::convert },
    Architecture { model_type: "gpt_neox", class: "GPTNeoXForCausalLM", convert: gptneox::convert },
    Architecture { model_type: "gpt_neox_japanese", class: "GPTNeoXJapaneseForCausalLM", convert: gptneox_japanese::convert },
    Architecture { model_type: "gpt2", class: "GPT2LMHeadModel", convert: gpt2::convert },
];

/// Converts a checkpoint's header.
///
/// # Errors
/// Where the architecture is not known, an option that changes the arithmetic is not honoured,
/// or the tensors are not those that the configuration calls for.
pub fn convert(checkpoint: &Checkpoint) -> Result<Model, Error> {
    let path = checkpoint.config_path();
    let config = Config::new(&path, checkpoint.config());
    let model_type = config.opt_str(&["model_type"])?;
    let class = config.first_architecture();
    let found = ARCHITECTURES.iter().find(|a| match model_type {
        Some(model_type) => a.model_type == model_type,
        None => class == Some(a.class),
    });
    let Some(architecture) = found else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.model_type).collect();
        return Err(Error::file(
            &path,
            format!(
                "model_type is {}, expected one of {}",
                model_type
                    .or(class)
                    .map_or("absent".to_string(), |m| format!("'{m}'")),
                known.join(", ")
            ),
        ));
    };
    config.refuse_set(
        "quantization_config",
        "the checkpoint is quantized already; start from the original weights",
    )?;
    (architecture.convert)(checkpoint, &config)
}

/// The activation's name under `katari.activation`, from Hugging Face's.
fn activation(config: &Config<'_>, default: &str) -> Result<&'static str, Error> {
    const KEYS: [&str; 2] = ["activation_function", "hidden_act"];
    let name = config.opt_str(&KEYS)?.unwrap_or(default);
    match name {
        "gelu" | "gelu_python" => Ok("gelu_erf"),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Ok("gelu_tanh"),
        "relu" => Ok("relu"),
        "silu" | "swish" => Ok("silu"),
        other => Err(config.wrong(
            &KEYS,
            format!("'{other}'"),
            "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu or silu",
        )),
    }
}
