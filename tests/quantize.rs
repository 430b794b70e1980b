//! Quantizing the golden checkpoints, and checkpoints that are broken on purpose: the file that
//! comes out has the stored values, or there is one clear error and nothing is left behind.

use std::fs;
use std::path::{Path, PathBuf};

use katari::text::{ChatTemplate, Message};
use katari_gguf::{Format, Gguf};
use katari_quantize::checkpoint::{Checkpoint, Dtype};
use katari_quantize::progress::{Progress, Silent};
use katari_quantize::{Error, FileType, Options, quantize};

use crate::support::{Random, data, golden, repository};

/// Golden checkpoints whose tokenizers are in the repository.
const GOLDEN: [&str; 6] = [
    "gpt2-plain",
    "gpt2-rinna",
    "gptj-genji",
    "neox-japanese-small",
    "neox-pythia",
    "neox-rinna",
];

/// Quantizes `dir` into a folder of its own and reads the file.
fn quantized(dir: &Path, file_type: FileType) -> (Vec<u8>, Gguf) {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.gguf");
    let mut options = Options::new(dir, file_type);
    options.output = Some(path.clone());
    quantize(&options, &Silent).unwrap();
    let bytes = fs::read(path).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    (bytes, gguf)
}

/// A written tensor as f32.
fn values(bytes: &[u8], gguf: &Gguf, name: &str) -> Vec<f32> {
    let tensor = gguf.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.n_values() as usize];
    tensor
        .format
        .dequantize(gguf.data(bytes, tensor), &mut values);
    values
}

/// A stored tensor as f32, and its shape.
fn stored(checkpoint: &Checkpoint, name: &str) -> (Vec<f32>, Vec<usize>) {
    let tensor = checkpoint
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in the checkpoint"));
    assert_eq!(tensor.dtype, Dtype::F16, "the golden checkpoints are F16");
    let shape: Vec<usize> = tensor.shape.iter().map(|&d| d as usize).collect();
    let mut bytes = vec![0; 2 * shape.iter().product::<usize>()];
    checkpoint.read(tensor, 0, &mut bytes).unwrap();
    let halves = bytes.chunks_exact(2);
    let values = halves.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
    (values.collect(), shape)
}

/// `[in, out]` -> `[out, in]`.
fn transposed(values: &[f32], [n_in, n_out]: [usize; 2]) -> Vec<f32> {
    (0..n_in * n_out)
        .map(|i| values[i % n_in * n_out + i / n_in])
        .collect()
}

/// Rows `[head, 3, dim]` -> `[3, head, dim]`; a bias has rows of one.
fn split(values: &[f32], rows: usize, n_head: usize) -> Vec<f32> {
    let (dim, cols) = (rows / 3 / n_head, values.len() / rows);
    let mut out = Vec::new();
    for part in 0..3 {
        for head in 0..n_head {
            let from = (head * 3 + part) * dim * cols;
            out.extend_from_slice(&values[from..from + dim * cols]);
        }
    }
    out
}

/// What a written tensor should hold, from the names that the frameworks publish.
fn expected(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let config = checkpoint.config();
    let model_type = config["model_type"].as_str().unwrap();
    let is_neox = model_type.starts_with("gpt_neox");
    let prefix = match model_type {
        "gpt_neox" => "gpt_neox.",
        "gpt_neox_japanese" => "gpt_neox_japanese.",
        _ => "transformer.",
    };
    let whole = match name {
        "token_embd.weight" if is_neox => Some(format!("{prefix}embed_in.weight")),
        "token_embd.weight" => Some(format!("{prefix}wte.weight")),
        "position_embd.weight" => Some(format!("{prefix}wpe.weight")),
        "output.weight" | "output.bias" => Some(name.replace("output", "lm_head")),
        _ => name.strip_prefix("output_norm").map(|part| {
            let norm = if is_neox { "final_layer_norm" } else { "ln_f" };
            format!("{prefix}{norm}{part}")
        }),
    };
    if let Some(whole) = whole {
        return stored(checkpoint, &whole).0;
    }
    let mut parts = name.split('.').skip(1);
    let (layer, module, kind) = (
        parts.next().unwrap(),
        parts.next().unwrap(),
        parts.next().unwrap(),
    );
    let from = match (model_type, module) {
        ("gptj", "attn_q") => "attn.q_proj",
        ("gptj", "attn_k") => "attn.k_proj",
        ("gptj", "attn_v") => "attn.v_proj",
        ("gptj", "attn_output") => "attn.out_proj",
        ("gptj", "ffn_up") => "mlp.fc_in",
        ("gptj", "ffn_down") => "mlp.fc_out",
        ("gpt2", "attn_qkv") => "attn.c_attn",
        ("gpt2", "attn_output") => "attn.c_proj",
        ("gpt2", "ffn_up") => "mlp.c_fc",
        ("gpt2", "ffn_down") => "mlp.c_proj",
        ("gptj" | "gpt2", "attn_norm") => "ln_1",
        ("gpt2", "ffn_norm") => "ln_2",
        (_, "attn_norm") => "input_layernorm",
        (_, "ffn_norm") => "post_attention_layernorm",
        (_, "attn_qkv") => "attention.query_key_value",
        (_, "attn_output") => "attention.dense",
        (_, "ffn_up") => "mlp.dense_h_to_4h",
        (_, "ffn_down") => "mlp.dense_4h_to_h",
        other => panic!("no source for {other:?}"),
    };
    let layers = if is_neox { "layers" } else { "h" };
    let joint = if model_type == "gpt_neox_japanese" && name.ends_with("attn_output.bias") {
        "_"
    } else {
        "."
    };
    let (values, shape) = stored(
        checkpoint,
        &format!("{prefix}{layers}.{layer}.{from}{joint}{kind}"),
    );
    match (model_type, shape.as_slice()) {
        ("gpt2", &[n_in, n_out]) => transposed(&values, [n_in, n_out]),
        _ if from == "attention.query_key_value" => {
            let n_head = config["num_attention_heads"].as_u64().unwrap() as usize;
            split(&values, shape[0], n_head)
        }
        _ => values,
    }
}

fn check_values(dir: &Path, name: &str) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let (bytes, gguf) = quantized(dir, FileType::F32);
    assert!(gguf.tensors.len() > 20, "{name}");
    for tensor in &gguf.tensors {
        assert_eq!(tensor.format, Format::F32);
        let written = values(&bytes, &gguf, &tensor.name);
        assert!(
            written == expected(&checkpoint, &tensor.name),
            "{name}: {} differs from the checkpoint",
            tensor.name
        );
    }
}

#[test]
fn golden_checkpoints_at_f32_hold_the_stored_values() {
    for name in GOLDEN {
        check_values(&golden(name), name);
    }
    check_values(&repository("demo"), "demo");
}

#[test]
fn abeja_checkpoint_at_f32_holds_the_stored_values() {
    let test = "abeja_checkpoint_at_f32_holds_the_stored_values";
    let Some(model) = data("golden/models/neox-japanese-abeja", test) else {
        return;
    };
    let Some(tokenizer) = data("tokenizers/abeja", test) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    copy_all(&model, dir.path());
    fs::copy(
        tokenizer.join("ja-swe32k.txt"),
        dir.path().join("vocab.txt"),
    )
    .unwrap();
    fs::copy(tokenizer.join("emoji.json"), dir.path().join("emoji.json")).unwrap();
    check_values(dir.path(), "neox-japanese-abeja");
}

/// Root of the mean squared error relative to the values, at most: each format's step on
/// normally distributed weights, with room for the golden models' small rows. Half a bit more
/// halves it: one far above means a wrong layout or a wrong scale.
const RELATIVE_RMS: [(FileType, f32); 6] = [
    (FileType::F16, 1e-6),
    (FileType::BF16, 0.003),
    (FileType::Q8_0, 0.01),
    (FileType::Q6_K, 0.03),
    (FileType::Q4_0, 0.13),
    (FileType::Q4_K_M, 0.11),
];

#[test]
fn every_type_keeps_the_values_within_its_step() {
    let dir = repository("demo");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    for (file_type, bound) in RELATIVE_RMS {
        let (bytes, gguf) = quantized(&dir, file_type);
        for tensor in gguf.tensors.iter().filter(|t| t.dims.len() == 2) {
            let expected = expected(&checkpoint, &tensor.name);
            let found = values(&bytes, &gguf, &tensor.name);
            let sum =
                |f: &dyn Fn(usize) -> f32| (0..found.len()).map(|i| f(i).powi(2)).sum::<f32>();
            let error = sum(&|i| found[i] - expected[i]);
            let size = sum(&|i| expected[i]);
            let relative = (error / size).sqrt();
            assert!(
                relative <= bound,
                "{}: {} in {} is off by {relative}",
                file_type.name(),
                tensor.name,
                tensor.format
            );
        }
    }
}

#[test]
fn metadata_tells_what_other_programs_ask_for() {
    let (_, gguf) = quantized(&repository("demo"), FileType::Q4_K_M);
    let text = |key: &str| gguf.metadata.need::<&str>(key).unwrap();
    let number = |key: &str| gguf.metadata.need::<u32>(key).unwrap();
    assert_eq!(text("general.architecture"), "gptneox");
    assert_eq!(text("general.name"), "katari-demo");
    assert_eq!(text("general.size_label"), "7.8M");
    assert_eq!(text("general.license"), "cc0-1.0");
    let languages: &[String] = gguf.metadata.need("general.languages").unwrap();
    assert_eq!(languages, ["ja"]);
    assert_eq!(number("general.file_type"), 15);
    assert_eq!(number("general.quantization_version"), 2);
    for (key, expected) in [
        ("vocab_size", 6000),
        ("context_length", 512),
        ("embedding_length", 256),
        ("block_count", 6),
        ("feed_forward_length", 1024),
        ("attention.head_count", 4),
        ("rope.dimension_count", 64),
    ] {
        assert_eq!(number(&format!("gptneox.{key}")), expected, "{key}");
    }
    let tokens: &[String] = gguf.metadata.need("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 6000);
    for key in [
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
    ] {
        gguf.metadata.need::<bool>(key).unwrap();
    }
    // From generation_config.json.
    assert!(
        gguf.metadata
            .need::<bool>("katari.sampling.do_sample")
            .unwrap()
    );
    assert_eq!(number("katari.sampling.max_new_tokens"), 200);
    let temperature: f32 = gguf.metadata.need("general.sampling.temp").unwrap();
    assert_eq!(temperature, 0.8);
}

/// A golden checkpoint under a published model's name.
fn quantized_as(published: &str, name: &str) -> Gguf {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join(published);
    fs::create_dir(&dir).unwrap();
    copy_all(&golden(name), &dir);
    quantized(&dir, FileType::F16).1
}

#[test]
fn known_cards_bring_their_sampling_and_chat_format() {
    let gguf = quantized_as("japanese-gpt-neox-3.6b-instruction-ppo", "neox-rinna");
    let penalty: f32 = gguf
        .metadata
        .need("general.sampling.penalty_repeat")
        .unwrap();
    assert_eq!(penalty, 1.1);
    let template = gguf.metadata.need("tokenizer.chat_template").unwrap();
    let said = |role: &str, content: &str| Message {
        role: role.into(),
        content: content.into(),
    };
    let turns = [
        said("user", "一\n二"),
        said("assistant", "三"),
        said("user", "四"),
    ];
    let text = ChatTemplate::new(template)
        .unwrap()
        .render(&turns, true)
        .unwrap();
    let expected = "ユーザー: 一<NL>二<NL>システム: 三<NL>ユーザー: 四<NL>システム: ";
    assert_eq!(text, expected);

    let gguf = quantized_as("japanese-gpt-1b", "gpt2-rinna");
    let unknown: u32 = gguf
        .metadata
        .need("tokenizer.ggml.unknown_token_id")
        .unwrap();
    let banned: &[String] = gguf.metadata.need("katari.sampling.banned_ids").unwrap();
    assert_eq!(banned, [unknown.to_string()]);
    let top_k: i32 = gguf.metadata.need("general.sampling.top_k").unwrap();
    assert_eq!(top_k, 500);

    let plain = quantized(&golden("neox-rinna"), FileType::F16).1;
    assert!(plain.metadata.get("tokenizer.chat_template").is_none());
    assert!(plain.metadata.get("general.sampling.temp").is_none());
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// A copy of a golden checkpoint and an empty folder to write to.
struct Attempt {
    checkpoint: tempfile::TempDir,
    output: tempfile::TempDir,
}

impl Attempt {
    fn new(name: &str) -> Self {
        let checkpoint = tempfile::tempdir().unwrap();
        copy_all(&golden(name), checkpoint.path());
        Attempt {
            checkpoint,
            output: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.checkpoint.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.output.path().join("out.gguf")
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.checkpoint.path(), FileType::Q8_0);
        options.output = Some(self.out());
        options
    }

    /// The error's message; one line, and nothing left behind.
    fn fails(&self, options: &Options) -> String {
        let error = quantize(options, &Silent).unwrap_err();
        self.left_nothing();
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    fn left_nothing(&self) {
        let left: Vec<_> = fs::read_dir(self.output.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn weights_truncated_at_random_places() {
    let mut random = Random(1);
    for (name, file) in [
        ("gpt2-plain", "model.safetensors"),
        ("neox-rinna", "pytorch_model.bin"),
        ("neox-pythia", "model-00002-of-00003.safetensors"),
    ] {
        let attempt = Attempt::new(name);
        let whole = fs::read(attempt.file(file)).unwrap();
        for _ in 0..8 {
            fs::write(attempt.file(file), &whole[..random.below(whole.len())]).unwrap();
            let message = attempt.fails(&attempt.options());
            assert!(message.contains(file), "{message}");
        }
    }
}

#[test]
fn flipped_bytes_in_headers_never_panic() {
    let mut random = Random(2);
    for (name, file) in [
        ("gpt2-plain", "model.safetensors"),
        ("gpt2-plain", "config.json"),
        ("neox-rinna", "pytorch_model.bin"),
        ("neox-pythia", "model.safetensors.index.json"),
    ] {
        let attempt = Attempt::new(name);
        let whole = fs::read(attempt.file(file)).unwrap();
        for _ in 0..8 {
            let mut bytes = whole.clone();
            let at = random.below(bytes.len().min(2000));
            bytes[at] ^= 1 << random.below(8);
            fs::write(attempt.file(file), bytes).unwrap();
            // A flip may leave a good file: what it may not do is panic or leave half a file.
            match quantize(&attempt.options(), &Silent) {
                Ok(_) => fs::remove_file(attempt.out()).unwrap(),
                Err(_) => attempt.left_nothing(),
            }
        }
    }
}

#[test]
fn index_naming_a_missing_shard() {
    let attempt = Attempt::new("neox-pythia");
    fs::remove_file(attempt.file("model-00003-of-00003.safetensors")).unwrap();
    let message = attempt.fails(&attempt.options());
    assert!(
        message.contains("model-00003-of-00003.safetensors"),
        "{message}"
    );
}

#[test]
fn config_that_calls_for_other_shapes() {
    let attempt = Attempt::new("gpt2-plain");
    let config = fs::read_to_string(attempt.file("config.json")).unwrap();
    fs::write(
        attempt.file("config.json"),
        config.replace("\"vocab_size\": 2560", "\"vocab_size\": 2561"),
    )
    .unwrap();
    let message = attempt.fails(&attempt.options());
    assert!(
        message.contains("[2560, 64], expected [2561, 64]"),
        "{message}"
    );
}

#[test]
fn tokenizer_that_is_missing() {
    let attempt = Attempt::new("gpt2-plain");
    fs::remove_file(attempt.file("vocab.json")).unwrap();
    let message = attempt.fails(&attempt.options());
    assert!(message.contains("--tokenizer"), "{message}");
}

#[test]
fn tokenizer_from_another_folder() {
    let attempt = Attempt::new("gpt2-plain");
    for name in ["vocab.json", "merges.txt"] {
        fs::remove_file(attempt.file(name)).unwrap();
    }
    let mut options = attempt.options();
    options.tokenizer = Some(golden("gpt2-plain"));
    quantize(&options, &Silent).unwrap();
    assert!(attempt.out().exists());
}

#[test]
fn output_that_exists_stays_unless_forced() {
    let attempt = Attempt::new("gpt2-plain");
    fs::write(attempt.out(), "precious").unwrap();
    let error = quantize(&attempt.options(), &Silent).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(fs::read(attempt.out()).unwrap(), b"precious");
    let mut options = attempt.options();
    options.force = true;
    quantize(&options, &Silent).unwrap();
    Gguf::parse(&fs::read(attempt.out()).unwrap()).unwrap();
}

#[test]
fn output_in_a_folder_that_is_not_there() {
    let attempt = Attempt::new("gpt2-plain");
    let mut options = attempt.options();
    options.output = Some(attempt.output.path().join("no/out.gguf"));
    let message = attempt.fails(&options);
    assert!(message.contains("cannot create"), "{message}");
}

#[test]
fn output_folder_gets_the_conventional_name() {
    let attempt = Attempt::new("gpt2-plain");
    let mut options = attempt.options();
    options.output = Some(attempt.output.path().to_path_buf());
    let report = quantize(&options, &Silent).unwrap();
    let name = report.output.file_name().unwrap().to_string_lossy();
    assert!(name.ends_with("-280K-Q8_0.gguf"), "{name}");
    assert_eq!(fs::metadata(&report.output).unwrap().len(), report.bytes);
}

#[test]
fn dry_run_plans_and_writes_nothing() {
    let attempt = Attempt::new("gptj-genji");
    let mut options = attempt.options();
    options.tokenizer = Some(golden("gptj-genji/tokenizer"));
    options.file_type = FileType::Q4_K_M;
    options.dry_run = true;
    let report = quantize(&options, &Silent).unwrap();
    attempt.left_nothing();
    let planned = |name: &str| {
        let mut tensors = report.tensors.iter();
        tensors.find(|t| t.name == name).unwrap()
    };
    let output = planned("output.weight");
    assert_eq!(output.shape, [2703, 64]);
    assert_eq!((output.from.as_str(), output.to), ("F16", Format::Q8_0));
    assert!(output.note.as_deref().unwrap().contains("q6_k"));
    // 64 wide rows are two blocks of 34 bytes.
    assert_eq!(output.bytes, 2703 * 2 * 34);
    assert_eq!(planned("output.bias").to, Format::F32);
    // Feed-forward rows are 256 wide, which a K format divides.
    assert_eq!(planned("blk.0.ffn_down.weight").to, Format::Q4_K);
    options.dry_run = false;
    assert_eq!(quantize(&options, &Silent).unwrap().bytes, report.bytes);
}

#[test]
fn pure_gives_every_matrix_the_type_itself() {
    let attempt = Attempt::new("gpt2-plain");
    let mut options = attempt.options();
    options.file_type = FileType::Q4_0;
    options.dry_run = true;
    let formats = |options: &Options| {
        let report = quantize(options, &Silent).unwrap();
        let matrices = report.tensors.into_iter();
        matrices
            .filter(|t| t.shape.len() == 2 && t.name != "position_embd.weight")
            .map(|t| (t.name, t.to))
            .collect::<Vec<_>>()
    };
    let mixed = formats(&options);
    options.pure = true;
    let pure = formats(&options);
    assert!(pure.iter().all(|(_, format)| *format == Format::Q4_0));
    assert!(mixed.contains(&("token_embd.weight".to_string(), Format::Q8_0)));
}

#[test]
fn interruption_leaves_nothing_behind() {
    struct Stop;
    impl Progress for Stop {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let attempt = Attempt::new("gpt2-plain");
    let error = quantize(&attempt.options(), &Stop).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
    attempt.left_nothing();
}

#[test]
fn file_is_the_same_whatever_the_number_of_threads() {
    let attempt = Attempt::new("neox-rinna");
    let bytes = [1, 5].map(|threads| {
        let mut options = attempt.options();
        options.threads = Some(threads);
        options.force = true;
        quantize(&options, &Silent).unwrap();
        fs::read(attempt.out()).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}
