//! GPT-J (Wang and Komatsuzaki 2021): attention and MLP read one norm, rotary positions on
//! adjacent pairs, no biases in attention, one on the output.

use katari_gguf::keys::tensor;

use super::{Architecture, Hyper, HyperReader, LoadError, Loader, Output};
use crate::ops::{Activation, Device, Linear, Norm, Ops, RopePairs};

/// The architecture.
pub struct GptJ;

/// The weights of one layer.
pub struct Layer<T> {
    attn_norm: Norm<T>,
    /// `[n_embd, n_embd]`, as the next three.
    attn_q: Linear<T>,
    attn_k: Linear<T>,
    attn_v: Linear<T>,
    attn_output: Linear<T>,
    /// `[n_ff, n_embd]`.
    ffn_up: Linear<T>,
    /// `[n_embd, n_ff]`.
    ffn_down: Linear<T>,
}

impl<T> Architecture<T> for GptJ {
    type Layer = Layer<T>;

    const OUTPUT: Output = Output::Untied { bias: true };

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        let mut hyper = reader.common(Activation::GeluTanh)?;
        hyper.rope = Some(reader.rope(RopePairs::Adjacent, hyper.heads.head_dim)?);
        hyper.parallel_residual = true;
        Ok(hyper)
    }

    fn load_layer<D: Device<Tensor = T>>(
        loader: &mut Loader<'_, '_, D>,
        hyper: &Hyper,
        i: usize,
    ) -> Result<Layer<T>, LoadError> {
        let (n, n_ff) = (hyper.n_embd, hyper.n_ff);
        let name = |module| tensor::block(i, module);
        Ok(Layer {
            attn_norm: loader.norm(&name(tensor::ATTN_NORM), n, hyper.eps)?,
            attn_q: loader.linear(&name(tensor::ATTN_Q), n, n, false)?,
            attn_k: loader.linear(&name(tensor::ATTN_K), n, n, false)?,
            attn_v: loader.linear(&name(tensor::ATTN_V), n, n, false)?,
            attn_output: loader.linear(&name(tensor::ATTN_OUTPUT), n, n, false)?,
            ffn_up: loader.linear(&name(tensor::FFN_UP), n_ff, n, true)?,
            ffn_down: loader.linear(&name(tensor::FFN_DOWN), n, n_ff, true)?,
        })
    }

    fn layer<O: Ops<Tensor = T>>(
        ops: &O,
        layer: &Layer<T>,
        hyper: &Hyper,
        i: usize,
        x: O::Value,
    ) -> O::Value {
        let heads = &hyper.heads;
        let normed = ops.layer_norm(&x, &layer.attn_norm);
        let [mut q, mut k, v, up] = ops.linears(
            &normed,
            [
                (&layer.attn_q, None),
                (&layer.attn_k, None),
                (&layer.attn_v, None),
                (&layer.ffn_up, Some(hyper.activation)),
            ],
        );
        if let Some(rope) = &hyper.rope {
            q = ops.rope(q, heads, rope);
            k = ops.rope(k, heads, rope);
        }
        let y = ops.attend(i, heads, &q, &k, &v);
        let attention = ops.linear(&y, &layer.attn_output, None);
        let mlp = ops.linear(&up, &layer.ffn_down, None);
        ops.add(ops.add(x, &attention), &mlp)
    }
}
