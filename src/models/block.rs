//! What several architectures share: the way in, the way out, and a block whose attention has
//! one fused linear for queries, keys and values.

use katari_gguf::keys::tensor;

use super::{Architecture, Hyper, HyperReader, LoadError, Loader, Part};
use crate::ops::{Device, Linear, Norm, Ops};

/// How hidden states come into a part.
pub enum Entry<T> {
    /// From the tokens.
    Embedding {
        /// `[n_vocab, n_embd]`.
        tokens: T,
        /// `[n_ctx, n_embd]` where positions are learned.
        positions: Option<T>,
    },
    /// From the part before.
    Hidden,
}

impl<T> Entry<T> {
    /// Loads the embedding if `part` begins with it; with positions where nothing rotates.
    pub fn load<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        part: &Part,
    ) -> Result<Self, LoadError> {
        if !part.first {
            return Ok(Entry::Hidden);
        }
        Ok(Entry::Embedding {
            tokens: loader.table(
                &tensor::weight(tensor::TOKEN_EMBD),
                hyper.n_vocab,
                hyper.n_embd,
            )?,
            positions: match hyper.rope {
                Some(_) => None,
                None => Some(loader.table(
                    &tensor::weight(tensor::POSITION_EMBD),
                    hyper.n_ctx,
                    hyper.n_embd,
                )?),
            },
        })
    }

    /// `[n_tokens, n_embd]`.
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O) -> O::Value {
        match self {
            Entry::Hidden => ops.hidden(),
            Entry::Embedding { tokens, positions } => {
                let x = ops.embed_tokens(tokens);
                match positions {
                    Some(positions) => ops.add(x, &ops.embed_positions(positions)),
                    None => x,
                }
            }
        }
    }
}

/// How a model's output linear is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `output.weight`, with `output.bias` where `bias` says so.
    Untied {
        /// Whether there is a bias.
        bias: bool,
    },
    /// The token embedding's matrix, unless the file has an `output.weight`.
    Tied,
}

/// How hidden states leave a part.
pub enum Exit<T> {
    /// As logits.
    Head {
        /// The last layer norm.
        norm: Norm<T>,
        /// `[n_vocab, n_embd]`.
        output: Linear<T>,
    },
    /// To the next part.
    Hidden,
}

impl<T> Exit<T> {
    /// Loads the head if `part` ends with it.
    pub fn load<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        part: &Part,
        output: Output,
    ) -> Result<Self, LoadError> {
        if !part.last {
            return Ok(Exit::Hidden);
        }
        let (n_vocab, n_embd) = (hyper.n_vocab, hyper.n_embd);
        Ok(Exit::Head {
            norm: loader.norm(tensor::OUTPUT_NORM, n_embd, hyper.eps)?,
            output: match output {
                Output::Untied { bias } => loader.linear(tensor::OUTPUT, n_vocab, n_embd, bias)?,
                // The embedding may live on another device, so the head takes it once more;
                // a device that reads the file in place pays nothing for that.
                Output::Tied => Linear {
                    weight: match loader.opt_matrix(
                        &tensor::weight(tensor::OUTPUT),
                        n_vocab,
                        n_embd,
                    )? {
                        Some(weight) => weight,
                        None => {
                            loader.matrix(&tensor::weight(tensor::TOKEN_EMBD), n_vocab, n_embd)?
                        }
                    },
                    bias: None,
                },
            },
        })
    }

    /// `[n_tokens, n_embd]` -> `[n_outputs, n_vocab]`, or as it came.
    pub fn forward<O: Ops<Tensor = T>>(&self, ops: &O, x: O::Value) -> O::Value {
        match self {
            Exit::Hidden => x,
            Exit::Head { norm, output } => {
                let x = ops.select_outputs(&x);
                let x = ops.layer_norm(&x, norm);
                ops.linear(&x, output, None)
            }
        }
    }
}

/// Which linears of a [`Block`] have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// The fused queries, keys and values.
    pub attn_qkv: bool,
    /// The attention's output.
    pub attn_output: bool,
    /// Both linears of the MLP.
    pub ffn: bool,
}

impl Biases {
    /// On every linear.
    pub const ALL: Biases = Biases {
        attn_qkv: true,
        attn_output: true,
        ffn: true,
    };
}

/// An architecture whose layers are [`Block`]s: what makes it itself.
pub trait OfBlocks {
    /// How the output linear is stored.
    const OUTPUT: Output;

    /// Reads and validates what the metadata says of the model.
    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError>;

    /// Which linears of layer `i` have a bias.
    fn biases(hyper: &Hyper, i: usize) -> Biases;
}

impl<T, A: OfBlocks> Architecture<T> for A {
    type Layer = Block<T>;

    const OUTPUT: Output = A::OUTPUT;

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        A::hyper(reader)
    }

    fn load_layer<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        i: usize,
    ) -> Result<Block<T>, LoadError> {
        Block::load(loader, hyper, i, A::biases(hyper, i))
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

/// A transformer block with two norms and fused queries, keys and values: GPT-2's and GPT-NeoX's.
pub struct Block<T> {
    attn_norm: Norm<T>,
    /// `[3 n_embd, n_embd]`: all rows of q, then k, then v.
    attn_qkv: Linear<T>,
    /// `[n_embd, n_embd]`.
    attn_output: Linear<T>,
    ffn_norm: Norm<T>,
    /// `[n_ff, n_embd]`.
    ffn_up: Linear<T>,
    /// `[n_embd, n_ff]`.
    ffn_down: Linear<T>,
}

impl<T> Block<T> {
    /// Loads layer `i` of the model.
    fn load<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        i: usize,
        biases: Biases,
    ) -> Result<Self, LoadError> {
        let &Hyper {
            n_embd, n_ff, eps, ..
        } = hyper;
        let name = |module| tensor::block(i, module);
        Ok(Block {
            attn_norm: loader.norm(&name(tensor::ATTN_NORM), n_embd, eps)?,
            attn_qkv: loader.linear(
                &name(tensor::ATTN_QKV),
                3 * n_embd,
                n_embd,
                biases.attn_qkv,
            )?,
            attn_output: loader.linear(
                &name(tensor::ATTN_OUTPUT),
                n_embd,
                n_embd,
                biases.attn_output,
            )?,
            ffn_norm: loader.norm(&name(tensor::FFN_NORM), n_embd, eps)?,
            ffn_up: loader.linear(&name(tensor::FFN_UP), n_ff, n_embd, biases.ffn)?,
            ffn_down: loader.linear(&name(tensor::FFN_DOWN), n_embd, n_ff, biases.ffn)?,
        })
    }

    /// `x + attention(norm(x))`, then `+ mlp(norm(..))` of that sum, or of `x` itself where the
    /// residual is parallel: `[n_tokens, n_embd]`.
    fn forward<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        hyper: &Hyper,
        i: usize,
        x: O::Value,
    ) -> O::Value {
        if hyper.parallel_residual {
            let attention = self.attention(ops, hyper, i, &x);
            let mlp = self.mlp(ops, hyper, &x);
            ops.add(ops.add(x, &attention), &mlp)
        } else {
            let attention = self.attention(ops, hyper, i, &x);
            let x = ops.add(x, &attention);
            let mlp = self.mlp(ops, hyper, &x);
            ops.add(x, &mlp)
        }
    }

    fn attention<O: Ops<Tensor = T>>(
        &self,
        ops: &O,
        hyper: &Hyper,
        i: usize,
        x: &O::Value,
    ) -> O::Value {
        let (heads, n) = (&hyper.heads, hyper.n_embd);
        let x = ops.layer_norm(x, &self.attn_norm);
        let qkv = ops.linear(&x, &self.attn_qkv, None);
        let mut q = ops.columns(&qkv, 0..n);
        let mut k = ops.columns(&qkv, n..2 * n);
        let v = ops.columns(&qkv, 2 * n..3 * n);
        if let Some(rope) = &hyper.rope {
            q = ops.rope(q, heads, rope);
            k = ops.rope(k, heads, rope);
        }
        let y = ops.attend(i, heads, &q, &k, &v);
        ops.linear(&y, &self.attn_output, None)
    }

    fn mlp<O: Ops<Tensor = T>>(&self, ops: &O, hyper: &Hyper, x: &O::Value) -> O::Value {
        let x = ops.layer_norm(x, &self.ffn_norm);
        let x = ops.linear(&x, &self.ffn_up, Some(hyper.activation));
        ops.linear(&x, &self.ffn_down, None)
    }
}
