//! The devices that the linked ggml has on this machine.

use std::ffi::{CStr, c_char};
use std::fmt;

use super::kv::choose_flash;
use super::log;
use super::owned::memory;
use super::sys::*;
use crate::ops::KvShape;

/// ggml's name of a family of devices, and ours.
const KINDS: [(&str, &str); 6] = [
    ("CPU", "ggml-cpu"),
    ("CUDA", "cuda"),
    ("ROCm", "rocm"),
    ("Vulkan", "vulkan"),
    ("MTL", "metal"),
    ("Metal", "metal"),
];

/// A device of ggml's.
#[derive(Clone)]
pub struct Found {
    kind: &'static str,
    index: usize,
    description: String,
    is_gpu: bool,
    pub(super) handle: ggml_backend_dev_t,
}

// SAFETY: the handle is an entry of ggml's list of devices, which is made once and never
// changes; ggml's functions on devices take them from any thread.
unsafe impl Send for Found {}
// SAFETY: as above; a shared reference allows no more than asking for memory and opening.
unsafe impl Sync for Found {}

impl Found {
    /// Its family, as `--device` names it: `cuda`, `ggml-cpu`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Which one of its family.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The maker's name for it.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Whether it is a GPU.
    pub fn is_gpu(&self) -> bool {
        self.is_gpu
    }

    /// Bytes of a GPU's memory that are free, and that there are, where it says. (ggml's CPU device
    /// has the machine's, and calls all of it free.)
    pub fn memory(&self) -> Option<(u64, u64)> {
        Some(memory(self.handle)).filter(|&(_, total)| self.is_gpu && total > 0)
    }

    /// Whether attention to a store of `shape` is one operation on it, which does not lay the
    /// scores down in memory.
    pub fn fuses_attention(&self, shape: &KvShape) -> bool {
        choose_flash(self.handle, shape).unwrap_or(false)
    }
}

/// Its name as `--device` takes it: `cuda:0`, `ggml-cpu`.
impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_gpu {
            true => write!(f, "{}:{}", self.kind, self.index),
            false => f.write_str(self.kind),
        }
    }
}

/// Every device there is, in ggml's order.
pub fn devices() -> Vec<Found> {
    log::listen();
    let mut found: Vec<Found> = Vec::new();
    // SAFETY: takes nothing; makes the list at the first call, under a lock of its own.
    let n = unsafe { ggml_backend_dev_count() };
    for i in 0..n {
        // SAFETY: `i` is below the number of devices; the strings live as long as the program.
        let (handle, family, description, kind) = unsafe {
            let handle = ggml_backend_dev_get(i);
            let family = ggml_backend_reg_name(ggml_backend_dev_backend_reg(handle));
            (
                handle,
                text(family),
                text(ggml_backend_dev_description(handle)),
                ggml_backend_dev_type(handle),
            )
        };
        let is_gpu = matches!(
            kind,
            GGML_BACKEND_DEVICE_TYPE_GPU | GGML_BACKEND_DEVICE_TYPE_IGPU
        );
        let Some(&(_, kind)) = KINDS.iter().find(|(theirs, _)| *theirs == family) else {
            continue;
        };
        found.push(Found {
            kind,
            index: found.iter().filter(|f| f.kind == kind).count(),
            description,
            is_gpu,
            handle,
        });
    }
    found
}

/// A string of ggml's.
///
/// # Safety
/// `string` is null or ends with a zero.
pub(super) unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and ends with a zero as the caller promised.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_string_lossy().into_owned()
}
