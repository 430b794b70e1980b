//! What a test has to read and to multiply.

use katari_gguf::keys::tensor;
use katari_gguf::{Format, Gguf};

use super::Test;
use crate::kv::KvType;
use crate::models::Hyper;
use crate::ops::KvShape;

/// A weight that forward passes read whole.
#[derive(Debug, Clone, Copy)]
struct Weight {
    format: Format,
    values: u64,
    bytes: u64,
    /// Whether it makes logits, and so is read for rows that want them only.
    is_head: bool,
    /// Whether it is multiplied with, as matrices are.
    is_matrix: bool,
}

/// The sizes that a model's work follows from.
#[derive(Debug, Clone)]
pub struct Work {
    weights: Vec<Weight>,
    /// Bytes of one position's keys and values in all layers.
    cell_bytes: u64,
}

/// What a run reads from memory and multiplies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// Bytes of weights, those of each pass.
    pub weight_bytes: f64,
    /// Bytes of keys and values, those that attention reads in decode.
    pub kv_bytes: f64,
    /// Multiply-accumulates with weights of each format. Those of attention are not counted.
    pub multiplies: Vec<(Format, f64)>,
}

impl Read {
    /// Bytes in all.
    pub fn bytes(&self) -> f64 {
        self.weight_bytes + self.kv_bytes
    }

    /// Multiply-accumulates in all.
    pub fn all_multiplies(&self) -> f64 {
        self.multiplies.iter().map(|(_, n)| n).sum()
    }

    /// Multiply-accumulates a second of this mix of formats, where each alone reaches what
    /// `rate` says.
    pub fn multiply_limit(&self, rate: impl Fn(Format) -> f64) -> f64 {
        let seconds: f64 = (self.multiplies.iter())
            .map(|&(format, n)| n / rate(format))
            .sum();
        self.all_multiplies() / seconds
    }
}

impl Work {
    /// The work of the model in `gguf` with keys and values stored as `kv`.
    pub fn new(gguf: &Gguf, hyper: &Hyper, kv: (KvType, KvType)) -> Work {
        let embedding = tensor::weight(tensor::TOKEN_EMBD);
        let positions = tensor::weight(tensor::POSITION_EMBD);
        let head = tensor::weight(tensor::OUTPUT);
        let is_tied = gguf.tensor(&head).is_none();
        let weights = (gguf.tensors.iter())
            // Of the tables a pass reads single rows.
            .filter(|t| t.name != positions && (is_tied || t.name != embedding))
            .map(|t| Weight {
                format: t.format,
                values: t.n_values(),
                bytes: t.bytes,
                is_head: t.name == head || t.name == embedding,
                is_matrix: t.dims.len() > 1,
            });
        let cell = KvShape {
            n_layer: hyper.n_layer,
            n_cells: 1,
            heads: hyper.heads,
            keys: kv.0,
            values: kv.1,
        };
        Work {
            weights: weights.collect(),
            cell_bytes: cell.bytes(),
        }
    }

    /// The formats of the matrices.
    pub fn formats(&self) -> Vec<Format> {
        let mut formats = Vec::new();
        for weight in self.weights.iter().filter(|w| w.is_matrix) {
            if !formats.contains(&weight.format) {
                formats.push(weight.format);
            }
        }
        formats
    }

    /// What one run of `test` reads and multiplies, in passes of `n_batch` tokens at most.
    pub fn of(&self, test: Test, n_batch: usize) -> Read {
        let mut read = Read::default();
        match test {
            Test::Prefill { tokens, .. } => {
                self.add(&mut read, tokens.div_ceil(n_batch.max(1)), 1, tokens, 1);
            }
            Test::Decode {
                tokens,
                depth,
                sequences,
            } => {
                let rows = tokens * sequences;
                self.add(&mut read, tokens, tokens, rows, rows);
                // The i-th token, from 1, attends to `depth + i` positions.
                let positions = tokens * depth + tokens * (tokens + 1) / 2;
                read.kv_bytes = (self.cell_bytes * (positions * sequences) as u64) as f64;
            }
        }
        read
    }

    /// Adds `passes` over `rows` rows in all, of which `head_passes` make logits, for
    /// `head_rows` rows.
    fn add(
        &self,
        read: &mut Read,
        passes: usize,
        head_passes: usize,
        rows: usize,
        head_rows: usize,
    ) {
        for weight in &self.weights {
            let (passes, rows) = match weight.is_head {
                true => (head_passes, head_rows),
                false => (passes, rows),
            };
            read.weight_bytes += weight.bytes as f64 * passes as f64;
            if !weight.is_matrix {
                continue;
            }
            let n = weight.values as f64 * rows as f64;
            match (read.multiplies.iter_mut()).find(|(format, _)| *format == weight.format) {
                Some((_, sum)) => *sum += n,
                None => read.multiplies.push((weight.format, n)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use katari_quantize::FileType;
    use katari_quantize::shapes::Shape;

    use super::super::synthetic;
    use super::*;

    /// rinna's 3.6B by hand: a layer has 3 n^2 + n^2 + 8 n^2 = 12 n^2 weights, the head
    /// 32,000 n; n = 2816, 36 layers.
    #[test]
    fn counts_what_is_read_by_hand() {
        let gguf = synthetic::header(Shape::RinnaNeox36b, FileType::Q4_0).unwrap();
        let (_, hyper) = crate::models::ArchitectureId::read(&gguf).unwrap();
        let work = Work::new(&gguf, &hyper, (KvType::F16, KvType::Q8_0));
        let (n, layers) = (2816u64, 36);
        let body = layers * 12 * n * n;
        let head = 32_000 * n;
        // q4_0 18 bytes a 32; the head in q6_k, 210 a 256; norms and biases in f32.
        let vectors = layers * (4 * n + 3 * n + n + 4 * n + n) + 2 * n;
        let bytes = body / 32 * 18 + head / 256 * 210 + 4 * vectors;

        let prefill = work.of(
            Test::Prefill {
                tokens: 128,
                depth: 0,
            },
            512,
        );
        assert_eq!(prefill.weight_bytes, bytes as f64);
        assert_eq!(prefill.kv_bytes, 0.0);
        assert_eq!(prefill.all_multiplies(), (128 * body + head) as f64);

        let decode = work.of(
            Test::Decode {
                tokens: 2,
                depth: 10,
                sequences: 3,
            },
            512,
        );
        assert_eq!(decode.weight_bytes, (2 * bytes) as f64);
        assert_eq!(decode.all_multiplies(), (6 * (body + head)) as f64);
        // A cell: keys 2 bytes a value, values 34 a 32. 11 and 12 positions in 3 sequences.
        let cell = layers * (2 * n + n / 32 * 34);
        assert_eq!(decode.kv_bytes, (cell * 23 * 3) as f64);
        let formats = work.formats();
        assert!(formats.len() == 2 && formats.contains(&Format::Q6_K));
    }
}
