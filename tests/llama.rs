//! llama.cpp reads the gptneox and gpt2 files that `katari quantize` writes and, fed the same
//! ids, predicts what this crate predicts.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::Once;

use crate::support;
use katari::engine::{Engine, EngineOptions, Feed};
use katari::kv::KvType;
use katari_gguf::keys::{self, token_type};
use katari_gguf::{Gguf, Metadata, TensorSpec, Writer};
use llama_cpp_sys_2 as sys;

/// How far llama.cpp's logits may lie from ours with unquantised weights: RMS of the difference
/// over a row, relative to the row's standard deviation. llama.cpp looks GELU up in a table of
/// f16 and multiplies f16 weights with activations rounded to f16, both good to 2^-11.
const FLOAT: f32 = 0.002;
/// The same with quantised weights: both sides round activations to 8 bits, ours with an f32
/// scale a 32, theirs with an f16 one; a value half way between two steps may fall to either side.
const LEGACY: f32 = 0.03;
/// The same with K formats, where theirs have one scale a 256 and so coarser steps than ours.
const K: f32 = 0.06;
/// Where our top two are further apart than this many times the tolerance, llama.cpp's top token
/// must be ours: the largest of a few thousand normal errors is some 4 times their RMS, and the
/// top token's own error comes to that.
const MARGIN: f32 = 5.0;

/// The types to compare and their tolerance.
const TYPES: [(&str, f32); 5] = [
    ("f32", FLOAT),
    ("f16", FLOAT),
    ("q8_0", LEGACY),
    ("q4_0", LEGACY),
    ("q4_k_m", K),
];

/// A model that llama.cpp opened, with a context of f32 keys and values.
struct Llama {
    model: ptr::NonNull<sys::llama_model>,
    context: ptr::NonNull<sys::llama_context>,
}

/// Passes llama.cpp's warnings and errors on to the test's output.
unsafe extern "C" fn log(level: sys::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if matches!(level, sys::GGML_LOG_LEVEL_WARN | sys::GGML_LOG_LEVEL_ERROR) {
        // SAFETY: llama.cpp hands its callback a string that ends in NUL and outlives the call.
        let text = unsafe { CStr::from_ptr(text) };
        eprint!("llama.cpp: {}", text.to_string_lossy());
    }
}

impl Llama {
    fn open(path: &Path) -> Llama {
        static START: Once = Once::new();
        START.call_once(|| {
            // SAFETY: called once, before anything else of the library; the callback has the
            // signature asked for and uses no user data.
            unsafe {
                sys::llama_log_set(Some(log), ptr::null_mut());
                sys::llama_backend_init();
            }
        });
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name ends in NUL and the parameters are the library's own; the model is
        // checked for null and outlives its context (see `drop`).
        unsafe {
            let model =
                sys::llama_model_load_from_file(name.as_ptr(), sys::llama_model_default_params());
            let model = ptr::NonNull::new(model)
                .unwrap_or_else(|| panic!("llama.cpp cannot load {}", path.display()));
            let mut params = sys::llama_context_default_params();
            params.n_ctx = 256;
            params.n_batch = 256;
            params.n_ubatch = 256;
            params.type_k = sys::GGML_TYPE_F32;
            params.type_v = sys::GGML_TYPE_F32;
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            params.n_threads = 1;
            params.n_threads_batch = 1;
            let context = sys::llama_init_from_model(model.as_ptr(), params);
            let context = ptr::NonNull::new(context)
                .unwrap_or_else(|| panic!("llama.cpp makes no context of {}", path.display()));
            Llama { model, context }
        }
    }

    /// Tokens of the vocabulary, the width of the logits.
    fn n_vocab(&self) -> usize {
        // SAFETY: the model is open.
        unsafe {
            let vocab = sys::llama_model_get_vocab(self.model.as_ptr());
            sys::llama_vocab_n_tokens(vocab) as usize
        }
    }

    /// llama.cpp's ids of `text`.
    fn tokenize(&self, text: &str) -> Vec<u32> {
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
        ids.truncate(usize::try_from(n).unwrap());
        ids.into_iter().map(|id| id as u32).collect()
    }

    /// Logits `[ids.len(), n_vocab]` after each of `ids`.
    fn logits(&mut self, ids: &[u32]) -> Vec<f32> {
        let mut tokens: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let mut wanted = vec![1i8; ids.len()];
        let batch = sys::llama_batch {
            n_tokens: ids.len() as i32,
            token: tokens.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: ptr::null_mut(),
            n_seq_id: ptr::null_mut(),
            seq_id: ptr::null_mut(),
            logits: wanted.as_mut_ptr(),
        };
        let len = ids.len() * self.n_vocab();
        // SAFETY: the context is open; the batch's two arrays have `n_tokens` elements and live
        // past `llama_decode`, which numbers positions and sequences itself where their arrays
        // are null. Logits were wanted of every token, so there are `len`, until the next call.
        unsafe {
            let context = self.context.as_ptr();
            sys::llama_memory_clear(sys::llama_get_memory(context), true);
            assert_eq!(sys::llama_decode(context, batch), 0, "llama_decode");
            let logits = sys::llama_get_logits(context);
            assert!(!logits.is_null(), "llama_get_logits");
            std::slice::from_raw_parts(logits, len).to_vec()
        }
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

fn quantize(checkpoint: &Path, type_name: &str, to: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_katari"))
        .arg("quantize")
        .arg(checkpoint)
        .args(["--type", type_name, "-o"])
        .arg(to)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        checkpoint.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Copies a file with its activation named `gelu_tanh`: the only GELU that llama.cpp computes.
fn with_tanh_gelu(from: &Path, to: &Path) {
    let bytes = fs::read(from).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let mut metadata = Metadata::new();
    for (key, value) in gguf.metadata.iter() {
        metadata.set(key, value.clone());
    }
    metadata.set(keys::katari::ACTIVATION, "gelu_tanh");
    let specs: Vec<TensorSpec> = gguf
        .tensors
        .iter()
        .map(|tensor| TensorSpec {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            format: tensor.format,
        })
        .collect();
    let mut writer = Writer::new(File::create(to).unwrap(), &metadata, &specs).unwrap();
    for tensor in &gguf.tensors {
        writer.write(gguf.data(&bytes, tensor)).unwrap();
    }
    writer.finish().unwrap();
}

/// A prompt, as text and as ids, and the tokens that a model's reference continued it with.
#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    #[serde(default)]
    greedy: Vec<u32>,
}

/// A row's best id and how far the second lies below it.
fn top(row: &[f32]) -> (usize, f32) {
    let best = (0..row.len())
        .max_by(|&a, &b| row[a].total_cmp(&row[b]))
        .unwrap();
    let second = (0..row.len())
        .filter(|&i| i != best)
        .map(|i| row[i])
        .fold(f32::MIN, f32::max);
    (best, row[best] - second)
}

/// Root of the mean square of `values`.
fn rms(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let n = values.len() as f32;
    (values.map(|v| v * v).sum::<f32>() / n).sqrt()
}

fn compare(name: &str, checkpoint: &Path, cases: &[Case]) {
    let folder = tempfile::tempdir().unwrap();
    for (type_name, tolerance) in TYPES {
        let file = folder.path().join(format!("{name}-{type_name}.gguf"));
        let tanh = folder.path().join(format!("{name}-{type_name}-tanh.gguf"));
        quantize(checkpoint, type_name, &file);
        with_tanh_gelu(&file, &tanh);

        let mut llama = Llama::open(&file);
        let options = EngineOptions {
            kv: (KvType::F32, KvType::F32),
            ..EngineOptions::default()
        };
        let mut engine = Engine::open(&tanh, &options).unwrap();
        let types: &[i32] = engine
            .gguf()
            .metadata
            .need(keys::tokenizer::TOKEN_TYPE)
            .unwrap();
        let types = types.to_vec();
        let n_vocab = engine.n_vocab();
        assert_eq!(
            llama.n_vocab(),
            n_vocab,
            "{name} {type_name}: rows of the vocabulary"
        );

        let (mut worst, mut rows, mut clear) = (0f32, 0, 0);
        for Case { text, ids, greedy } in cases {
            // llama.cpp's unigram knows no byte fallback.
            if !ids.iter().any(|&id| types[id as usize] == token_type::BYTE) {
                assert_eq!(&llama.tokenize(text), ids, "{name}: {text:?}");
            }
            let ids = [&ids[..], &greedy[..]].concat();
            engine.session().truncate(0, 0).unwrap();
            let feeds: Vec<Feed> = ids
                .iter()
                .map(|&token| Feed {
                    sequence: 0,
                    token,
                    wants_logits: true,
                })
                .collect();
            let ours = engine.evaluate(&feeds).unwrap();
            let theirs = llama.logits(&ids);
            for (i, (ours, theirs)) in ours.rows().zip(theirs.chunks_exact(n_vocab)).enumerate() {
                let mean = ours.iter().sum::<f32>() / n_vocab as f32;
                let spread = rms(ours.iter().map(|v| v - mean));
                let error = rms(ours.iter().zip(theirs).map(|(a, b)| a - b)) / spread;
                worst = worst.max(error);
                let at = format!("{name} {type_name} {text:?} position {i}");
                assert!(
                    error <= tolerance,
                    "{at}: off by {error} of the logits' spread"
                );
                let (best, margin) = top(ours);
                rows += 1;
                if margin > MARGIN * tolerance * spread {
                    clear += 1;
                    assert_eq!(top(theirs).0, best, "{at}: margin {margin}");
                }
            }
        }
        println!("{name} {type_name}: {rows} rows, {clear} clear, off by at most {worst:.4}");
        assert!(
            clear * 4 >= rows,
            "{name} {type_name}: {clear} of {rows} rows decide anything"
        );
    }
}

fn compare_golden(name: &str) {
    let folder = support::golden(name);
    let cases = support::json(&folder.join("golden.json"));
    let mut cases: Vec<Case> = serde_json::from_value(cases).unwrap();
    cases.retain(|case| !case.ids.is_empty());
    compare(name, &folder, &cases);
}

#[test]
fn reads_neox_with_parallel_residual() {
    compare_golden("neox-pythia");
}

#[test]
fn reads_neox_of_rinna() {
    compare_golden("neox-rinna");
}

#[test]
fn reads_gpt2() {
    compare_golden("gpt2-plain");
}

#[test]
fn reads_gpt2_of_rinna() {
    compare_golden("gpt2-rinna");
}

#[test]
fn reads_the_demo() {
    let mut case = support::json(&support::golden("demo-greedy.json"));
    case["text"] = case["prompt"].take(); // without what follows it
    let case = serde_json::from_value(case).unwrap();
    compare("demo", &support::repository("demo"), &[case]);
}
