//! Weights: described when they are uploaded, brought to the device together afterwards, so that
//! one buffer of the right size holds them and what does not fit is known before any is copied.

use std::sync::Arc;

use katari_gguf::Format;

use super::owned::{Backend, Buffer, Context, Ptr};
use super::sys::*;
use crate::ops::{DeviceError, Mapping, TensorView};

/// Tensors that one context describes.
const TENSORS: usize = 512;

/// Bytes that are copied between two reports of progress.
const CHUNK: usize = 16 << 20;

/// A weight.
pub struct Tensor(Place);

enum Place {
    /// On the device, `[rows, cols]`.
    Device(Ptr<ggml_tensor>),
    /// In the file, to read single rows of.
    Host(Arc<Table>),
}

impl Tensor {
    pub(super) fn table(view: &TensorView<'_>) -> Tensor {
        Tensor(Place::Host(Arc::new(Table {
            file: view.file.clone(),
            start: view.start,
            len: view.len,
            cols: view.cols,
            format: view.format,
        })))
    }

    pub(super) fn on_device(&self) -> *mut ggml_tensor {
        match &self.0 {
            Place::Device(tensor) => tensor.get(),
            Place::Host(_) => {
                unreachable!("a table was uploaded as one, and is only embedded from")
            }
        }
    }

    pub(super) fn on_host(&self) -> Arc<Table> {
        match &self.0 {
            Place::Host(table) => Arc::clone(table),
            Place::Device(_) => unreachable!("what is embedded from was uploaded as a table"),
        }
    }
}

/// A table that stays in the file.
pub(super) struct Table {
    file: Mapping,
    start: usize,
    len: usize,
    pub cols: usize,
    format: Format,
}

impl Table {
    /// Writes row `i`'s values, `[cols]`; an error where there is no such row.
    pub(super) fn row(&self, i: u32, out: &mut [f32]) -> Result<(), DeviceError> {
        let rows = &self.file.bytes()[self.start..self.start + self.len];
        let stride = self.format.bytes(self.cols as u64).unwrap_or(0) as usize;
        match rows.chunks_exact(stride.max(1)).nth(i as usize) {
            Some(row) => {
                self.format.dequantize(row, out);
                Ok(())
            }
            None => Err(DeviceError(format!("the table has no row {i}"))),
        }
    }
}

/// A tensor that is described, and not yet copied.
struct Pending {
    tensor: Ptr<ggml_tensor>,
    name: String,
    file: Mapping,
    start: usize,
    len: usize,
}

/// The weights of one device.
#[derive(Default)]
pub(super) struct Weights {
    contexts: Vec<Context>,
    /// Described in the last context.
    described: usize,
    pending: Vec<Pending>,
    /// The memory of the first contexts' tensors.
    buffers: Vec<Buffer>,
}

impl Weights {
    /// Describes a tensor.
    pub(super) fn upload(&mut self, view: &TensorView<'_>) -> Result<Tensor, DeviceError> {
        if self.contexts.is_empty() || self.described == TENSORS {
            self.contexts.push(Context::new(TENSORS)?);
            self.described = 0;
        }
        let Some(context) = self.contexts.last() else {
            unreachable!("one was just pushed");
        };
        self.described += 1;
        let described = |found: usize| {
            DeviceError(format!(
                "tensor '{}' has {} bytes, which are no [{}, {}] in {}: ggml expects {found}",
                view.name, view.len, view.rows, view.cols, view.format
            ))
        };
        let (Ok(cols), Ok(rows)) = (i64::try_from(view.cols), i64::try_from(view.rows)) else {
            return Err(described(0));
        };
        // SAFETY: the context lives and has room for `TENSORS`; formats have ggml's own numbers,
        // and rows are whole blocks, which the loader proved.
        let (tensor, bytes) = unsafe {
            let format = view.format.id() as ggml_type;
            let tensor = ggml_new_tensor_2d(context.get(), format, cols, rows);
            (tensor, ggml_nbytes(tensor))
        };
        if bytes != view.len {
            return Err(described(bytes));
        }
        let tensor = Ptr::new(tensor, || "no memory to describe a tensor".into())?;
        self.pending.push(Pending {
            tensor,
            name: view.name.into(),
            file: view.file.clone(),
            start: view.start,
            len: view.len,
        });
        Ok(Tensor(Place::Device(tensor)))
    }

    /// Takes memory of `backend` for what was described and has none yet.
    pub(super) fn allocate(&mut self, backend: &Backend) -> Result<(), DeviceError> {
        let bytes: usize = self.pending.iter().map(|p| p.len).sum();
        let what = format!("the weights of this part ({} MiB)", bytes.div_ceil(1 << 20));
        // What is described later goes to a context of its own.
        self.described = TENSORS;
        for context in &self.contexts[self.buffers.len()..] {
            let next = "give a smaller --gpu-layers, or quantize to a smaller type";
            let buffer = Buffer::of(context, backend.device, &what, next)?;
            // SAFETY: the buffer lives; saying what it is for changes no memory.
            unsafe {
                ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS)
            };
            self.buffers.push(buffer);
        }
        Ok(())
    }

    /// Copies what was described straight from the files' bytes to `backend`'s memory.
    pub(super) fn transfer(
        &mut self,
        backend: &Backend,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        self.allocate(backend)?;
        for pending in self.pending.drain(..) {
            let span = pending.start..pending.start + pending.len;
            let Some(bytes) = pending.file.bytes().get(span.clone()) else {
                return Err(DeviceError(format!(
                    "tensor '{}' lies beyond the file's end",
                    pending.name
                )));
            };
            for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
                // SAFETY: the tensor has memory since `allocate`, for `len` bytes, as `upload`
                // checked, and the chunk lies at `i * CHUNK` of them; the call returns when it is
                // copied.
                unsafe {
                    let from = chunk.as_ptr().cast();
                    ggml_backend_tensor_set(pending.tensor.get(), from, i * CHUNK, chunk.len());
                }
                progress(chunk.len() as u64);
            }
            pending.file.give_back(span);
        }
        Ok(())
    }
}
