//! The backend as a whole: a small transformer on it, against plain loops in f64 and against
//! itself cut in other ways.

mod allocations;
mod attention;
mod storage;

use std::sync::Arc;

use katari_gguf::Format;
use proptest::prelude::*;

use super::*;
use crate::kv::{KvType, Ledger};
use crate::ops::{Activation, Heads, Linear, Norm, Ops, RopePairs, Row};

/// A small generator of pseudo-random numbers (splitmix64).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Roughly normal, variance 1.
    pub(super) fn normal(&mut self) -> f32 {
        let sum: f32 = (0..12)
            .map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32)
            .sum();
        sum - 6.0
    }

    pub(super) fn normals(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal() * scale).collect()
    }
}

/// A weight of random values.
pub(super) fn tensor(random: &mut Random, format: Format, rows: usize, cols: usize) -> Tensor {
    let values = random.normals(rows * cols, 1.0 / (cols as f32).sqrt());
    tensor_of(format, cols, &values)
}

fn tensor_of(format: Format, cols: usize, values: &[f32]) -> Tensor {
    let bytes = values.len() / format.block_len() * format.block_bytes();
    // One byte in front, so that nothing is aligned by luck.
    let mut file = vec![0; bytes + 1];
    format.quantize(values, &mut file[1..]);
    let file: crate::ops::Mapping = Arc::new(file);
    let view = TensorView {
        name: "test",
        cols,
        rows: values.len() / cols,
        format,
        file: &file,
        start: 1,
        len: bytes,
    };
    // Room to interleave: one tensor serves every instruction set.
    Tensor::new(&view, dot::pack::ROWS).unwrap()
}

/// All values of a weight.
fn dequantized(tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.rows * tensor.cols];
    for (i, row) in out.chunks_exact_mut(tensor.cols).enumerate() {
        tensor.dequantize_row(i, row);
    }
    out
}

const HEADS: Heads = Heads {
    n_head: 4,
    head_dim: 64,
    scale: 0.125,
};
const EMBD: usize = 256;
const VOCAB: usize = 50;

/// One layer and a head, with every operation there is.
struct Model {
    embedding: Tensor,
    positions: Tensor,
    norm: Norm<Tensor>,
    qkv: Linear<Tensor>,
    up: Linear<Tensor>,
    down: Linear<Tensor>,
    head: Linear<Tensor>,
    rope: Rope,
}

impl Model {
    fn new(format: Format, pairs: RopePairs) -> Model {
        let r = &mut Random(7);
        let linear = |r: &mut Random, out, cols, bias| Linear {
            weight: tensor(r, format, out, cols),
            bias: if bias {
                Some(tensor(r, Format::F32, 1, out))
            } else {
                None
            },
        };
        Model {
            embedding: tensor(r, format, VOCAB, EMBD),
            positions: tensor(r, Format::F16, 600, EMBD),
            norm: Norm {
                weight: tensor(r, Format::F32, 1, EMBD),
                bias: Some(tensor(r, Format::F32, 1, EMBD)),
                eps: 1e-5,
            },
            qkv: linear(r, 3 * EMBD, EMBD, true),
            up: linear(r, 2 * EMBD, EMBD, true),
            down: linear(r, EMBD, 2 * EMBD, false),
            head: linear(r, VOCAB + 3, EMBD, true),
            rope: Rope {
                pairs,
                dims: 48,
                base: 10000.0,
                scale: 1.0,
            },
        }
    }

    fn forward(&self, ops: &CpuOps) -> Value {
        let x = ops.add(
            ops.embed_tokens(&self.embedding),
            &ops.embed_positions(&self.positions),
        );
        let h = ops.layer_norm(&x, &self.norm);
        let [qkv, up] = ops.linears(
            &h,
            [(&self.qkv, None), (&self.up, Some(Activation::GeluErf))],
        );
        let q = ops.rope(ops.columns(&qkv, 0..EMBD), &HEADS, &self.rope);
        let k = ops.rope(ops.columns(&qkv, EMBD..2 * EMBD), &HEADS, &self.rope);
        let v = ops.columns(&qkv, 2 * EMBD..3 * EMBD);
        let x = ops.add(x, &ops.attend(0, &HEADS, &q, &k, &v));
        let x = ops.add(x, &ops.linear(&up, &self.down, None));
        ops.linear(
            &ops.select_outputs(&x),
            &self.head,
            Some(Activation::GeluTanh),
        )
    }
}

fn shape(keys: KvType, values: KvType, heads: Heads) -> KvShape {
    KvShape {
        n_layer: 1,
        n_cells: 600,
        heads,
        keys,
        values,
    }
}

/// Feeds tokens to sequences, one batch a list of (sequence, tokens); every row's logits by
/// sequence and position.
fn evaluate(cpu: &mut Cpu, model: &Model, batches: &[Vec<(u32, u32)>]) -> Vec<Vec<Vec<f32>>> {
    let mut ledger = Ledger::new(600, 3);
    let mut logits = vec![Vec::new(); 3];
    for batch in batches {
        let rows: Vec<Row> = batch
            .iter()
            .map(|&(sequence, token)| Row {
                token,
                position: ledger.len(sequence) as u32,
                sequence,
                cell: ledger.append(sequence, 1).unwrap()[0],
                wants_logits: true,
            })
            .collect();
        let batch = Batch {
            rows: &rows,
            ledger: &ledger,
        };
        let out = cpu.run(&batch, &[], &mut |ops| model.forward(ops)).unwrap();
        for (row, out) in rows.iter().zip(out.chunks_exact(VOCAB + 3)) {
            logits[row.sequence as usize].push(out.to_vec());
        }
    }
    logits
}

fn cpu(threads: usize, isa: Isa, kv: (KvType, KvType)) -> Cpu {
    let mut cpu = Cpu::new(threads, Some(isa)).unwrap();
    cpu.allocate_kv(&shape(kv.0, kv.1, HEADS)).unwrap();
    cpu
}

fn bits(logits: &[Vec<Vec<f32>>]) -> Vec<u32> {
    let values = logits.iter().flatten().flatten();
    values.map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Logits do not depend on the threads, on the passes a prompt is cut into, on which other
    /// sequences travel along, nor on the instruction set.
    #[test]
    fn rows_are_repeatable(
        format in proptest::sample::select(Format::ALL),
        keys in proptest::sample::select(KvType::ALL),
        values in proptest::sample::select(KvType::ALL),
        lens in [1usize..150, 0usize..40, 0usize..9],
        threads in 1usize..5,
        seed in any::<u64>(),
    ) {
        let model = Model::new(format, RopePairs::Halves);
        let token = |sequence: usize, i: usize| ((i * 31 + sequence * 7) % VOCAB) as u32;
        let tokens = |s: usize| (0..lens[s]).map(move |i| (s as u32, token(s, i)));

        // Each sequence alone, token by token, on one thread.
        let best = Isa::best();
        let one_by_one: Vec<_> = (0..3).flat_map(|s| tokens(s).map(|t| vec![t])).collect();
        let expected = evaluate(&mut cpu(1, best, (keys, values)), &model, &one_by_one);

        // Interleaved at random, cut at random.
        let mut random = Random(seed);
        let mut left: Vec<Vec<_>> = (0..3).map(|s| tokens(s).collect()).collect();
        let mut batches = vec![vec![]];
        while left.iter().any(|l| !l.is_empty()) {
            let s = (random.next() % 3) as usize;
            let n = (random.next() % 40) as usize;
            let take = left[s].len().min(n);
            batches.last_mut().unwrap().extend(left[s].drain(..take));
            if random.next().is_multiple_of(3) {
                batches.push(vec![]);
            }
        }
        batches.retain(|b| !b.is_empty());
        let found = evaluate(&mut cpu(threads, best, (keys, values)), &model, &batches);
        prop_assert_eq!(bits(&expected), bits(&found));

        let found = evaluate(&mut cpu(threads, Isa::Scalar, (keys, values)), &model, &batches);
        prop_assert_eq!(bits(&expected), bits(&found));
    }
}

/// The model in f64, one sequence.
fn reference(model: &Model, tokens: &[u32]) -> Vec<Vec<f64>> {
    let f64s = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let linear = |x: &[f64], layer: &Linear<Tensor>| -> Vec<f64> {
        let bias = layer.bias.as_ref().map(|b| f64s(b.vector()));
        let w = f64s(&dequantized(&layer.weight));
        let rows = w.chunks_exact(layer.weight.cols).enumerate();
        rows.map(|(i, w)| {
            let sum: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
            sum + bias.as_ref().map_or(0.0, |b| b[i])
        })
        .collect()
    };
    let gelu_tanh = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
        0.5 * x * (1.0 + u.tanh())
    };
    let rotate = |x: &mut [f64], position: usize| {
        let half = model.rope.dims / 2;
        for head in x.chunks_exact_mut(HEADS.head_dim) {
            for i in 0..half {
                let angle = position as f64 * 10000f64.powf(-(i as f64) / half as f64);
                let (a, b) = match model.rope.pairs {
                    RopePairs::Adjacent => (2 * i, 2 * i + 1),
                    RopePairs::Halves => (i, i + half),
                };
                let (x, y) = (head[a], head[b]);
                head[a] = x * angle.cos() - y * angle.sin();
                head[b] = x * angle.sin() + y * angle.cos();
            }
        }
    };
    let (embedding, positions) = (dequantized(&model.embedding), dequantized(&model.positions));
    let (mut keys, mut values): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (vec![], vec![]);
    let mut logits = vec![];
    for (position, &token) in tokens.iter().enumerate() {
        let mut x: Vec<f64> = (0..EMBD)
            .map(|i| {
                let token = embedding[token as usize * EMBD + i];
                f64::from(token) + f64::from(positions[position * EMBD + i])
            })
            .collect();
        let mean = x.iter().sum::<f64>() / EMBD as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / EMBD as f64;
        let (gain, shift) = (
            model.norm.weight.vector(),
            model.norm.bias.as_ref().unwrap().vector(),
        );
        let h: Vec<f64> = (0..EMBD)
            .map(|i| {
                let normed = (x[i] - mean) / (variance + f64::from(model.norm.eps)).sqrt();
                normed * f64::from(gain[i]) + f64::from(shift[i])
            })
            .collect();
        let qkv = linear(&h, &model.qkv);
        // erf by Simpson's rule, which is far more exact than what is compared.
        let erf = |x: f64| {
            let f = |t: f64| (-t * t).exp();
            let n = 400;
            let step = x / f64::from(n);
            let inner: f64 = (1..n)
                .map(|i| f(step * f64::from(i)) * f64::from(2 + i % 2 * 2))
                .sum();
            (f(0.0) + inner + f(x)) * step / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
        };
        let up: Vec<f64> = linear(&h, &model.up)
            .into_iter()
            .map(|x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())))
            .collect();
        let (mut q, mut k) = (qkv[..EMBD].to_vec(), qkv[EMBD..2 * EMBD].to_vec());
        rotate(&mut q, position);
        rotate(&mut k, position);
        keys.push(k);
        values.push(qkv[2 * EMBD..].to_vec());
        for head in 0..HEADS.n_head {
            let dims = head * HEADS.head_dim..(head + 1) * HEADS.head_dim;
            let weights: Vec<f64> = keys
                .iter()
                .map(|k| {
                    let dot: f64 = dims.clone().map(|i| q[i] * k[i]).sum();
                    (dot * f64::from(HEADS.scale)).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for i in dims {
                let sum: f64 = weights.iter().zip(&values).map(|(w, v)| w * v[i]).sum();
                x[i] += sum / total;
            }
        }
        for (x, down) in x.iter_mut().zip(linear(&up, &model.down)) {
            *x += down;
        }
        logits.push(linear(&x, &model.head).into_iter().map(gelu_tanh).collect());
    }
    logits
}

/// The largest difference from [`reference`] on any instruction set, with every key and value in
/// f32, and on which.
fn error(format: Format, pairs: RopePairs) -> (f64, Isa) {
    let model = Model::new(format, pairs);
    let tokens: Vec<u32> = (0..130).map(|i| i * 17 % VOCAB as u32).collect();
    let expected = reference(&model, &tokens).concat();
    let mut worst = (0.0, Isa::Scalar);
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
        let batch = tokens.iter().map(|&t| (0, t)).collect();
        let mut cpu = cpu(2, isa, (KvType::F32, KvType::F32));
        let found = evaluate(&mut cpu, &model, &[batch])[0].concat();
        for (a, b) in found.iter().zip(&expected) {
            let error = (f64::from(*a) - b).abs();
            if error.is_nan() || error > worst.0 {
                worst = (error, isa);
            }
        }
    }
    worst
}

/// What f32 arithmetic and angles rounded to f32 cost; logits here are of the order of 1.
const FLOAT_TOLERANCE: f64 = 2e-5;
/// What activations of 8 bits cost.
const INTEGER_TOLERANCE: f64 = 6e-2;

#[test]
fn forward_equals_plain_loops() {
    for pairs in [RopePairs::Adjacent, RopePairs::Halves] {
        let (found, isa) = error(Format::F32, pairs);
        assert!(found < FLOAT_TOLERANCE, "{isa} {pairs:?}: {found}");
    }
    for &format in Format::ALL {
        let tolerance = if format.is_quantized() {
            INTEGER_TOLERANCE
        } else {
            FLOAT_TOLERANCE
        };
        let (found, isa) = error(format, RopePairs::Halves);
        assert!(found < tolerance, "{isa} {format}: {found}");
    }
}
