//! Weights: read where they lie in the mapped file.

use katari_gguf::Format;

use super::dot::Weights;
use crate::ops::{DeviceError, Mapping, TensorView};

/// A weight on the CPU.
pub struct Tensor {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    file: Mapping,
    start: usize,
    /// Bytes a row.
    stride: usize,
    /// The values of a vector, which norms and biases read as f32; empty for a matrix.
    vector: Vec<f32>,
}

impl Tensor {
    /// Checks that the view is as long as its shape says.
    pub(super) fn new(view: &TensorView<'_>) -> Result<Tensor, DeviceError> {
        let stride = view.format.bytes(view.cols as u64);
        let bytes = stride.and_then(|stride| stride.checked_mul(view.rows as u64));
        let end = view.start.checked_add(view.len);
        let file = (**view.file).as_ref();
        if bytes != Some(view.len as u64) || end.is_none_or(|end| end > file.len()) {
            return Err(DeviceError(format!(
                "tensor '{}' has {} bytes at {} of a file of {}, which are no [{}, {}] in {}",
                view.name,
                view.len,
                view.start,
                file.len(),
                view.rows,
                view.cols,
                view.format
            )));
        }
        let mut vector = Vec::new();
        if view.rows == 1 {
            vector.resize(view.cols, 0.0);
            view.format.dequantize(view.bytes(), &mut vector);
        }
        Ok(Tensor {
            format: view.format,
            rows: view.rows,
            cols: view.cols,
            file: view.file.clone(),
            start: view.start,
            stride: view.len / view.rows.max(1),
            vector,
        })
    }

    /// The rows as they lie in the file.
    pub(super) fn weights(&self) -> Weights<'_> {
        let file: &[u8] = (*self.file).as_ref();
        Weights {
            bytes: &file[self.start..self.start + self.rows * self.stride],
            stride: self.stride,
            rows: self.rows,
        }
    }

    /// A vector's values.
    pub(super) fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// Writes row `i`'s values, `[cols]`.
    pub(super) fn dequantize_row(&self, i: usize, out: &mut [f32]) {
        self.format.dequantize(self.weights().row(i), out);
    }
}
