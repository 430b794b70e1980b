//! What is done to each row of activations.

use super::functions::{gelu_erf, gelu_tanh, silu};
use crate::ops::{Activation, RopePairs};

/// The mean of `f(x)` in f64, in 8 lanes.
#[inline(always)]
pub(super) fn mean(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (whole, rest) = x.as_chunks::<8>();
    for x in whole {
        for (lane, &x) in lanes.iter_mut().zip(x) {
            *lane += f(f64::from(x));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(f64::from(x));
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    (((a + e) + (c + g)) + ((b + f) + (d + h))) / x.len() as f64
}

#[inline(always)]
pub(super) fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let center = mean(x, |x| x);
    let variance = mean(x, |x| (x - center) * (x - center));
    let center = center as f32;
    let factor = (1.0 / (variance + f64::from(eps)).sqrt()) as f32;
    let rows = out.iter_mut().zip(x).zip(weight);
    match bias {
        Some(bias) => {
            for (((out, x), w), b) in rows.zip(bias) {
                *out = ((x - center) * factor).mul_add(*w, *b);
            }
        }
        None => {
            for ((out, x), w) in rows {
                *out = (x - center) * factor * w;
            }
        }
    }
}

#[inline(always)]
pub(super) fn add(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

#[inline(always)]
pub(super) fn finish_linear(y: &mut [f32], bias: Option<&[f32]>, activation: Option<Activation>) {
    if let Some(bias) = bias {
        for row in y.chunks_exact_mut(bias.len()) {
            add(row, bias);
        }
    }
    match activation {
        None => {}
        Some(Activation::GeluErf) => map(y, gelu_erf),
        Some(Activation::GeluTanh) => map(y, gelu_tanh),
        Some(Activation::Relu) => map(y, |x| if x < 0.0 { 0.0 } else { x }),
        Some(Activation::Silu) => map(y, silu),
    }
}

#[inline(always)]
fn map(y: &mut [f32], f: impl Fn(f32) -> f32) {
    for y in y {
        *y = f(*y);
    }
}

#[inline(always)]
pub(super) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopePairs) {
    let half = cos.len();
    match pairs {
        RopePairs::Halves => {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
        RopePairs::Adjacent => {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * cos - b * sin;
                pair[1] = b * cos + a * sin;
            }
        }
    }
}
