//! ggml's objects, each freed by its owner.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use super::log;
use super::sys::*;
use crate::ops::DeviceError;

/// A pointer to one of ggml's objects, which another thread may be handed.
pub(super) struct Ptr<T>(NonNull<T>);

// By hand, since a derive would ask the same of `T`.
impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ptr<T> {}

// SAFETY: ggml's objects belong to no thread: they hold memory and handles that any thread may
// use, as long as not two do at once. Every `Ptr` of ours belongs to one `Ggml` (or to the
// process-wide list of devices, which never changes), and a `Ggml` works through `&mut self`, or
// reads its KV store through `&self`, which is not `Sync`.
unsafe impl<T> Send for Ptr<T> {}

impl<T> Ptr<T> {
    /// What a function of ggml's gave for `what`; null is an error with ggml's own words.
    pub(super) fn new(pointer: *mut T, what: impl FnOnce() -> String) -> Result<Self, DeviceError> {
        match NonNull::new(pointer) {
            Some(pointer) => Ok(Ptr(pointer)),
            None => Err(log::explain(what())),
        }
    }

    pub(super) fn get(self) -> *mut T {
        self.0.as_ptr()
    }
}

/// A context: room for the descriptions of tensors and graphs, not for their data.
pub(super) struct Context(Ptr<ggml_context>);

impl Context {
    /// Room for `n_tensors` tensors, and a graph of as many nodes.
    pub(super) fn new(n_tensors: usize) -> Result<Context, DeviceError> {
        // SAFETY: ggml takes the memory itself where `mem_buffer` is null; the sizes are those
        // it says that this many tensors and such a graph need.
        let context = unsafe {
            ggml_init(ggml_init_params {
                mem_size: n_tensors * ggml_tensor_overhead()
                    + ggml_graph_overhead_custom(n_tensors, false),
                mem_buffer: null_mut(),
                no_alloc: true,
            })
        };
        Ok(Context(Ptr::new(context, || {
            format!("no memory to describe {n_tensors} tensors")
        })?))
    }

    pub(super) fn get(&self) -> *mut ggml_context {
        self.0.get()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: from `ggml_init`, freed once; whoever keeps pointers into a context keeps the
        // context too.
        unsafe { ggml_free(self.0.get()) }
    }
}

/// Memory on a device.
pub(super) struct Buffer(Ptr<ggml_backend_buffer>);

impl Buffer {
    /// Memory for every tensor of `context`, on `device`; `what` they are, for the error.
    pub(super) fn of(
        context: &Context,
        device: ggml_backend_dev_t,
        what: &str,
        next_step: &str,
    ) -> Result<Buffer, DeviceError> {
        // SAFETY: both live; the call gives each tensor of the context, none of which has memory
        // yet, its place in a new buffer.
        let (buffer, bytes) = unsafe {
            let kind = ggml_backend_dev_buffer_type(device);
            let bytes = ggml_backend_alloc_ctx_tensors_from_buft_size(context.get(), kind);
            let buffer = ggml_backend_alloc_ctx_tensors_from_buft(context.get(), kind);
            (buffer, bytes)
        };
        let refused = || {
            let (free, total) = memory(device);
            format!(
                "{what} need {} MiB, more than the device grants ({} of {} MiB are free); {next_step}",
                bytes.div_ceil(1 << 20),
                free >> 20,
                total >> 20
            )
        };
        Ok(Buffer(Ptr::new(buffer, refused)?))
    }

    pub(super) fn get(&self) -> *mut ggml_backend_buffer {
        self.0.get()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: from an allocation of ours, freed once; its tensors' context goes with it.
        unsafe { ggml_backend_buffer_free(self.0.get()) }
    }
}

/// A stream of work on a device.
pub(super) struct Backend {
    backend: Ptr<ggml_backend>,
    pub(super) device: ggml_backend_dev_t,
}

// SAFETY: as for `Ptr`; `device` is one of the process-wide list, which never changes.
unsafe impl Send for Backend {}

impl Backend {
    /// A stream on `device`, which computes with `threads` threads if it is a CPU.
    pub(super) fn new(device: ggml_backend_dev_t, threads: usize) -> Result<Self, DeviceError> {
        // SAFETY: `device` is from ggml's list; no parameters is a choice.
        let backend = unsafe { ggml_backend_dev_init(device, std::ptr::null()) };
        let backend = Ptr::new(backend, || "the device cannot be opened".into())?;
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // SAFETY: the name is that of a function of exactly this type, where a backend has it.
        unsafe {
            let registry = ggml_backend_dev_backend_reg(device);
            let name = c"ggml_backend_set_n_threads".as_ptr();
            let function = ggml_backend_reg_get_proc_address(registry, name);
            let set: ggml_backend_set_n_threads_t =
                std::mem::transmute::<*mut c_void, ggml_backend_set_n_threads_t>(function);
            if let Some(set) = set {
                set(backend.get(), threads);
            }
        }
        Ok(Backend { backend, device })
    }

    /// Runs `graph` to its end.
    ///
    /// # Safety
    /// `graph` lives and is complete, this device has all its operations, and all its tensors have
    /// memory there, which nobody else uses meanwhile.
    pub(super) unsafe fn compute(&self, graph: Ptr<ggml_cgraph>) -> Result<(), DeviceError> {
        let (backend, graph) = (self.backend.get(), graph.get());
        // SAFETY: the backend is open; of the graph the caller promised what this asks for.
        let status = unsafe { ggml_backend_graph_compute(backend, graph) };
        match status {
            GGML_STATUS_SUCCESS => Ok(()),
            status => Err(log::explain(format!(
                "the device failed with status {status}"
            ))),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: from `ggml_backend_dev_init`, freed once.
        unsafe { ggml_backend_free(self.backend.get()) }
    }
}

/// Gives the tensors of graphs their places in one buffer, which grows as they need.
pub(super) struct Allocator {
    allocator: Ptr<ggml_gallocr>,
    device: ggml_backend_dev_t,
}

// SAFETY: as for `Backend`.
unsafe impl Send for Allocator {}

impl Allocator {
    pub(super) fn new(device: ggml_backend_dev_t) -> Result<Self, DeviceError> {
        // SAFETY: `device` is from ggml's list.
        let allocator = unsafe { ggml_gallocr_new(ggml_backend_dev_buffer_type(device)) };
        let allocator = Ptr::new(allocator, || "no memory for a graph's allocator".into())?;
        Ok(Allocator { allocator, device })
    }

    /// Places the tensors of `graph`. True where the buffer moved for it, which leaves the
    /// tensors of other graphs without memory; so does an error.
    ///
    /// # Safety
    /// `graph` lives and is complete. Its tensors either have no memory yet, or some of their own
    /// that outlives it (weights, KV), which is left alone.
    pub(super) unsafe fn place(&mut self, graph: Ptr<ggml_cgraph>) -> Result<bool, DeviceError> {
        let before = self.bytes();
        // SAFETY: the allocator is whole, as below; the rest the caller promised.
        let placed = unsafe { ggml_gallocr_alloc_graph(self.allocator.get(), graph.get()) };
        if !placed {
            let (free, total) = memory(self.device);
            let refused = log::explain(format!(
                "the activations of a pass do not fit the device's memory ({} of {} MiB are \
                 free); give a smaller --gpu-layers or --ctx",
                free >> 20,
                total >> 20
            ));
            // ggml has the plan of the refused graph now, and no buffer: the next graph that the
            // plan has room for would be placed at null. (Only where a new one can be made is
            // there somebody who goes on; ggml itself ends the process where it cannot.)
            *self = Allocator::new(self.device)?;
            return Err(refused);
        }
        Ok(self.bytes() != before)
    }

    /// Bytes of the buffer.
    pub(super) fn bytes(&self) -> usize {
        // SAFETY: it has one buffer, number 0.
        unsafe { ggml_gallocr_get_buffer_size(self.allocator.get(), 0) }
    }
}

impl Drop for Allocator {
    fn drop(&mut self) {
        // SAFETY: from `ggml_gallocr_new`, freed once.
        unsafe { ggml_gallocr_free(self.allocator.get()) }
    }
}

/// Bytes free and in all on `device`.
pub(super) fn memory(device: ggml_backend_dev_t) -> (u64, u64) {
    let (mut free, mut total) = (0, 0);
    // SAFETY: `device` is from ggml's list; both pointers are to our own variables.
    unsafe { ggml_backend_dev_memory(device, &mut free, &mut total) };
    (free as u64, total as u64)
}
