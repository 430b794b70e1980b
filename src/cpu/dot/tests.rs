//! Every kernel of every instruction set against the scalar reference, bit for bit, and the
//! reference against the formats' own arithmetic.

use katari_gguf::Format;

use super::float::Floats;
use super::{Weights, pack};
use crate::cpu::activation::Quantized;
use crate::cpu::arena::Arena;
use crate::cpu::isa::{Isa, Kernels, Product};
use crate::cpu::math::LANES;
use crate::cpu::tests::Random;

/// Rows of activations as both kinds of kernels take them.
struct Activations {
    n: usize,
    width: usize,
    floats: Vec<f32>,
    integers: Option<Quantized>,
}

impl Activations {
    fn new(kernels: &Kernels, floats: Vec<f32>, width: usize) -> Activations {
        let n = floats.len() / width;
        let integers = width.is_multiple_of(32).then(|| {
            let mut integers = Quantized::new(&Arena::default(), n, width);
            for (i, x) in floats.chunks_exact(width).enumerate() {
                kernels.math().quantize_row(x, integers.rows_mut().row(i));
            }
            integers
        });
        Activations {
            n,
            width,
            floats,
            integers,
        }
    }

    /// The product with `rows` rows of weights, `[n, rows]`.
    fn product(&self, kernels: &Kernels, format: Format, bytes: &[u8], rows: usize) -> Vec<f32> {
        let stride = bytes.len() / rows;
        let mut panels = Vec::new();
        if format.is_quantized() && kernels.isa().panel() > 1 {
            for rows in bytes.chunks(pack::ROWS * stride) {
                let start = panels.len();
                // What is not written shows.
                panels.resize(start + pack::ROWS * stride, 0xa5);
                pack::pack(format, rows, stride, &mut panels[start..]);
            }
        } else {
            panels.extend_from_slice(bytes);
        }
        let w = Weights {
            bytes: &panels,
            stride,
            rows,
        };
        let mut out = vec![f32::NAN; self.n * rows];
        match (kernels.product(format), &self.integers) {
            (Product::Int(_), Some(x)) => kernels.int_product(format, w, x.rows(), &mut out, rows),
            _ => {
                let x = Floats {
                    data: &self.floats,
                    stride: self.width,
                    n: self.n,
                    width: self.width,
                };
                kernels.float_product(format, w, x, &mut out, rows);
            }
        }
        out
    }
}

/// Rows of weights: quantised random numbers, random bytes, and the extremes.
fn weights(random: &mut Random, format: Format, rows: usize, width: usize) -> Vec<Vec<u8>> {
    let n = format.bytes((rows * width) as u64).unwrap() as usize;
    let mut quantized = vec![0; n];
    format.quantize(&random.normals(rows * width, 0.05), &mut quantized);
    let mut all = vec![quantized.clone()];
    if format.is_quantized() {
        let bytes: Vec<u8> = (0..n).map(|_| random.next() as u8).collect();
        all.extend([
            bytes,
            vec![0x00; n],
            vec![0x7f; n],
            vec![0x80; n],
            vec![0xff; n],
        ]);
        // The same with the scales that make them numbers: those of a quantised block.
        for extreme in [0x00u8, 0x80, 0xff] {
            let block_bytes = format.block_bytes();
            let d = match format {
                Format::Q6_K => block_bytes - 2..block_bytes,
                Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => 0..2,
                _ => 0..4,
            };
            let mut bytes = vec![extreme; n];
            for (to, from) in bytes
                .chunks_mut(block_bytes)
                .zip(quantized.chunks(block_bytes))
            {
                to[d.clone()].copy_from_slice(&from[d.clone()]);
            }
            all.push(bytes);
        }
    }
    all
}

fn bits(values: &[f32]) -> Vec<u32> {
    // Which NaN comes out is nobody's promise.
    let bits = values
        .iter()
        .map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() });
    bits.collect()
}

#[test]
fn every_table_equals_scalar() {
    let scalar = Isa::Scalar.kernels().unwrap();
    let random = &mut Random(1);
    for isa in &Isa::ALL[1..] {
        let Some(kernels) = isa.kernels() else {
            println!("skipped: this processor has no {isa}");
            continue;
        };
        for &format in Format::ALL {
            // More than one panel's depth of 1024; with a rest for floats, and groups that fill no
            // register where blocks are short enough.
            let widths = match format.block_len() {
                1 => [83, 256],
                32 => [96, 2336],
                _ => [256, 2304],
            };
            for (rows, width) in [1, 7, 8, 19].into_iter().zip(widths.into_iter().cycle()) {
                for bytes in weights(random, format, rows, width) {
                    for n in [1, 2, 3, 5, 9] {
                        let mut x = random.normals(n * width, 1.0);
                        // One row at the extremes, one of zeros, one beside what f32 can scale, and
                        // one so near to zero that a scale of it would be off by half.
                        for (i, x) in x.chunks_mut(width).enumerate() {
                            for (k, x) in x.iter_mut().enumerate() {
                                match i {
                                    1 => *x = if (k / 32 + k) % 3 == 0 { -1e4 } else { 1e4 },
                                    2 => *x = 0.0,
                                    3 => *x *= 1e-40,
                                    4 => *x = -f32::from_bits(190),
                                    _ => {}
                                }
                            }
                        }
                        let by_scalar = Activations::new(scalar, x.clone(), width);
                        let expected = by_scalar.product(scalar, format, &bytes, rows);
                        let ours = Activations::new(kernels, x, width);
                        let found = ours.product(kernels, format, &bytes, rows);
                        let what = format!("{isa} {format} [{rows}, {width}] x {n}");
                        assert_eq!(bits(&expected), bits(&found), "{what}");
                        // Rows alone give what they give together.
                        for (i, x) in ours.floats.chunks(width).enumerate() {
                            let alone = Activations::new(kernels, x.to_vec(), width);
                            let alone = alone.product(kernels, format, &bytes, rows);
                            let together = &found[i * rows..(i + 1) * rows];
                            assert_eq!(bits(&alone), bits(together), "{what}: row {i}");
                        }
                    }
                }
            }
        }
    }
}

/// Integer activations are within half a step of 1/127 of their group's largest value, which is
/// about 3 here: relative to the norm of the product some 0.4 %; four times that is never seen.
const INTEGER_TOLERANCE: f32 = 0.016;
/// f32 sums in another order.
const FLOAT_TOLERANCE: f32 = 1e-6;

#[test]
fn scalar_equals_the_formats_own_dot() {
    let scalar = Isa::Scalar.kernels().unwrap();
    let random = &mut Random(2);
    let (rows, width) = (5, 512);
    for &format in Format::ALL {
        let bytes = weights(random, format, rows, width).swap_remove(0);
        let x = Activations::new(scalar, random.normals(width, 1.0), width);
        let found = x.product(scalar, format, &bytes, rows);
        for (row, found) in bytes.chunks_exact(bytes.len() / rows).zip(found) {
            let expected = format.dot(row, &x.floats);
            let mut values = vec![0.0; width];
            format.dequantize(row, &mut values);
            let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
            let tolerance = if format.is_quantized() {
                INTEGER_TOLERANCE
            } else {
                FLOAT_TOLERANCE
            };
            let error = (found - expected).abs() / norm;
            assert!(error < tolerance, "{format}: {found} {expected} {error}");
        }
    }
}

/// The sum of a float dot product runs in the lanes and the tree that `dot` promises.
#[test]
fn float_order_is_as_promised() {
    let scalar = Isa::Scalar.kernels().unwrap();
    let random = &mut Random(3);
    let (w, x) = (random.normals(83, 1.0), random.normals(83, 1.0));
    let mut lanes = [0.0f32; LANES];
    for (k, (w, x)) in w.iter().zip(&x).enumerate() {
        lanes[k % LANES] = w.mul_add(*x, lanes[k % LANES]);
    }
    let sum = |from: usize, step: usize| lanes[from] + lanes[from + step];
    let eight: Vec<f32> = (0..8).map(|i| sum(i, 8)).collect();
    let four: Vec<f32> = (0..4).map(|i| eight[i] + eight[i + 4]).collect();
    let expected = (four[0] + four[2]) + (four[1] + four[3]);
    let x = Activations::new(scalar, x, 83);
    let found = x.product(scalar, Format::F32, bytemuck::cast_slice(&w), 1);
    assert_eq!(found[0].to_bits(), expected.to_bits());
}
