//! What several subjects need: where data lies, golden checkpoints quantized once, and small
//! models of every architecture with weights made up here.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use katari_gguf::keys::{arch, general, katari, tensor};
use katari_gguf::{Format, Gguf, Metadata, TensorSpec, Writer};
use katari_quantize::progress::Silent;
use katari_quantize::{FileType, Options, quantize};

/// A file or folder of the repository, or of the copy that `KATARI_TEST_ROOT` names where the
/// tests were built elsewhere.
pub fn repository(path: &str) -> PathBuf {
    match std::env::var_os("KATARI_TEST_ROOT") {
        Some(root) => Path::new(&root).join(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(path),
    }
}

/// A file or folder of `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    repository("tests/golden").join(path)
}

/// A file or folder of the data that is not in the repository, `$KATARI_DATA` or `../shared/data`
/// beside it. Where it is absent, says that `test` is skipped.
pub fn data(path: &str, test: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("KATARI_DATA") {
        Some(root) => PathBuf::from(root),
        None => repository("../shared/data"),
    };
    let path = root.join(path);
    if !path.exists() {
        eprintln!("skipped: {test} needs {}", path.display());
        return None;
    }
    Some(path)
}

/// Parses a JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Where tests write; emptied by nobody, overwritten by the next run.
pub fn scratch(name: &str) -> PathBuf {
    let folder = match std::env::var_os("KATARI_TEST_ROOT") {
        Some(root) => Path::new(&root).join("tmp"),
        // A Windows build made elsewhere has a folder here without a drive.
        None => std::path::absolute(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    };
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// Makes the file `name` once a run, whoever asks first, and returns where it lies.
pub fn once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    type Made = Mutex<HashMap<String, Arc<OnceLock<()>>>>;
    static MADE: OnceLock<Made> = OnceLock::new();
    let made = MADE.get_or_init(Made::default);
    let cell = Arc::clone(made.lock().unwrap().entry(name.into()).or_default());
    let path = scratch(name);
    cell.get_or_init(|| make(&path));
    path
}

/// The program that `start` starts, again where Wine lost it: Wine 8 on a busy machine ends one
/// process in some thousands before it begins, whatever its program, and calls it an internal
/// error.
#[track_caller]
pub fn started<T>(mut start: impl FnMut() -> io::Result<T>) -> T {
    const ERROR_INTERNAL_ERROR: i32 = 1359;
    for _ in 0..4 {
        match start() {
            Err(e) if cfg!(windows) && e.raw_os_error() == Some(ERROR_INTERNAL_ERROR) => {}
            result => return result.unwrap(),
        }
    }
    start().unwrap()
}

/// Deterministic numbers (splitmix64, Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from -1 to 1.
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Writes a GGUF with the values of each tensor in its format.
pub fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[(TensorSpec, Vec<f32>)]) {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let out = BufWriter::new(fs::File::create(path).unwrap());
    let mut writer = Writer::new(out, metadata, &specs).unwrap();
    for (spec, values) in tensors {
        let mut bytes = vec![0; spec.bytes().unwrap() as usize];
        spec.format.quantize(values, &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// The same model with every tensor dequantised to f32.
pub fn dequantized(path: &Path) -> PathBuf {
    let name = format!("{}.f32.gguf", path.file_stem().unwrap().to_str().unwrap());
    once(&name, |out| {
        let bytes = fs::read(path).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let tensors: Vec<_> = gguf
            .tensors
            .iter()
            .map(|tensor| {
                let mut values = vec![0.0; tensor.n_values() as usize];
                tensor
                    .format
                    .dequantize(gguf.data(&bytes, tensor), &mut values);
                let spec = TensorSpec {
                    name: tensor.name.clone(),
                    dims: tensor.dims.clone(),
                    format: Format::F32,
                };
                (spec, values)
            })
            .collect();
        write_gguf(out, &gguf.metadata, &tensors);
    })
}

/// A model with weights made up here: enough for tests that compare the engine with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiny {
    pub architecture: &'static str,
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub n_ctx: usize,
    /// Format of the matrices.
    pub format: Format,
}

impl Tiny {
    pub const N_VOCAB: usize = 96;

    pub fn new(architecture: &'static str) -> Self {
        Tiny {
            architecture,
            n_layer: 3,
            // Heads of 64, which fused attention takes on every device.
            n_embd: 128,
            n_head: 2,
            n_ctx: 64,
            format: Format::F32,
        }
    }

    /// The metadata and tensors, in the order that files have them.
    pub fn parts(&self) -> (Metadata, Vec<(TensorSpec, Vec<f32>)>) {
        let Tiny {
            architecture: name,
            n_layer,
            n_embd,
            n_head,
            n_ctx,
            format,
        } = *self;
        let n_ff = 2 * n_embd;
        let mut metadata = Metadata::new();
        metadata.set(general::ARCHITECTURE, name);
        metadata.set(arch::context_length(name), n_ctx as u32);
        metadata.set(arch::embedding_length(name), n_embd as u32);
        metadata.set(arch::feed_forward_length(name), n_ff as u32);
        metadata.set(arch::block_count(name), n_layer as u32);
        metadata.set(arch::head_count(name), n_head as u32);
        metadata.set(arch::layer_norm_epsilon(name), 1e-5f32);
        metadata.set(katari::ACTIVATION, "gelu_tanh");
        if name != "gpt2" {
            let dims = match name {
                "gptj" => n_embd / n_head / 2,
                _ => n_embd / n_head,
            };
            metadata.set(arch::rope_dimension_count(name), dims as u32);
            metadata.set(arch::rope_freq_base(name), 10_000f32);
        }
        if name == "gptneox" {
            metadata.set(arch::use_parallel_residual(name), true);
        }

        let mut random = Random(n_layer as u64);
        let mut tensors = Vec::new();
        let mut add = |name: String, rows: usize, cols: usize, format, center: f32, width: f32| {
            let values = (0..rows * cols).map(|_| center + width * random.signed());
            let dims = match rows {
                1 => vec![cols as u64],
                _ => vec![cols as u64, rows as u64],
            };
            tensors.push((TensorSpec { name, dims, format }, values.collect()));
        };
        // Widths that keep hidden states near 1 and attention far from even.
        let mut matrix = |name: &str, rows: usize, cols: usize| {
            let width = 3.0 / (cols as f32).sqrt();
            add(tensor::weight(name), rows, cols, format, 0.0, width);
        };
        let mut vectors = Vec::new();
        matrix(tensor::TOKEN_EMBD, Self::N_VOCAB, n_embd);
        if name == "gpt2" {
            matrix(tensor::POSITION_EMBD, n_ctx, n_embd);
        }
        if name == "gptj" || name == "gptneox" {
            matrix(tensor::OUTPUT, Self::N_VOCAB, n_embd);
        }
        if name == "gptj" {
            vectors.push((tensor::bias(tensor::OUTPUT), Self::N_VOCAB, 0.0));
        }
        let norm = |vectors: &mut Vec<_>, module: &str| {
            vectors.push((tensor::weight(module), n_embd, 1.0));
            vectors.push((tensor::bias(module), n_embd, 0.0));
        };
        norm(&mut vectors, tensor::OUTPUT_NORM);
        for i in 0..n_layer {
            let block = |module| tensor::block(i, module);
            norm(&mut vectors, &block(tensor::ATTN_NORM));
            let biased = matches!(name, "gptneox" | "gpt2");
            let mut linears = vec![
                (tensor::ATTN_OUTPUT, n_embd, n_embd, biased),
                (tensor::FFN_UP, n_ff, n_embd, biased || name == "gptj"),
                (tensor::FFN_DOWN, n_embd, n_ff, biased || name == "gptj"),
            ];
            if name == "gptj" {
                for module in [tensor::ATTN_Q, tensor::ATTN_K, tensor::ATTN_V] {
                    linears.push((module, n_embd, n_embd, false));
                }
            } else {
                norm(&mut vectors, &block(tensor::FFN_NORM));
                linears.push((tensor::ATTN_QKV, 3 * n_embd, n_embd, biased));
            }
            if name == "gptneox-japanese" && i + 1 == n_layer {
                linears[0].3 = true;
            }
            for (module, rows, cols, bias) in linears {
                matrix(&block(module), rows, cols);
                if bias {
                    vectors.push((tensor::bias(&block(module)), rows, 0.0));
                }
            }
        }
        for (name, n, center) in vectors {
            add(name, 1, n, Format::F32, center, 0.1);
        }
        (metadata, tensors)
    }

    /// Writes the file, once a run.
    pub fn file(&self) -> PathBuf {
        let Tiny {
            architecture,
            n_layer,
            n_embd,
            n_head,
            n_ctx,
            format,
        } = self;
        let name = format!("{architecture}-{n_layer}-{n_embd}-{n_head}-{n_ctx}-{format}.gguf");
        once(&name, |path| {
            let (metadata, tensors) = self.parts();
            write_gguf(path, &metadata, &tensors);
        })
    }
}

/// Root mean square of the differences, relative to that of `expected`.
pub fn relative_rms(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let scale: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    (error / scale).sqrt()
}

/// The golden checkpoints that every test run has.
pub const CHECKPOINTS: [&str; 6] = [
    "gpt2-plain",
    "gpt2-rinna",
    "gptj-genji",
    "neox-pythia",
    "neox-rinna",
    "neox-japanese-small",
];

/// Quantizes the checkpoint in `folder`, once a run for each type.
pub fn quantized(folder: &Path, file_type: FileType) -> PathBuf {
    let checkpoint = folder.file_name().unwrap().to_str().unwrap();
    once(&format!("{checkpoint}-{}.gguf", file_type.name()), |path| {
        let options = Options {
            dir: folder.into(),
            tokenizer: None,
            output: Some(path.into()),
            file_type,
            pure: false,
            dry_run: false,
            threads: Some(2),
            force: true,
            chat_template: None,
            json: false,
        };
        quantize(&options, &Silent).unwrap_or_else(|e| panic!("{checkpoint}: {e}"));
    })
}

/// The golden checkpoint with abeja's real vocabulary, put together in a scratch folder; `None`
/// where the data folder is absent.
pub fn abeja(test: &str) -> Option<PathBuf> {
    let checkpoint = data("golden/models/neox-japanese-abeja", test)?;
    let vocabulary = data("tokenizers/abeja", test)?;
    Some(once("neox-japanese-abeja", |folder| {
        fs::create_dir_all(folder).unwrap();
        for file in fs::read_dir(&checkpoint).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        fs::copy(vocabulary.join("ja-swe32k.txt"), folder.join("vocab.txt")).unwrap();
        fs::copy(vocabulary.join("emoji.json"), folder.join("emoji.json")).unwrap();
    }))
}
