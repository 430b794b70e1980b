//! How fast a device's memory is, as a limit to hold speeds against.

use std::time::Instant;

use super::device::Found;
use super::graph::check;
use super::owned::{Allocator, Backend, Buffer, Context, Ptr, memory};
use super::sys::*;
use crate::ops::DeviceError;

/// Bytes that are read at most: more than a GPU's caches hold.
const BYTES: u64 = 256 << 20;
/// And at least: less than this might come from a cache (96 MiB on an RTX 5090, 50 on an H100).
const LEAST: u64 = 128 << 20;
/// How often each measurement is taken, after one that does not count.
const ROUNDS: usize = 5;
/// Operations in a graph, so that its launch does not count.
const REPEATS: usize = 8;

impl Found {
    /// Bytes a second that it reads or writes: the better of a sum (reads alone) and a copy
    /// (reads and writes), each over 256 MiB, or a quarter of what is free where that is less.
    ///
    /// # Errors
    /// Where less than 512 MiB are free, it has none of these operations, or fails.
    pub fn memory_rate(&self, threads: usize) -> Result<f64, DeviceError> {
        let backend = Backend::new(self.handle, threads)?;
        let free = memory(self.handle).0;
        let bytes = bytes_to_read(free).ok_or_else(|| {
            DeviceError(format!(
                "{self}: {} MiB are free, expected {} to measure the rate of its memory and not of \
                 its cache; give a smaller --ctx, or a smaller --gpu-layers",
                free >> 20,
                (4 * LEAST) >> 20
            ))
        })?;
        let context = Context::new(2)?;
        // SAFETY: the context lives and has room for two tensors.
        let [from, to] = [(); 2].map(|()| unsafe {
            ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, bytes as i64 / 4)
        });
        let what = "the tensors to measure memory with";
        let buffer = Buffer::of(&context, self.handle, what, "free some")?;
        // SAFETY: the buffer lives, and all of it is ours.
        unsafe { ggml_backend_buffer_clear(buffer.get(), 0) };
        // SAFETY: the tensors are of one shape, live as long as the graphs, and lie in `buffer`.
        unsafe {
            let sum = rate(&backend, bytes, |context| ggml_sum(context, from))?;
            let copy = rate(&backend, 2 * bytes, |context| ggml_cpy(context, from, to))?;
            Ok(sum.max(copy))
        }
    }
}

/// Over how many bytes to measure where `free` are; `None` where a cache could hold them.
fn bytes_to_read(free: u64) -> Option<u64> {
    Some((free / 4).min(BYTES) & !0xfff).filter(|&bytes| bytes >= LEAST)
}

/// Bytes a second of `node`, which moves `bytes`; the best of several rounds.
///
/// # Safety
/// `node` makes its node in the context it is given, from tensors that live and have memory of
/// the backend's device.
unsafe fn rate(
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
    // SAFETY: the graph lives in its context and is complete.
    unsafe { check(graph, backend.device)? };
    let mut allocator = Allocator::new(backend.device)?;
    // SAFETY: as above; the caller's tensors have memory, and its own have none yet.
    unsafe { allocator.place(graph)? };
    let mut best = f64::INFINITY;
    for round in 0..=ROUNDS {
        let start = Instant::now();
        // SAFETY: as above; all its tensors were placed just now, and the device was asked.
        unsafe { backend.compute(graph)? };
        if round > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((bytes * REPEATS as u64) as f64 / best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cache_could_hold_is_no_measure_of_memory() {
        assert_eq!(bytes_to_read(80 << 30), Some(256 << 20));
        assert_eq!(bytes_to_read(800 << 20), Some(200 << 20));
        assert_eq!(bytes_to_read(512 << 20), Some(128 << 20));
        assert_eq!(bytes_to_read(511 << 20), None);
        assert_eq!(bytes_to_read(0), None);
    }
}
