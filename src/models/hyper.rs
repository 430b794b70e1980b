//! Hyper-parameters: read from the metadata and validated, with errors that name the key.

use katari_gguf::{FromValue, Gguf, Value, keys};

use super::LoadError;
use crate::ops::{Activation, Heads, Rope, RopePairs};

/// Longest context that a file may claim; the models have 1024 to 2048 positions.
const MAX_CONTEXT: usize = 1 << 20;
/// Widest hidden state, MLP, or deepest stack that a file may claim.
const MAX_SIZE: usize = 1 << 20;

/// What a model's arithmetic depends on beside its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyper {
    /// Rows of the embedding, width of the logits.
    pub n_vocab: usize,
    /// Positions the model was trained on.
    pub n_ctx: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Width of the MLP.
    pub n_ff: usize,
    /// How many layers.
    pub n_layer: usize,
    /// Shape of each layer's attention.
    pub heads: Heads,
    /// Added to the variance in layer norms.
    pub eps: f32,
    /// Rotary positions, or `None` where they are learned.
    pub rope: Option<Rope>,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Whether attention and MLP read the same input (GPT-J; a choice in GPT-NeoX).
    pub parallel_residual: bool,
}

impl Hyper {
    /// Bytes of activations that a pass over `n_tokens` rows has alive at once at most, with
    /// `n_outputs` rows of logits: the residual, the norm, q, k and v, the attention's result,
    /// and the MLP. An estimate: a device may pad, and quantises inputs beside.
    pub fn scratch_bytes(&self, n_tokens: usize, n_outputs: usize) -> u64 {
        let row = 7 * self.n_embd + self.n_ff;
        4 * (n_tokens as u64 * row as u64 + n_outputs as u64 * self.n_vocab as u64)
    }
}

/// One of [`keys::arch`].
type Key = fn(&str) -> String;

/// Reads one architecture's hyper-parameters from a file's header.
pub struct HyperReader<'a> {
    gguf: &'a Gguf,
    /// Prefix of the keys.
    architecture: &'a str,
}

impl<'a> HyperReader<'a> {
    /// A reader of keys under `architecture.`.
    pub fn new(gguf: &'a Gguf, architecture: &'a str) -> Self {
        HyperReader { gguf, architecture }
    }

    /// What all architectures have in common; `activation` is for files that name none.
    pub fn common(&self, activation: Activation) -> Result<Hyper, LoadError> {
        let n_embd = self.size(keys::arch::embedding_length, MAX_SIZE)?;
        let n_head = self.size(keys::arch::head_count, MAX_SIZE)?;
        let head_dim = n_embd / n_head;
        if head_dim * n_head != n_embd {
            return Err(self.wrong(
                keys::arch::head_count,
                n_head,
                format!("a divisor of embedding_length, {n_embd}"),
            ));
        }
        let n_head_kv = self.opt::<usize>(keys::arch::head_count_kv)?;
        if let Some(n_head_kv) = n_head_kv.filter(|&n| n != n_head) {
            return Err(self.wrong(
                keys::arch::head_count_kv,
                n_head_kv,
                format!("{n_head}, as many as heads"),
            ));
        }
        Ok(Hyper {
            n_vocab: self.n_vocab()?,
            n_ctx: self.size(keys::arch::context_length, MAX_CONTEXT)?,
            n_embd,
            n_ff: self.size(keys::arch::feed_forward_length, MAX_SIZE)?,
            n_layer: self.size(keys::arch::block_count, MAX_SIZE)?,
            heads: Heads {
                n_head,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
            },
            eps: self.eps()?,
            rope: None,
            activation: self.activation(activation)?,
            parallel_residual: false,
        })
    }

    /// Rotary positions of heads of `head_dim`.
    pub fn rope(&self, pairs: RopePairs, head_dim: usize) -> Result<Rope, LoadError> {
        let dims = self.size(keys::arch::rope_dimension_count, MAX_SIZE)?;
        if dims % 2 != 0 || dims > head_dim {
            let expected = format!("an even number up to the head's width, {head_dim}");
            return Err(self.wrong(keys::arch::rope_dimension_count, dims, expected));
        }
        let base = self
            .positive(keys::arch::rope_freq_base)?
            .unwrap_or(10_000.0);
        Ok(Rope {
            pairs,
            dims,
            base,
            scale: self.rope_scale()?,
        })
    }

    /// Whether attention and MLP read the same input.
    pub fn parallel_residual(&self) -> Result<bool, LoadError> {
        // llama.cpp takes an absent key for true, as Hugging Face's configuration does.
        Ok(self.opt(keys::arch::use_parallel_residual)?.unwrap_or(true))
    }

    /// `1 / factor` where linear scaling is on; other kinds are refused by name.
    fn rope_scale(&self) -> Result<f32, LoadError> {
        match self.opt::<&str>(keys::arch::rope_scaling_type)? {
            None | Some("none") => Ok(1.0),
            Some("linear") => Ok(1.0
                / self
                    .positive(keys::arch::rope_scaling_factor)?
                    .unwrap_or(1.0)),
            Some(other) => Err(self.wrong(
                keys::arch::rope_scaling_type,
                format!("'{other}'"),
                "none or linear".into(),
            )),
        }
    }

    fn eps(&self) -> Result<f32, LoadError> {
        let key = keys::arch::layer_norm_epsilon;
        let eps: f32 = self.gguf.metadata.need(&key(self.architecture))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(self.wrong(key, eps, "a number from 0 to 1".into()));
        }
        Ok(eps)
    }

    fn activation(&self, default: Activation) -> Result<Activation, LoadError> {
        match self.gguf.metadata.opt::<&str>(keys::katari::ACTIVATION)? {
            None => Ok(default),
            Some("gelu_erf") => Ok(Activation::GeluErf),
            Some("gelu_tanh") => Ok(Activation::GeluTanh),
            Some("relu") => Ok(Activation::Relu),
            Some("silu") => Ok(Activation::Silu),
            Some(other) => Err(LoadError::Key {
                key: keys::katari::ACTIVATION.into(),
                found: format!("'{other}'"),
                expected: "gelu_erf, gelu_tanh, relu or silu".into(),
            }),
        }
    }

    /// The embedding's rows; the tokenizer may have fewer tokens, not more.
    fn n_vocab(&self) -> Result<usize, LoadError> {
        let name = keys::tensor::weight(keys::tensor::TOKEN_EMBD);
        let rows = self
            .gguf
            .tensor(&name)
            .and_then(|t| usize::try_from(*t.dims.get(1)?).ok())
            .ok_or_else(|| LoadError::MissingTensor {
                name: name.clone(),
                expected: "a matrix, one row a token".into(),
            })?;
        let n_tokens = match self.gguf.metadata.get(keys::tokenizer::TOKENS) {
            Some(Value::Array(tokens)) => tokens.len(),
            _ => 0,
        };
        if n_tokens > rows {
            return Err(LoadError::Key {
                key: keys::tokenizer::TOKENS.into(),
                found: format!("{n_tokens} tokens"),
                expected: format!("at most {rows}, the rows of {name}"),
            });
        }
        Ok(rows)
    }

    /// A positive integer up to `max`.
    fn size(&self, key: Key, max: usize) -> Result<usize, LoadError> {
        let n: usize = self.gguf.metadata.need(&key(self.architecture))?;
        if n == 0 || n > max {
            return Err(self.wrong(key, n, format!("1 to {max}")));
        }
        Ok(n)
    }

    /// A positive finite number, if the key is there.
    fn positive(&self, key: Key) -> Result<Option<f32>, LoadError> {
        let x: Option<f32> = self.opt(key)?;
        match x {
            Some(x) if !(x.is_finite() && x > 0.0) => {
                Err(self.wrong(key, x, "a positive number".into()))
            }
            _ => Ok(x),
        }
    }

    fn opt<T: FromValue<'a>>(&self, key: Key) -> Result<Option<T>, LoadError> {
        Ok(self.gguf.metadata.opt(&key(self.architecture))?)
    }

    fn wrong(&self, key: Key, found: impl ToString, expected: String) -> LoadError {
        LoadError::Key {
            key: key(self.architecture),
            found: found.to_string(),
            expected,
        }
    }
}
