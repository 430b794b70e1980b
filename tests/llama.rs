//! llama.cpp reads the gptneox and gpt2 files that `katari quantize` writes and, fed the same
//! ids, predicts what this crate predicts.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use katari::engine::{Engine, EngineOptions, Feed};
use katari::kv::KvType;
use katari_gguf::keys::{self, token_type};
use katari_gguf::{Gguf, Metadata, TensorSpec, Writer};

use crate::support;
use api::{Llama, Options, Wanted};

#[path = "../gpu/llama.rs"]
mod api;

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

/// Opens a model with f32 keys and values and nothing fused, on one thread.
fn open(path: &Path) -> Llama {
    let options = Options {
        gpu: None,
        gpu_layers: 0,
        threads: 1,
        n_ctx: 256,
        n_batch: 256,
        kv: llama_cpp_sys_2::GGML_TYPE_F32,
        flash: false,
    };
    Llama::open(path, &options).unwrap()
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

        let mut llama = open(&file);
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
            llama.truncate(0);
            let theirs = llama.evaluate(&ids, Wanted::All).unwrap();
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
