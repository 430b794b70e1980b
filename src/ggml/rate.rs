//! How fast a device's memory is, as a limit to hold speeds against.

use std::time::Instant;

use super::device::Found;
use super::owned::{Allocator, Backend, Buffer, Context, Ptr, memory};
use super::sys::*;
use crate::ops::DeviceError;

/// Bytes that are read at most: more than a GPU's caches hold.
const BYTES: u64 = 256 << 20;
/// How often each measurement is taken, after one that does not count.
const ROUNDS: usize = 5;
/// Operations in a graph, so that its launch does not count.
const REPEATS: usize = 8;

impl Found {
    /// Bytes a second that it reads or writes: the better of a sum (reads alone) and a copy
    /// (reads and writes), each over 256 MiB or a quarter of what is free.
    ///
    /// # Errors
    /// Where it grants no memory, or fails.
    pub fn memory_rate(&self, threads: usize) -> Result<f64, DeviceError> {
        let backend = Backend::new(self.handle, threads)?;
        let bytes = (memory(self.handle).0 / 4).min(BYTES) & !0xfff;
        let context = Context::new(2)?;
        // SAFETY: the context lives and has room for two tensors.
        let [from, to] = [(); 2].map(|()| unsafe {
            ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, bytes as i64 / 4)
        });
        let what = "the tensors to measure memory with";
        let buffer = Buffer::of(&context, self.handle, what, "free some")?;
        // SAFETY: the buffer lives, and all of it is ours.
        unsafe { ggml_backend_buffer_clear(buffer.get(), 0) };
        // SAFETY: the tensors are of one shape, and live as long as the graphs.
        let sum = rate(&backend, bytes, |context| unsafe {
            ggml_sum(context, from)
        })?;
        // SAFETY: as above.
        let copy = rate(&backend, 2 * bytes, |context| unsafe {
            ggml_cpy(context, from, to)
        })?;
        Ok(sum.max(copy))
    }
}

/// Bytes a second of `node`, which moves `bytes`; the best of several rounds.
fn rate(
    backend: &Backend,
    bytes: u64,
    node: impl Fn(*mut ggml_context) -> *mut ggml_tensor,
) -> Result<f64, DeviceError> {
    let context = Context::new(2 * REPEATS)?;
    // SAFETY: the context lives, with room for the graph and its nodes.
    let graph = unsafe { ggml_new_graph_custom(context.get(), 2 * REPEATS, false) };
    let graph = Ptr::new(graph, || "no memory for a graph".into())?;
    for _ in 0..REPEATS {
        // SAFETY: as above.
        unsafe { ggml_build_forward_expand(graph.get(), node(context.get())) };
    }
    let mut allocator = Allocator::new(backend.device)?;
    allocator.place(graph.get(), backend.device)?;
    let mut best = f64::INFINITY;
    for round in 0..=ROUNDS {
        let start = Instant::now();
        backend.compute(graph.get())?;
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((bytes * REPEATS as u64) as f64 / best)
}
