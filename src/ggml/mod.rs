//! The ggml backend: [`Ops`](crate::ops::Ops) recorded as a graph of ggml's, on any device that
//! the linked ggml has.
//!
//! - `sys` the C symbols; `owned` ggml's objects, each freed by its owner; `log` its messages
//! - `device` which devices there are; `rate` how fast their memory is
//! - `weights` and `kv` what lives on the device; tables that are only embedded from stay in the
//!   file, and their rows travel with the tokens
//! - `ops` records a pass; `graph` fills a recorded one for a batch
//!
//! A pass is recorded once for a shape (rows, rows that want logits, cells rounded up to 256) and
//! replayed: nothing is built or placed again, and CUDA launches it as one graph. Which cells a
//! row sees is an input, so that one graph serves all sequences.
#![allow(unsafe_code)]

mod device;
mod graph;
mod kv;
mod log;
mod ops;
mod owned;
mod rate;
mod sys;
#[cfg(test)]
mod tests;
mod weights;

pub use device::{Found, devices};
pub use log::complaints;
pub use ops::{Recorder, Value};
pub use weights::Tensor;

use crate::ops::{Batch, Device, DeviceError, KvShape, PassShape, Rope, TensorView};
use graph::{Buffers, Graph, Key};
use kv::Kv;
use owned::{Allocator, Backend, Ptr};
use sys::*;
use weights::Weights;

/// Recorded passes that are kept: decoding needs one, prompts one for each length of the last
/// piece, and a context that grows a new one every 256 cells.
const GRAPHS: usize = 8;

/// A device of ggml's.
pub struct Ggml {
    // Freed in this order: graphs, what places them, weights and cells, and the stream last.
    graphs: Vec<Graph>,
    allocator: Allocator,
    kv: Option<Kv>,
    weights: Weights,
    backend: Backend,
    coarse_gelu: bool,
    buffers: Buffers,
    /// What the last pass gave, `[n, width]`.
    result: Vec<f32>,
    /// Operations of the last pass.
    operations: usize,
}

impl Ggml {
    /// Opens `device`; ggml's own CPU device computes with `threads` threads.
    pub fn new(device: &Found, threads: usize) -> Result<Ggml, DeviceError> {
        let handle = device.handle;
        let backend =
            Backend::new(handle, threads).map_err(|e| DeviceError(format!("{device}: {e}")))?;
        Ok(Ggml {
            graphs: Vec::new(),
            allocator: Allocator::new(handle)?,
            kv: None,
            weights: Weights::default(),
            backend,
            coarse_gelu: !device.is_gpu(),
            buffers: Buffers::default(),
            result: Vec::new(),
            operations: 0,
        })
    }

    fn kv(&self) -> Result<&Kv, DeviceError> {
        self.kv.as_ref().ok_or_else(no_kv)
    }

    fn kv_mut(&mut self) -> Result<&mut Kv, DeviceError> {
        self.kv.as_mut().ok_or_else(no_kv)
    }

    /// Records a pass of shape `key` and gives it memory.
    fn record(
        &mut self,
        key: Key,
        forward: &mut dyn FnMut(&Recorder) -> Value,
    ) -> Result<Graph, DeviceError> {
        let recorder = Recorder::new(key, self.kv()?, self.coarse_gelu)?;
        let result = forward(&recorder);
        let graph = recorder.finish(result)?;
        // SAFETY: the graph lives in its context, and is complete.
        unsafe { graph::check(graph.graph, self.backend.device)? };
        // SAFETY: as above; of its tensors only weights and KV have memory, and those outlive all
        // graphs: weights are never freed, and a new KV store clears them first.
        match unsafe { self.allocator.place(graph.graph) } {
            Ok(false) => {}
            // Their memory is gone.
            Ok(true) => self.graphs.clear(),
            Err(error) => {
                self.graphs.clear();
                return Err(error);
            }
        }
        Ok(graph)
    }

    /// Runs a graph on a batch; its result is in `self.result` then.
    ///
    /// # Safety
    /// `graph` is from [`record`](Ggml::record), for a batch of this shape, and nothing was placed
    /// since that moved its memory.
    unsafe fn replay(
        &mut self,
        graph: &Graph,
        batch: &Batch<'_>,
        hidden: &[f32],
    ) -> Result<(), DeviceError> {
        self.operations = graph.operations;
        // SAFETY: `record` placed it, as the caller promised, and found all its operations on the
        // device; its result is in f32, as every activation is.
        unsafe {
            graph.fill(batch, hidden, &mut self.buffers)?;
            self.backend.compute(graph.graph)?;
            read(graph.result, &mut self.result);
        }
        if graph.inputs.outputs.is_some() && batch.n_outputs() == 0 {
            self.result.clear();
        }
        Ok(())
    }
}

fn no_kv() -> DeviceError {
    DeviceError("no KV cache was allocated".into())
}

/// Reads all values of a tensor.
///
/// # Safety
/// The tensor lives, is in f32, has memory and was computed.
unsafe fn read(tensor: Ptr<ggml_tensor>, values: &mut Vec<f32>) {
    // SAFETY: as the caller promised; `values` is made as long as the tensor is.
    unsafe {
        let bytes = ggml_nbytes(tensor.get());
        values.resize(bytes / size_of::<f32>(), 0.0);
        ggml_backend_tensor_get(tensor.get(), values.as_mut_ptr().cast(), 0, bytes);
    }
}

impl Device for Ggml {
    type Tensor = Tensor;
    type Ops = Recorder;

    fn upload(&mut self, tensor: TensorView<'_>) -> Result<Tensor, DeviceError> {
        self.weights.upload(&tensor)
    }

    fn upload_table(&mut self, tensor: TensorView<'_>) -> Result<Tensor, DeviceError> {
        Ok(Tensor::table(&tensor))
    }

    fn transfer(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), DeviceError> {
        self.weights.transfer(&self.backend, progress)
    }

    fn allocate_kv(&mut self, shape: &KvShape) -> Result<(), DeviceError> {
        self.graphs.clear();
        self.kv = None;
        self.kv = Some(Kv::new(&self.backend, shape)?);
        Ok(())
    }

    fn reserve(
        &mut self,
        shape: PassShape,
        forward: &mut dyn FnMut(&Recorder) -> Value,
    ) -> Result<(), DeviceError> {
        self.weights.allocate(&self.backend)?;
        let key = Key {
            n_tokens: shape.n_tokens.max(1),
            n_outputs: shape.n_outputs.clamp(1, shape.n_tokens.max(1)),
            n_cells: self.kv()?.n_cells,
            n_hidden: shape.n_hidden,
        };
        self.record(key, forward).map(drop)
    }

    fn run(
        &mut self,
        batch: &Batch<'_>,
        hidden: &[f32],
        forward: &mut dyn FnMut(&Recorder) -> Value,
    ) -> Result<&[f32], DeviceError> {
        let key = Key::of(batch, hidden, self.kv()?)?;
        let graph = match self.graphs.iter().position(|graph| graph.key == key) {
            Some(i) => self.graphs.remove(i),
            None => self.record(key, forward)?,
        };
        // SAFETY: of this batch's shape, and placed: just now, or before, since whatever moves the
        // buffer clears `self.graphs`.
        let done = unsafe { self.replay(&graph, batch, hidden) };
        if self.graphs.len() >= GRAPHS {
            self.graphs.remove(0);
        }
        self.graphs.push(graph);
        done?;
        Ok(&self.result)
    }

    fn operations(&self) -> Option<usize> {
        Some(self.operations)
    }

    fn trace(
        &mut self,
        batch: &Batch<'_>,
        hidden: &[f32],
        forward: &mut dyn FnMut(&Recorder) -> Value,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let key = Key::of(batch, hidden, self.kv()?)?;
        let graph = self.record(key, forward)?;
        // SAFETY: recorded just now.
        unsafe { self.replay(&graph, batch, hidden)? };
        let observed = graph.observed.iter().map(|&tensor| {
            let mut values = Vec::new();
            // SAFETY: the graph still has its memory, and what is observed is a copy in f32 that
            // no later node's values take the place of.
            unsafe { read(tensor, &mut values) };
            values
        });
        Ok(observed.collect())
    }

    fn shift_keys(&mut self, cells: &[u32], delta: i32, rope: &Rope) -> Result<(), DeviceError> {
        let kv = self.kv.as_mut().ok_or_else(no_kv)?;
        kv.shift_keys(&self.backend, cells, delta, rope)
    }

    fn copy_cells(&mut self, pairs: &[(u32, u32)]) -> Result<(), DeviceError> {
        self.kv_mut()?.copy(pairs)
    }

    fn export(&self, cells: &[u32]) -> Result<Vec<u8>, DeviceError> {
        self.kv()?.export(cells)
    }

    fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError> {
        self.kv_mut()?.import(cells, bytes)
    }
}
