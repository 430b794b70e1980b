//! Files that are no model, or lie about the one they are: each test is named after the lie.

use std::fs;
use std::path::Path;

use katari::engine::{Engine, EngineOptions};
use katari::kv::KvType;
use katari_gguf::keys::{self, arch, general, tokenizer};
use katari_gguf::{Format, Metadata, TensorSpec, Value};

use crate::support::{Random, Tiny, scratch, write_gguf};

type Tensors = Vec<(TensorSpec, Vec<f32>)>;

fn error_of(path: &Path) -> String {
    match Engine::open(path, &EngineOptions::default()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => {
            let error = error.to_string();
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(error.contains(&*name), "does not name the file: {error}");
            error
        }
    }
}

/// What opening a GPT-NeoX file says after `change`.
fn changed(name: &str, change: impl FnOnce(&mut Metadata, &mut Tensors)) -> String {
    changed_of("gptneox", name, change)
}

fn changed_of(
    architecture: &'static str,
    name: &str,
    change: impl FnOnce(&mut Metadata, &mut Tensors),
) -> String {
    let (mut metadata, mut tensors) = Tiny::new(architecture).parts();
    change(&mut metadata, &mut tensors);
    let path = scratch(&format!("bad-{architecture}-{name}.gguf"));
    write_gguf(&path, &metadata, &tensors);
    error_of(&path)
}

fn assert_says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
}

/// The same metadata without a key.
fn without(metadata: &Metadata, key: &str) -> Metadata {
    let mut left = Metadata::new();
    for (k, v) in metadata.iter().filter(|(k, _)| *k != key) {
        left.set(k, v.clone());
    }
    left
}

#[test]
fn no_such_file() {
    assert_says(
        &error_of(Path::new("no-such.gguf")),
        &["no-such.gguf", "(os error 2)"],
    );
}

#[test]
fn empty_file() {
    let path = scratch("bad-empty.gguf");
    fs::write(&path, "").unwrap();
    assert_says(&error_of(&path), &["empty", "expected a GGUF"]);
}

#[test]
fn architecture_of_another_program() {
    let error = changed("llama", |m, _| m.set(general::ARCHITECTURE, "llama"));
    assert_says(
        &error,
        &[
            "'general.architecture' is 'llama'",
            "expected gptj, gptneox, gptneox-japanese, gpt2",
        ],
    );
}

#[test]
fn every_needed_key_missing() {
    let n = "gptneox";
    for key in [
        general::ARCHITECTURE.to_string(),
        arch::context_length(n),
        arch::embedding_length(n),
        arch::feed_forward_length(n),
        arch::block_count(n),
        arch::head_count(n),
        arch::layer_norm_epsilon(n),
        arch::rope_dimension_count(n),
    ] {
        let error = changed("key-missing", |m, _| *m = without(m, &key));
        assert_says(&error, &[&format!("no key '{key}'")]);
    }
}

#[test]
fn lying_hyper_parameters() {
    let n = "gptneox";
    let cases: [(String, Value, &str); 16] = [
        (arch::context_length(n), 0u32.into(), "is 0, expected 1 to"),
        (arch::context_length(n), u32::MAX.into(), "expected 1 to"),
        (arch::context_length(n), "long".into(), "is a string"),
        (arch::block_count(n), 0u32.into(), "is 0, expected 1 to"),
        (
            arch::block_count(n),
            4u32.into(),
            "no tensor 'blk.3.attn_norm.weight' (expected [128])",
        ),
        (
            arch::block_count(n),
            2u32.into(),
            "tensors that gptneox does not: blk.2.",
        ),
        (
            arch::embedding_length(n),
            256u32.into(),
            "tensor 'token_embd.weight' is [96, 128], expected [96, 256]",
        ),
        (
            arch::feed_forward_length(n),
            64u32.into(),
            "tensor 'blk.0.ffn_up.weight' is [256, 128], expected [64, 128]",
        ),
        (arch::head_count(n), 3u32.into(), "is 3, expected a divisor"),
        (arch::head_count(n), 0u32.into(), "is 0, expected 1 to"),
        (arch::head_count_kv(n), 1u32.into(), "is 1, expected 2"),
        (
            arch::layer_norm_epsilon(n),
            f32::NAN.into(),
            "is NaN, expected",
        ),
        (
            arch::rope_dimension_count(n),
            65u32.into(),
            "is 65, expected an even number up to",
        ),
        (
            arch::rope_freq_base(n),
            (-1f32).into(),
            "is -1, expected a positive number",
        ),
        (
            arch::rope_scaling_type(n),
            "yarn".into(),
            "is 'yarn', expected none or linear",
        ),
        (
            keys::katari::ACTIVATION.into(),
            "swish".into(),
            "is 'swish', expected gelu_erf",
        ),
    ];
    for (key, value, says) in cases {
        let error = changed("lying-key", |m, _| m.set(key.clone(), value));
        assert_says(&error, &[says]);
        if !says.contains("tensor") {
            assert_says(&error, &[&format!("'{key}'")]);
        }
    }
}

#[test]
fn more_tokens_than_the_embedding_has_rows() {
    let error = changed("tokens", |m, _| {
        m.set(tokenizer::TOKENS, vec!["a".to_string(); Tiny::N_VOCAB + 1]);
    });
    assert_says(&error, &["97 tokens, expected at most 96"]);
}

#[test]
fn each_tensor_missing_or_of_another_shape() {
    for architecture in ["gptj", "gptneox", "gptneox-japanese", "gpt2"] {
        let (_, tensors) = Tiny::new(architecture).parts();
        for (i, (spec, _)) in tensors.iter().enumerate() {
            let error = changed_of(architecture, "missing", |_, t| drop(t.remove(i)));
            assert_says(&error, &[&format!("no tensor '{}'", spec.name), "expected"]);
            let error = changed_of(architecture, "shape", |_, t| {
                let (spec, values) = &mut t[i];
                spec.dims[0] += 1;
                values.resize(spec.dims.iter().product::<u64>() as usize, 0.0);
            });
            assert_says(&error, &[&format!("tensor '{}' is", spec.name), "expected"]);
        }
    }
}

#[test]
fn surplus_tensor() {
    let error = changed("surplus", |_, tensors| {
        let mut surplus = tensors[0].clone();
        surplus.0.name = "rope_freqs.weight".into();
        tensors.push(surplus);
    });
    assert_says(&error, &["gptneox does not: rope_freqs.weight"]);
}

#[test]
fn vector_in_a_format_of_matrices() {
    let error = changed("vector", |_, tensors| {
        let norm = tensors
            .iter_mut()
            .find(|t| t.0.name == "output_norm.weight");
        norm.unwrap().0.format = Format::F16;
    });
    assert_says(
        &error,
        &["tensor 'output_norm.weight' is f16, expected f32"],
    );
}

#[test]
fn context_that_the_model_or_the_machine_does_not_have() {
    let open = |architecture, n_ctx, n_sequences| {
        let options = EngineOptions {
            n_ctx: Some(n_ctx),
            n_sequences,
            ..EngineOptions::default()
        };
        let engine = Engine::open(&Tiny::new(architecture).file(), &options);
        engine.err().map(|e| e.to_string())
    };
    assert_says(
        &open("gpt2", 65, 1).unwrap(),
        &["context length 65", "1 to 64"],
    );
    assert_says(&open("gptneox", 0, 1).unwrap(), &["context length 0"]);
    assert_says(&open("gptneox", 64, 0).unwrap(), &["number of sequences 0"]);
    assert_says(
        &open("gptneox", 1 << 20, 1 << 40).unwrap(),
        &["number of sequences"],
    );
    // Rotary positions go on beyond those trained on.
    assert_eq!(open("gptneox", 128, 1), None);
}

#[test]
fn cut_and_flipped_files_never_panic() {
    let path = Tiny::new("gptj").file();
    let bytes = fs::read(&path).unwrap();
    let header = bytes.len() / 16;
    let mut random = Random(0);
    for i in 0..400 {
        let mut bad = bytes.clone();
        if i % 4 == 0 {
            bad.truncate(random.below(bytes.len()));
        } else {
            for _ in 0..1 + random.below(4) {
                bad[random.below(header)] = random.next() as u8;
            }
        }
        let path = scratch("bad-flipped.gguf");
        fs::write(&path, &bad).unwrap();
        let options = EngineOptions {
            n_ctx: Some(16),
            kv: (KvType::F16, KvType::F16),
            threads: Some(1),
            ..EngineOptions::default()
        };
        // Either is fine: a flip may fall on a name that nobody reads.
        let _ = Engine::open(&path, &options);
    }
}
