//! The arithmetic between the matrix products, one source for all instruction sets: [`per_isa!`]
//! compiles every function here once for each, and since it is plain IEEE arithmetic with fused
//! multiply-adds written out and sums in fixed lanes, all give the same bits.

use katari_gguf::block::{BlockQ4_0, BlockQ8_0};

use super::activation::{self, RowMut};
use crate::ops::{Activation, RopePairs};

/// Cells that attention takes at once; fixed, so that a row's result does not depend on what
/// else is in the batch.
pub(super) const CHUNK: usize = 64;

/// Partial sums of an f32 dot product or sum.
pub(super) const LANES: usize = 16;

/// Makes a module of each instruction set with every function compiled for it.
macro_rules! per_isa {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        /// Compiled for what every processor of the architecture has.
        mod scalar {
            use super::*;
            $(
                /// # Safety
                /// None needed: unsafe only so that all instruction sets have one type.
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    super::$name($($arg),*)
                }
            )*
        }

        /// Compiled for AVX2, FMA and F16C.
        #[cfg(target_arch = "x86_64")]
        mod avx2 {
            use super::*;
            $(
                /// # Safety
                /// The processor must have AVX2, FMA and F16C.
                #[target_feature(enable = "avx2,fma,f16c")]
                pub(super) unsafe fn $name($($arg: $type),*) $(-> $ret)? {
                    super::$name($($arg),*)
                }
            )*
        }

        /// The functions of one instruction set. Safe to call, since a table of kernels, which
        /// this is part of, is given out only where its instruction set was detected.
        pub(in crate::cpu) struct Math {
            $($name: unsafe fn($($type),*) $(-> $ret)?,)*
        }

        impl Math {
            /// To be put in the scalar table only.
            pub(in crate::cpu) const SCALAR: Math = Math { $($name: scalar::$name,)* };
            /// To be put in tables only that need AVX2, FMA and F16C.
            #[cfg(target_arch = "x86_64")]
            pub(in crate::cpu) const AVX2: Math = Math { $($name: avx2::$name,)* };

            $(
                $(#[$doc])*
                #[inline]
                pub(in crate::cpu) fn $name(&self, $($arg: $type),*) $(-> $ret)? {
                    // SAFETY: the functions need nothing but the instruction set, see above.
                    unsafe { (self.$name)($($arg),*) }
                }
            )*
        }
    };
}

per_isa! {
    /// Quantises one row of activations.
    fn quantize_row(x: &[f32], out: RowMut<'_>);
    /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
    fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]);
    /// `a += b`.
    fn add(a: &mut [f32], b: &[f32]);
    /// `y = act(y + bias)`.
    fn finish_linear(y: &mut [f32], bias: Option<&[f32]>, activation: Option<Activation>);
    /// One step of an online softmax; see the function.
    fn softmax_chunk(scores: &mut [f32; CHUNK], n: usize, scale: f32, state: &mut Softmax) -> f32;
    /// `acc = acc * correction + sum over cells of weights[cell] * values[cell]`, in order.
    fn weighted_sum(weights: &[f32], values: &[f32], correction: f32, acc: &mut [f32]);
    /// Unpacks blocks, 32 values each.
    fn unpack_q8_0(blocks: &[BlockQ8_0], out: &mut [f32]);
    /// Unpacks blocks, 32 values each.
    fn unpack_q4_0(blocks: &[BlockQ4_0], out: &mut [f32]);
    /// Turns one head's first `2 * cos.len()` dimensions.
    fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopePairs);
}

#[inline(always)]
fn quantize_row(x: &[f32], out: RowMut<'_>) {
    activation::quantize_row(x, out);
}

/// The sum of `lanes`, as a tree: halves are added until one is left.
#[inline(always)]
pub(super) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// The mean of `f(x)` in f64, in 8 lanes.
#[inline(always)]
fn mean(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (whole, rest) = x.as_chunks_8();
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

/// `slice::as_chunks` for 8, which the oldest compiler we support lacks.
trait Chunks8 {
    fn as_chunks_8(&self) -> (&[[f32; 8]], &[f32]);
}

impl Chunks8 for [f32] {
    #[inline(always)]
    fn as_chunks_8(&self) -> (&[[f32; 8]], &[f32]) {
        let (whole, rest) = self.split_at(self.len() / 8 * 8);
        (bytemuck::cast_slice(whole), rest)
    }
}

#[inline(always)]
fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
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
fn add(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

#[inline(always)]
fn finish_linear(y: &mut [f32], bias: Option<&[f32]>, activation: Option<Activation>) {
    if let Some(bias) = bias {
        add(y, bias);
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

/// `e^x` within 2 ulp. Results below the normal numbers are 0, above 2^127.5 they are infinite.
///
/// `x = n ln 2 + r` with n whole, so `e^x = 2^n e^r` with `|r| <= ln 2 / 2`; there the Taylor
/// series to the 7th power is within 6e-9.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it leaves the rounded sum in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
    /// ln 2 in two parts, the first short enough that `n * LN2_HI` is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.336_54; // ln of the least normal number
    let clamped = if x > 89.0 { 89.0 } else { x };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, clamped));
    let p = (1.0f32 / 5040.0)
        .mul_add(r, 1.0 / 720.0)
        .mul_add(r, 1.0 / 120.0)
        .mul_add(r, 1.0 / 24.0)
        .mul_add(r, 1.0 / 6.0)
        .mul_add(r, 0.5)
        .mul_add(r, 1.0)
        .mul_add(r, 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LOWEST { 0.0 } else { p * power }
}

/// `x Phi(x)`, Phi the normal distribution; error below 2e-7 max(1, |x|).
///
/// `Phi(-t) = e^(-t^2/2) y P(y)` with `y = 1 / (1 + 0.35 t)`: the form of Abramowitz and Stegun
/// 7.1.26, with a polynomial of degree 8 fitted by interpolation at Chebyshev nodes for t in
/// 0..13 (relative error 4e-8).
#[inline(always)]
fn gelu_erf(x: f32) -> f32 {
    let t = x.abs();
    let y = 1.0 / t.mul_add(0.35, 1.0);
    let p = (-2.952_030_8e-2f32)
        .mul_add(y, 1.458_046_6e-1)
        .mul_add(y, -2.595_086_6e-1)
        .mul_add(y, 1.634_932_6e-1)
        .mul_add(y, -2.605_236_6e-2)
        .mul_add(y, 1.067_301_8e-1)
        .mul_add(y, 1.195_322_9e-1)
        .mul_add(y, 1.399_016_9e-1)
        .mul_add(y, 1.396_192_4e-1);
    let tail = x * (exp(-0.5 * t * t) * (y * p));
    if x < 0.0 { tail } else { x - tail }
}

/// `x/2 (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, as `x / (1 + e^(-2u))`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = x * (0.044_715 * x).mul_add(x, 1.0);
    x / (1.0 + exp(-TWICE_SQRT_2_OVER_PI * u))
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// What an online softmax knows of the scores so far (Milakov and Gimelshein 2018).
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    /// The largest.
    pub max: f32,
    /// The sum of `e^(score - max)`.
    pub sum: f32,
}

impl Softmax {
    /// Before the first chunk.
    pub(super) const EMPTY: Softmax = Softmax {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

/// Turns the first `n` of `scores`, times `scale`, into weights relative to the new largest (the
/// others into 0) and returns the factor that weights and sums so far must be corrected by.
#[inline(always)]
fn softmax_chunk(scores: &mut [f32; CHUNK], n: usize, scale: f32, state: &mut Softmax) -> f32 {
    let mut max = [f32::NEG_INFINITY; LANES];
    for (i, score) in scores.iter_mut().enumerate() {
        *score = if i < n {
            *score * scale
        } else {
            f32::NEG_INFINITY
        };
    }
    for scores in scores.chunks_exact(LANES) {
        for (max, &score) in max.iter_mut().zip(scores) {
            *max = if score > *max { score } else { *max };
        }
    }
    let max = max
        .iter()
        .fold(state.max, |a, &b| if b > a { b } else { a });
    let correction = exp(state.max - max);
    let mut sum = [0.0; LANES];
    for scores in scores.chunks_exact_mut(LANES) {
        for (sum, score) in sum.iter_mut().zip(scores) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    state.max = max;
    state.sum = state.sum.mul_add(correction, tree(sum));
    correction
}

#[inline(always)]
fn weighted_sum(weights: &[f32], values: &[f32], correction: f32, acc: &mut [f32]) {
    let width = acc.len();
    let mut done = 0;
    while done < width {
        // As many columns as accumulators fit in registers.
        let left = &mut acc[done..];
        let values = &values[done..];
        done += if left.len() >= 64 {
            weighted_columns::<64>(weights, values, width, correction, left)
        } else if left.len() >= 16 {
            weighted_columns::<16>(weights, values, width, correction, left)
        } else {
            weighted_columns::<1>(weights, values, width, correction, left)
        };
    }
}

/// The first `N` columns of [`weighted_sum`]; returns `N`.
#[inline(always)]
fn weighted_columns<const N: usize>(
    weights: &[f32],
    values: &[f32],
    width: usize,
    correction: f32,
    acc: &mut [f32],
) -> usize {
    let mut sums = [0.0; N];
    for (sum, acc) in sums.iter_mut().zip(&*acc) {
        *sum = acc * correction;
    }
    for (weight, values) in weights.iter().zip(values.chunks(width)) {
        for (sum, value) in sums.iter_mut().zip(&values[..N]) {
            *sum = weight.mul_add(*value, *sum);
        }
    }
    acc[..N].copy_from_slice(&sums);
    N
}

#[inline(always)]
fn unpack_q8_0(blocks: &[BlockQ8_0], out: &mut [f32]) {
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(32)) {
        let d = block.d.to_f32();
        for (out, &q) in out.iter_mut().zip(&block.qs) {
            *out = d * f32::from(q);
        }
    }
}

#[inline(always)]
fn unpack_q4_0(blocks: &[BlockQ4_0], out: &mut [f32]) {
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(32)) {
        let d = block.d.to_f32();
        let (low, high) = out.split_at_mut(16);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(&block.qs) {
            *low = d * (i32::from(q & 15) - 8) as f32;
            *high = d * (i32::from(q >> 4) - 8) as f32;
        }
    }
}

#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], pairs: RopePairs) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Values over the whole useful range, dense around 0.
    fn samples() -> Vec<f32> {
        (-40_000..=40_000)
            .map(|i| {
                let x = i as f32 / 4000.0;
                x * x.abs()
            })
            .collect()
    }

    /// erf by its Maclaurin series, or for large arguments the continued fraction of erfc.
    fn erf(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..100 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut fraction = 0.0;
        for k in (1..60).rev() {
            fraction = f64::from(k) / 2.0 / (x.abs() + fraction);
        }
        let erfc = (-x * x).exp() / ((x.abs() + fraction) * std::f64::consts::PI.sqrt());
        (1.0 - erfc).copysign(x)
    }

    /// A bound on |approximation - exact| / max(1, |x|), under 2 ulp; goldens allow 2e-3 on logits
    /// after several layers.
    const GELU_TOLERANCE: f64 = 2e-7;

    #[test]
    fn gelu_is_close_to_exact() {
        for x in samples().into_iter().filter(|x| x.abs() < 5.0) {
            let d = f64::from(x);
            let tolerance = GELU_TOLERANCE * d.abs().max(1.0);
            let exact = d / 2.0 * (1.0 + erf(d / 2f64.sqrt()));
            let error = (f64::from(gelu_erf(x)) - exact).abs();
            assert!(error < tolerance, "erf {x}: {} {exact}", gelu_erf(x));
            let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            let exact = d / 2.0 * (1.0 + u.tanh());
            let error = (f64::from(gelu_tanh(x)) - exact).abs();
            assert!(error < tolerance, "tanh {x}: {} {exact}", gelu_tanh(x));
        }
    }

    #[test]
    fn gelu_far_out_is_the_identity_or_nothing() {
        for f in [gelu_erf, gelu_tanh] {
            assert_eq!(f(0.0), 0.0);
            for x in [20.0, 1e4, 1e30] {
                assert_eq!(f(x), x);
                assert_eq!(f(-x), 0.0);
            }
            assert!(f(f32::NAN).is_nan());
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for x in samples().into_iter().filter(|x| (-87.0..88.0).contains(x)) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.4e-7, "{x}: {} {exact}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn norm_has_mean_0_and_variance_1() {
        let x: Vec<f32> = (0..83).map(|i| 100.0 + (i * i % 31) as f32).collect();
        let (ones, mut out) = (vec![1.0; x.len()], vec![0.0; x.len()]);
        layer_norm(&x, &ones, None, 0.0, &mut out);
        assert!(mean(&out, |x| x).abs() < 1e-6);
        assert!((mean(&out, |x| x * x) - 1.0).abs() < 1e-6);
        let twos = vec![2.0; x.len()];
        let mut shifted = vec![0.0; x.len()];
        layer_norm(&x, &twos, Some(&ones), 0.0, &mut shifted);
        for (a, b) in out.iter().zip(&shifted) {
            assert_eq!(a.mul_add(2.0, 1.0), *b);
        }
    }

    /// A softmax in chunks is the softmax of all at once.
    #[test]
    fn chunks_merge() {
        let scores: Vec<f32> = (0..150)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.3)
            .collect();
        let (mut state, mut acc) = (Softmax::EMPTY, [0.0f32; 2]);
        for (c, part) in scores.chunks(CHUNK).enumerate() {
            let mut chunk = [f32::NAN; CHUNK];
            chunk[..part.len()].copy_from_slice(part);
            let correction = softmax_chunk(&mut chunk, part.len(), 0.5, &mut state);
            assert!(chunk[part.len()..].iter().all(|&w| w == 0.0));
            let values: Vec<f32> = (0..part.len())
                .flat_map(|i| [1.0, (c * CHUNK + i) as f32])
                .collect();
            weighted_sum(&chunk[..part.len()], &values, correction, &mut acc);
        }
        let weights = scores.iter().map(|&s| f64::from(s * 0.5).exp());
        let total: f64 = weights.clone().sum();
        let expected: f64 = weights.enumerate().map(|(i, w)| w / total * i as f64).sum();
        assert!((acc[0] / state.sum - 1.0).abs() < 1e-6);
        assert!((f64::from(acc[1] / state.sum) - expected).abs() < 1e-4);
    }

    #[test]
    fn unpacking_equals_the_formats() {
        use katari_gguf::block::Block;
        let x: Vec<f32> = (0..96).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let (mut expected, mut found) = ([0.0; 96], [1.0; 96]);
        let mut blocks = [BlockQ8_0::quantize(&x); 3];
        BlockQ8_0::quantize_all(&x, &mut blocks);
        BlockQ8_0::dequantize_all(&blocks, &mut expected);
        unpack_q8_0(&blocks, &mut found);
        assert_eq!(expected, found);
        let mut blocks = [BlockQ4_0::quantize(&x); 3];
        BlockQ4_0::quantize_all(&x, &mut blocks);
        BlockQ4_0::dequantize_all(&blocks, &mut expected);
        unpack_q4_0(&blocks, &mut found);
        assert_eq!(expected, found);
    }

    #[test]
    fn rotation_turns_pairs() {
        let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotate(&mut head, &cos, &sin, RopePairs::Adjacent);
        assert_eq!(head, [-2.0, 1.0, 3.0, 4.0, 5.0]);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
        rotate(&mut head, &cos, &sin, RopePairs::Halves);
        assert_eq!(head, [-3.0, 2.0, 1.0, 4.0, 5.0]);
    }
}
