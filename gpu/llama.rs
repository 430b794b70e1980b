//! llama.cpp by its C API, as far as it is compared with: a model and one sequence.
#![allow(dead_code)] // the tests and the speed comparison each use a part

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use llama_cpp_sys_2 as sys;

/// How to open a model.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The GPU that runs the last layers, as katari names it: `cuda:0`.
    pub gpu: Option<&'a str>,
    /// How many of the last layers, not counting the head, which goes with them.
    pub gpu_layers: usize,
    /// Threads.
    pub threads: usize,
    /// The longest that the sequence may grow.
    pub n_ctx: usize,
    /// Tokens of a pass at most.
    pub n_batch: usize,
    /// Type of keys and values.
    pub kv: sys::ggml_type,
    /// Whether attention may be one operation.
    pub flash: bool,
}

/// Which tokens' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each is what it says
pub enum Wanted {
    All,
    Last,
}

/// A model that llama.cpp opened, with a context.
pub struct Llama {
    model: NonNull<sys::llama_model>,
    context: NonNull<sys::llama_context>,
    /// Operations that the next passes run, where they are counted.
    operations: Option<Arc<AtomicUsize>>,
}

/// Passes llama.cpp's warnings and errors on to standard error.
unsafe extern "C" fn log(level: sys::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if matches!(level, sys::GGML_LOG_LEVEL_WARN | sys::GGML_LOG_LEVEL_ERROR) {
        // SAFETY: llama.cpp hands its callback a string that ends in NUL and outlives the call.
        let text = unsafe { CStr::from_ptr(text) };
        eprint!("llama.cpp: {}", text.to_string_lossy());
    }
}

/// Counts the nodes that compute something; asked of each before it runs, it wants none's values.
unsafe extern "C" fn count(node: *mut sys::ggml_tensor, ask: bool, counter: *mut c_void) -> bool {
    // SAFETY: a node of a graph that lives, and the counter that `new` gave, which lives as long
    // as the context and is shared.
    unsafe {
        let is_view = matches!(
            (*node).op,
            sys::GGML_OP_NONE
                | sys::GGML_OP_VIEW
                | sys::GGML_OP_RESHAPE
                | sys::GGML_OP_PERMUTE
                | sys::GGML_OP_TRANSPOSE
        );
        if ask && !is_view {
            (*counter.cast::<AtomicUsize>()).fetch_add(1, Ordering::Relaxed);
        }
    }
    !ask
}

/// ggml's device of that name, `cuda:0`.
fn device(name: &str) -> Option<sys::ggml_backend_dev_t> {
    let (family, index) = name.split_once(':').unwrap_or((name, "0"));
    let index: usize = index.parse().ok()?;
    // SAFETY: takes nothing; indices below the number of devices; names are strings that end in
    // NUL and live as long as the program.
    let of_family = (0..unsafe { sys::ggml_backend_dev_count() }).filter_map(|i| unsafe {
        let device = sys::ggml_backend_dev_get(i);
        let name = sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(device));
        let name = CStr::from_ptr(name).to_string_lossy();
        name.eq_ignore_ascii_case(family).then_some(device)
    });
    of_family.into_iter().nth(index)
}

impl Llama {
    /// Opens the model in `path`.
    pub fn open(path: &Path, options: &Options<'_>) -> Result<Llama, String> {
        Llama::new(path, options, None)
    }

    /// The same, to count operations with: it is slower.
    pub fn counting(path: &Path, options: &Options<'_>) -> Result<Llama, String> {
        Llama::new(path, options, Some(Arc::default()))
    }

    fn new(
        path: &Path,
        options: &Options<'_>,
        operations: Option<Arc<AtomicUsize>>,
    ) -> Result<Llama, String> {
        static START: Once = Once::new();
        // SAFETY: called once, before anything else of llama.cpp's; the callback has the
        // signature asked for and uses no user data.
        START.call_once(|| unsafe {
            sys::llama_log_set(Some(log), null_mut());
            sys::llama_backend_init();
        });
        let failed = |what: &str| format!("{}: llama.cpp {what}", path.display());
        let name = path.to_str().and_then(|path| CString::new(path).ok());
        let name = name.ok_or_else(|| failed("takes no such path"))?;
        let gpu = match options.gpu {
            Some(name) => {
                Some(device(name).ok_or_else(|| failed(&format!("has no device {name}")))?)
            }
            None => None,
        };
        // A list that ends in null; an empty one keeps all layers on the CPU.
        let mut devices = [gpu.unwrap_or(null_mut()), null_mut()];
        let counter = operations.as_ref().map(Arc::as_ptr);
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        // SAFETY: the name ends in NUL and the list in null, both live past the call; all other
        // parameters are the library's own but numbers; model and context are checked for null,
        // and the model outlives its context (see `drop`), as the counter does.
        unsafe {
            let mut params = sys::llama_model_default_params();
            params.devices = devices.as_mut_ptr();
            // The head counts as one more layer there.
            params.n_gpu_layers = match gpu {
                Some(_) => int(options.gpu_layers.saturating_add(1)),
                None => 0,
            };
            let model = sys::llama_model_load_from_file(name.as_ptr(), params);
            let model = NonNull::new(model).ok_or_else(|| failed("cannot load it"))?;

            let mut params = sys::llama_context_default_params();
            params.n_ctx = int(options.n_ctx).unsigned_abs();
            params.n_batch = int(options.n_batch).unsigned_abs();
            params.n_ubatch = params.n_batch;
            params.n_threads = int(options.threads);
            params.n_threads_batch = params.n_threads;
            params.type_k = options.kv;
            params.type_v = options.kv;
            params.flash_attn_type = match options.flash {
                true => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
                false => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
            if let Some(counter) = counter {
                params.cb_eval = Some(count);
                params.cb_eval_user_data = counter.cast_mut().cast();
            }
            match NonNull::new(sys::llama_init_from_model(model.as_ptr(), params)) {
                Some(context) => Ok(Llama {
                    model,
                    context,
                    operations,
                }),
                None => {
                    sys::llama_model_free(model.as_ptr());
                    Err(failed("makes no context of it"))
                }
            }
        }
    }

    /// Tokens of the vocabulary, the width of the logits.
    pub fn n_vocab(&self) -> usize {
        // SAFETY: the model is open.
        unsafe {
            let vocab = sys::llama_model_get_vocab(self.model.as_ptr());
            sys::llama_vocab_n_tokens(vocab) as usize
        }
    }

    /// llama.cpp's ids of `text`.
    pub fn tokenize(&self, text: &str) -> Vec<u32> {
        // A token is at least a byte long; one more for a dummy prefix.
        let mut ids = vec![0; text.len() + 1];
        // SAFETY: the pointers and lengths are those of `text` and `ids`.
        let n = unsafe {
            sys::llama_tokenize(
                sys::llama_model_get_vocab(self.model.as_ptr()),
                text.as_ptr().cast(),
                text.len() as i32,
                ids.as_mut_ptr(),
                ids.len() as i32,
                false,
                false,
            )
        };
        ids.truncate(usize::try_from(n).unwrap_or(0));
        ids.into_iter().map(|id| id as u32).collect()
    }

    /// Cuts the sequence to its first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        // SAFETY: the context is open; -1 means up to the end.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            sys::llama_memory_seq_rm(memory, 0, len as i32, -1);
        }
    }

    /// Appends `ids` to the sequence in one pass; the wanted logits, a row of `n_vocab` each.
    pub fn evaluate(&mut self, ids: &[u32], wanted: Wanted) -> Result<&[f32], String> {
        let mut tokens: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let mut marks: Vec<i8> = (1..=ids.len())
            .map(|n| i8::from(wanted == Wanted::All || n == ids.len()))
            .collect();
        let n_rows = marks.iter().filter(|&&mark| mark != 0).count();
        let batch = sys::llama_batch {
            n_tokens: ids.len() as i32,
            token: tokens.as_mut_ptr(),
            embd: null_mut(),
            pos: null_mut(),
            n_seq_id: null_mut(),
            seq_id: null_mut(),
            logits: marks.as_mut_ptr(),
        };
        // SAFETY: the context is open; the batch's two arrays have `n_tokens` elements and live
        // past `llama_decode`, which numbers positions and sequences itself where their arrays
        // are null. The logits of `n_rows` tokens were wanted, so there are as many rows, until
        // the next call, which takes `self` anew.
        unsafe {
            let context = self.context.as_ptr();
            match sys::llama_decode(context, batch) {
                0 => {}
                status => return Err(format!("llama_decode: status {status}")),
            }
            let logits = sys::llama_get_logits(context);
            match logits.is_null() {
                true => Err("llama_get_logits: none".into()),
                false => Ok(std::slice::from_raw_parts(logits, n_rows * self.n_vocab())),
            }
        }
    }

    /// Operations of all passes since the last call, where they are counted.
    pub fn operations(&self) -> Option<usize> {
        let counter = self.operations.as_ref()?;
        Some(counter.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // SAFETY: both are open and freed once, the context before its model.
        unsafe {
            sys::llama_free(self.context.as_ptr());
            sys::llama_model_free(self.model.as_ptr());
        }
    }
}
