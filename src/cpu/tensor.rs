//! Weights: read where they lie in the mapped file, or copied once with their rows interleaved.

use std::sync::{Mutex, OnceLock, PoisonError};

use katari_gguf::Format;

use super::disjoint::Disjoint;
use super::dot::{Weights, pack};
use super::pages::Pages;
use super::pool::Pool;
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
    /// Memory for the rows interleaved, where the kernels want them so.
    reserved: Mutex<Option<Pages>>,
    /// The rows interleaved there, when a linear first asks for them.
    interleaved: OnceLock<Pages>,
}

/// Panels that a thread interleaves at once.
const PACK_GRAIN: usize = 4;

impl Tensor {
    /// Checks that the view is as long as its shape says. Where quantised rows are to be
    /// interleaved, `panel` of them (1 for not at all), memory is reserved for that: a pass could
    /// not fail any more.
    pub(super) fn new(view: &TensorView<'_>, panel: usize) -> Result<Tensor, DeviceError> {
        let stride = view.format.bytes(view.cols as u64);
        let bytes = stride.and_then(|stride| stride.checked_mul(view.rows as u64));
        let end = view.start.checked_add(view.len);
        let file = view.file.bytes();
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
        let stride = view.len / view.rows.max(1);
        let mut reserved = None;
        if panel > 1 && view.format.is_quantized() {
            let bytes = view.rows.next_multiple_of(panel) * stride;
            let pages = Pages::reserve(bytes).map_err(|e| {
                DeviceError(format!(
                    "tensor '{}' needs {bytes} bytes of memory to interleave its rows, which the \
                     system does not grant ({e}); close other programs, quantize to a smaller \
                     --type, or give --isa scalar, which reads the file's pages (slowly)",
                    view.name
                ))
            })?;
            reserved = Some(pages);
        }
        Ok(Tensor {
            format: view.format,
            rows: view.rows,
            cols: view.cols,
            file: view.file.clone(),
            start: view.start,
            stride,
            vector,
            reserved: Mutex::new(reserved),
            interleaved: OnceLock::new(),
        })
    }

    /// The rows as they lie in the file.
    pub(super) fn weights(&self) -> Weights<'_> {
        let file = self.file.bytes();
        Weights {
            bytes: &file[self.start..self.start + self.rows * self.stride],
            stride: self.stride,
            rows: self.rows,
        }
    }

    /// The rows in panels of [`pack::ROWS`]. The first call makes them and gives the file's pages
    /// back, so that memory holds the weight once.
    ///
    /// # Panics
    /// Where the tensor was made for kernels that take rows as they lie.
    pub(super) fn interleaved(&self, pool: &Pool) -> Weights<'_> {
        let pages = self.interleaved.get_or_init(|| {
            let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(mut pages) = reserved.take() else {
                unreachable!("the device reserves memory where its kernels want panels");
            };
            let n_panels = self.rows.div_ceil(pack::ROWS);
            let bytes = pack::ROWS * self.stride;
            let (all, out) = (self.weights(), Disjoint::new(pages.bytes_mut()));
            pool.for_each(n_panels, PACK_GRAIN, |panels| {
                for i in panels {
                    let rows = &all.bytes[i * bytes..all.bytes.len().min((i + 1) * bytes)];
                    // SAFETY: a panel of its own for each `i`, and each `i` is given out once.
                    let out = unsafe { out.part(i * bytes..(i + 1) * bytes) };
                    pack::pack(self.format, rows, self.stride, out);
                }
            });
            self.file
                .give_back(self.start..self.start + all.bytes.len());
            pages
        });
        Weights {
            bytes: pages.bytes(),
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
