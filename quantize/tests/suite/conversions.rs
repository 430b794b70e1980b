//! The bytes that come out: values against arithmetic written out here, formats, repeatability,
//! and what happens when writing fails.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use katari_gguf::{Format, Gguf, Metadata};
use katari_quantize::Error;
use katari_quantize::checkpoint::Checkpoint;
use katari_quantize::convert::{Model, convert};
use katari_quantize::pipeline::{self, Job};
use katari_quantize::plan::{FileType, plan};
use katari_quantize::progress::{Progress, Silent};
use katari_quantize::sink::Sink;

use crate::support::*;

/// A file in memory, on a disk that takes so many bytes.
struct Disk {
    room: usize,
    /// Whether it says only in the end that it is full.
    is_late: bool,
    bytes: Mutex<Vec<u8>>,
}

impl Disk {
    fn new(room: usize) -> Self {
        Disk {
            room,
            is_late: false,
            bytes: Mutex::default(),
        }
    }
}

impl Sink for Disk {
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        // As of a file with holes: room is needed only for what is written.
        self.bytes
            .lock()
            .expect("no panic")
            .resize(bytes as usize, 0);
        Ok(())
    }

    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        if start + bytes.len() > self.room && !self.is_late {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut all = self.bytes.lock().expect("no panic");
        all[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        match self.bytes.lock().expect("no panic").len() > self.room {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

fn write_to(
    dir: &Path,
    file_type: FileType,
    threads: usize,
    disk: Disk,
    progress: &dyn Progress,
) -> Result<Vec<u8>, Error> {
    let checkpoint = Checkpoint::open(dir)?;
    let Model {
        metadata, outputs, ..
    } = convert(&checkpoint)?;
    let model = convert(&checkpoint)?;
    let plan = plan(&checkpoint, &model, file_type, false)?;
    let job = Job {
        checkpoint: &checkpoint,
        outputs: &outputs,
        plan: &plan,
        metadata: &metadata,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a pool");
    pipeline::run(&job, &pool, &disk, Path::new("out.gguf"), progress)?;
    Ok(disk.bytes.into_inner().expect("no panic"))
}

fn bytes_of(dir: &Path, file_type: FileType) -> Vec<u8> {
    write_to(dir, file_type, 2, Disk::new(usize::MAX), &Silent).expect("a file")
}

/// A file's tensors as f32 by name.
struct Written(Vec<u8>, Gguf);

impl Written {
    fn new(dir: &Path, file_type: FileType) -> Self {
        let bytes = bytes_of(dir, file_type);
        let gguf = Gguf::parse(&bytes).expect("GGUF");
        Written(bytes, gguf)
    }

    fn format(&self, name: &str) -> Format {
        self.1.tensor(name).expect(name).format
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let tensor = self.1.tensor(name).expect(name);
        let bytes = self.1.data(&self.0, tensor);
        let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        tensor.format.dequantize(bytes, &mut values);
        values
    }

    fn metadata(&self) -> &Metadata {
        &self.1.metadata
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor
        .bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect()
}

fn find<'a>(tensors: &'a [Tensor], name: &str) -> &'a Tensor {
    tensors.iter().find(|t| t.name == name).expect(name)
}

#[test]
fn conv1d_is_transposed() {
    let tensors = tiny_tensors();
    let dir = folder(TINY_CONFIG, &[("model.safetensors", safetensors(&tensors))]);
    let written = Written::new(dir.path(), FileType::F32);
    for (name, from, n_in, n_out) in [
        ("blk.0.attn_qkv.weight", "attn.c_attn", 8, 24),
        ("blk.0.attn_output.weight", "attn.c_proj", 8, 8),
        ("blk.0.ffn_up.weight", "mlp.c_fc", 8, 32),
        ("blk.0.ffn_down.weight", "mlp.c_proj", 32, 8),
    ] {
        let stored = floats(find(&tensors, &format!("transformer.h.0.{from}.weight")));
        let values = written.values(name);
        for o in 0..n_out {
            for i in 0..n_in {
                assert_eq!(
                    values[o * n_in + i],
                    stored[i * n_out + o],
                    "{name} [{o}, {i}]"
                );
            }
        }
        assert_eq!(
            written.1.tensor(name).expect(name).dims,
            [n_in as u64, n_out as u64]
        );
    }
    assert!(written.1.tensor("output.weight").is_none(), "tied");
}

/// A transposed tensor of more elements than one slab, so that it is read by column blocks.
#[test]
fn conv1d_larger_than_a_slab_is_transposed() {
    let (n, n_ff) = (512, 20_000);
    let config = format!(
        r#"{{"model_type": "gpt2", "n_embd": {n}, "n_head": 2, "n_layer": 1, "n_positions": 4,
            "vocab_size": 10, "n_inner": {n_ff}}}"#
    );
    let mut tensors = tiny_tensors();
    for t in &mut tensors {
        let shape: Vec<usize> = t
            .shape
            .iter()
            .map(|&d| match d {
                8 => n,
                24 => 3 * n,
                32 => n_ff,
                other => other,
            })
            .collect();
        *t = Tensor::counting(&t.name, &shape);
    }
    // Distinct values, so that a wrong place shows.
    let name = "transformer.h.0.mlp.c_fc.weight";
    let values: Vec<f32> = (0..n * n_ff).map(|i| i as f32).collect();
    for t in tensors.iter_mut().filter(|t| t.name == name) {
        *t = Tensor::f32(name, &[n, n_ff], &values);
    }
    let dir = folder(&config, &[("model.safetensors", safetensors(&tensors))]);
    let written = Written::new(dir.path(), FileType::F32).values("blk.0.ffn_up.weight");
    for o in 0..n_ff {
        for i in 0..n {
            assert_eq!(written[o * n + i], (i * n_ff + o) as f32, "[{o}, {i}]");
        }
    }
}

const TINY_NEOX: &str = r#"{"model_type": "gpt_neox", "hidden_size": 12, "num_attention_heads": 3,
    "num_hidden_layers": 1, "intermediate_size": 20, "max_position_embeddings": 4,
    "vocab_size": 10, "rotary_pct": 0.5}"#;

fn neox_tensors() -> Vec<Tensor> {
    [
        ("gpt_neox.embed_in.weight", vec![10, 12]),
        ("gpt_neox.layers.0.input_layernorm.weight", vec![12]),
        ("gpt_neox.layers.0.input_layernorm.bias", vec![12]),
        (
            "gpt_neox.layers.0.post_attention_layernorm.weight",
            vec![12],
        ),
        ("gpt_neox.layers.0.post_attention_layernorm.bias", vec![12]),
        (
            "gpt_neox.layers.0.attention.query_key_value.weight",
            vec![36, 12],
        ),
        ("gpt_neox.layers.0.attention.query_key_value.bias", vec![36]),
        ("gpt_neox.layers.0.attention.dense.weight", vec![12, 12]),
        ("gpt_neox.layers.0.attention.dense.bias", vec![12]),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", vec![20, 12]),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.bias", vec![20]),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h.weight", vec![12, 20]),
        ("gpt_neox.layers.0.mlp.dense_4h_to_h.bias", vec![12]),
        ("gpt_neox.final_layer_norm.weight", vec![12]),
        ("gpt_neox.final_layer_norm.bias", vec![12]),
        ("embed_out.weight", vec![10, 12]),
    ]
    .into_iter()
    .map(|(name, shape)| Tensor::counting(name, &shape))
    .collect()
}

#[test]
fn query_key_value_is_sorted_into_queries_keys_and_values() {
    let (n, n_head, head_dim) = (12, 3, 4);
    let mut tensors = neox_tensors();
    let weight: Vec<f32> = (0..36 * 12).map(|i| i as f32).collect();
    let bias: Vec<f32> = (0..36).map(|i| i as f32).collect();
    tensors[5] = Tensor::f32(&tensors[5].name, &[36, 12], &weight);
    tensors[6] = Tensor::f32(&tensors[6].name, &[36], &bias);
    let dir = folder(TINY_NEOX, &[("model.safetensors", safetensors(&tensors))]);
    let written = Written::new(dir.path(), FileType::F32);
    let weights = written.values("blk.0.attn_qkv.weight");
    let biases = written.values("blk.0.attn_qkv.bias");
    // The reference views the stored rows as [head, 3 * head_dim] and cuts each head's into
    // query, key and value.
    for head in 0..n_head {
        for part in 0..3 {
            for d in 0..head_dim {
                let stored = head * 3 * head_dim + part * head_dim + d;
                let row = part * n + head * head_dim + d;
                assert_eq!(biases[row], bias[stored]);
                assert_eq!(
                    weights[row * n..(row + 1) * n],
                    weight[stored * n..(stored + 1) * n]
                );
            }
        }
    }
    let metadata = written.metadata();
    assert_eq!(
        metadata.need::<u32>("gptneox.rope.dimension_count").ok(),
        Some(2)
    );
    assert_eq!(
        metadata.need::<bool>("gptneox.use_parallel_residual").ok(),
        Some(true)
    );
    assert_eq!(
        metadata.need::<&str>("katari.activation").ok(),
        Some("gelu_erf")
    );
}

#[test]
fn biases_that_readers_demand_are_zeros_where_the_model_has_none() {
    let config = TINY_NEOX.replacen('{', "{\"attention_bias\": false,", 1);
    let mut tensors = neox_tensors();
    tensors.retain(|t| {
        !t.name.contains("attention") || t.name.ends_with("weight") || t.name.contains("layernorm")
    });
    let dir = folder(&config, &[("model.safetensors", safetensors(&tensors))]);
    let written = Written::new(dir.path(), FileType::Q8_0);
    assert_eq!(written.values("blk.0.attn_qkv.bias"), [0.0; 36]);
    assert_eq!(written.values("blk.0.attn_output.bias"), [0.0; 12]);
}

#[test]
fn tied_neox_has_an_output_all_the_same() {
    let config = TINY_NEOX.replacen('{', "{\"tie_word_embeddings\": true,", 1);
    let mut tensors = neox_tensors();
    tensors.pop();
    let dir = folder(&config, &[("model.safetensors", safetensors(&tensors))]);
    let written = Written::new(dir.path(), FileType::F32);
    assert_eq!(written.values("output.weight"), floats(&tensors[0]));
}

#[test]
fn neox_japanese_has_one_bias_and_no_output() {
    let config = TINY_NEOX.replace("gpt_neox", "gpt_neox_japanese").replace(
        "\"intermediate_size\": 20",
        "\"intermediate_multiple_size\": 2",
    );
    let mut tensors: Vec<Tensor> = neox_tensors()
        .into_iter()
        .filter(|t| !t.name.ends_with(".bias") || t.name.contains("norm"))
        .collect();
    for t in &mut tensors {
        t.name = t.name.replace("gpt_neox.", "gpt_neox_japanese.");
        let shape: Vec<usize> = t
            .shape
            .iter()
            .map(|&d| if d == 20 { 24 } else { d })
            .collect();
        *t = Tensor::counting(&t.name, &shape);
    }
    let bias = "gpt_neox_japanese.layers.0.attention.dense_bias";
    tensors.push(Tensor::counting(bias, &[12]));
    let dir = folder(&config, &[("pytorch_model.bin", torch(&tensors))]);
    let written = Written::new(dir.path(), FileType::F32);
    assert_eq!(
        written.values("blk.0.attn_output.bias"),
        floats(find(&tensors, bias))
    );
    for absent in ["output.weight", "blk.0.attn_qkv.bias", "blk.0.ffn_up.bias"] {
        assert!(written.1.tensor(absent).is_none(), "{absent}");
    }
    let n_ff = written
        .metadata()
        .need::<u32>("gptneox-japanese.feed_forward_length");
    assert_eq!(n_ff.ok(), Some(24));
}

#[test]
fn gptj_has_a_bias_on_its_output() {
    let config = r#"{"architectures": ["GPTJForCausalLM"], "n_embd": 8, "n_head": 2, "n_layer": 1,
        "n_positions": 4, "vocab_size": 10, "n_inner": null, "rotary": true, "rotary_dim": 2}"#;
    let tensors: Vec<Tensor> = [
        ("transformer.wte.weight", vec![10, 8]),
        ("transformer.h.0.ln_1.weight", vec![8]),
        ("transformer.h.0.ln_1.bias", vec![8]),
        ("transformer.h.0.attn.q_proj.weight", vec![8, 8]),
        ("transformer.h.0.attn.k_proj.weight", vec![8, 8]),
        ("transformer.h.0.attn.v_proj.weight", vec![8, 8]),
        ("transformer.h.0.attn.out_proj.weight", vec![8, 8]),
        ("transformer.h.0.mlp.fc_in.weight", vec![32, 8]),
        ("transformer.h.0.mlp.fc_in.bias", vec![32]),
        ("transformer.h.0.mlp.fc_out.weight", vec![8, 32]),
        ("transformer.h.0.mlp.fc_out.bias", vec![8]),
        ("transformer.ln_f.weight", vec![8]),
        ("transformer.ln_f.bias", vec![8]),
        ("lm_head.weight", vec![10, 8]),
        ("lm_head.bias", vec![10]),
    ]
    .into_iter()
    .map(|(name, shape)| Tensor::counting(name, &shape))
    .collect();
    let file = safetensors(&tensors);
    let dir = folder(config, &[("model.safetensors", file.clone())]);
    let written = Written::new(dir.path(), FileType::F32);
    for (name, stored) in [
        ("blk.0.attn_q.weight", 3),
        ("blk.0.attn_k.weight", 4),
        ("blk.0.attn_v.weight", 5),
        ("blk.0.attn_output.weight", 6),
        ("output.weight", 13),
        ("output.bias", 14),
    ] {
        assert_eq!(written.values(name), floats(&tensors[stored]), "{name}");
    }
    let dims = written.metadata().need::<u32>("gptj.rope.dimension_count");
    assert_eq!(dims.ok(), Some(2));
    for (from, to) in [
        ("\"rotary_dim\": 2", "\"rotary_dim\": null"),
        ("\"rotary\": true", "\"rotary\": false"),
    ] {
        let dir = folder(
            &config.replace(from, to),
            &[("model.safetensors", file.clone())],
        );
        let error = convert(&Checkpoint::open(dir.path()).expect("a folder")).expect_err(to);
        let key = to.split(':').next().unwrap_or_default().replace('"', "'");
        assert!(error.to_string().contains(&key), "{error}");
    }
}

#[test]
fn head_has_either_of_its_two_names() {
    let mut tensors = neox_tensors();
    tensors[15].name = "lm_head.weight".to_string();
    let dir = folder(TINY_NEOX, &[("model.safetensors", safetensors(&tensors))]);
    let written = Written::new(dir.path(), FileType::F32);
    assert_eq!(written.values("output.weight"), floats(&tensors[15]));
    tensors.pop();
    let dir = folder(TINY_NEOX, &[("model.safetensors", safetensors(&tensors))]);
    let error = convert(&Checkpoint::open(dir.path()).expect("a folder")).expect_err("no head");
    let message = error.to_string();
    assert!(
        message.ends_with("calls for: embed_out.weight"),
        "{message}"
    );
}

#[test]
fn rope_settings_in_newer_and_older_spellings_are_the_same() {
    let older = TINY_NEOX.replace("0.5", "0.5, \"rotary_emb_base\": 5000");
    let newer = TINY_NEOX.replace(
        "\"rotary_pct\": 0.5",
        "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5000.0, \"partial_rotary_factor\": 0.5}",
    );
    let file = safetensors(&neox_tensors());
    let [a, b] = [older, newer].map(|config| {
        let dir = folder(&config, &[("model.safetensors", file.clone())]);
        bytes_of(dir.path(), FileType::F32)
    });
    assert!(a == b);
    let linear = TINY_NEOX.replace(
        "0.5",
        "0.5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}",
    );
    let dir = folder(&linear, &[("model.safetensors", file.clone())]);
    let written = Written::new(dir.path(), FileType::F32);
    assert_eq!(
        written
            .metadata()
            .need::<f32>("gptneox.rope.scaling.factor")
            .ok(),
        Some(2.0)
    );
    let dynamic = linear.replace("linear", "dynamic");
    let dir = folder(&dynamic, &[("model.safetensors", file)]);
    let error = convert(&Checkpoint::open(dir.path()).expect("a folder")).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("'rope_scaling' is of type 'dynamic'"),
        "{error}"
    );
}

#[test]
fn half_types_are_read_exactly() {
    let expected = tiny_tensors();
    let to_f16 = |t: &Tensor| Tensor {
        dtype: "F16",
        bytes: floats(t)
            .iter()
            .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
            .collect(),
        ..t.clone()
    };
    let to_bf16 = |t: &Tensor| Tensor {
        dtype: "BF16",
        bytes: floats(t)
            .iter()
            .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
            .collect(),
        ..t.clone()
    };
    let from_f32 = bytes_of(
        folder(
            TINY_CONFIG,
            &[("model.safetensors", safetensors(&expected))],
        )
        .path(),
        FileType::F32,
    );
    let halves: Vec<Tensor> = expected.iter().map(to_f16).collect();
    let brains: Vec<Tensor> = expected.iter().map(to_bf16).collect();
    for tensors in [halves, brains] {
        let dir = folder(TINY_CONFIG, &[("pytorch_model.bin", torch(&tensors))]);
        assert!(bytes_of(dir.path(), FileType::F32) == from_f32);
    }
}

#[test]
fn bytes_are_the_same_whatever_the_number_of_threads() {
    let dir = folder(
        TINY_NEOX,
        &[("model.safetensors", safetensors(&neox_tensors()))],
    );
    let one = write_to(
        dir.path(),
        FileType::Q8_0,
        1,
        Disk::new(usize::MAX),
        &Silent,
    )
    .expect("a file");
    let seven = write_to(
        dir.path(),
        FileType::Q8_0,
        7,
        Disk::new(usize::MAX),
        &Silent,
    )
    .expect("a file");
    assert!(one == seven);
}

#[test]
fn vectors_and_positions_stay_f32() {
    let dir = folder(
        TINY_CONFIG,
        &[("model.safetensors", safetensors(&tiny_tensors()))],
    );
    let written = Written::new(dir.path(), FileType::F16);
    assert_eq!(written.format("position_embd.weight"), Format::F32);
    assert_eq!(written.format("blk.0.attn_norm.weight"), Format::F32);
    assert_eq!(written.format("token_embd.weight"), Format::F16);
}

#[test]
fn values_that_a_format_cannot_hold_are_refused_by_row() {
    for (value, file_type, expected) in [
        (f32::NAN, FileType::F32, "row 3 holds NaN"),
        (f32::INFINITY, FileType::Q8_0, "row 3 holds inf"),
        (1e5, FileType::F16, "row 3 holds 100000, more than f16"),
    ] {
        let mut tensors = tiny_tensors();
        let mut values = floats(&tensors[0]);
        values[3 * 8 + 1] = value;
        tensors[0] = Tensor::f32("transformer.wte.weight", &[10, 8], &values);
        let dir = folder(TINY_CONFIG, &[("model.safetensors", safetensors(&tensors))]);
        let error = write_to(dir.path(), file_type, 2, Disk::new(usize::MAX), &Silent)
            .expect_err("refused");
        let message = error.to_string();
        assert!(message.contains("'transformer.wte.weight'"), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn full_disk_is_one_clear_error_wherever_it_strikes() {
    let dir = folder(
        TINY_CONFIG,
        &[("model.safetensors", safetensors(&tiny_tensors()))],
    );
    let whole = bytes_of(dir.path(), FileType::F32).len();
    for (room, is_late) in [
        (0, false),
        (100, false),
        (whole / 2, false),
        (whole - 1, false),
        (whole - 1, true),
    ] {
        let disk = Disk {
            is_late,
            ..Disk::new(room)
        };
        let error = write_to(dir.path(), FileType::F32, 2, disk, &Silent);
        let error = error.expect_err("a full disk");
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(
            error.to_string().contains(&format!("{whole} bytes")),
            "{error}"
        );
    }
    assert!(write_to(dir.path(), FileType::F32, 2, Disk::new(whole), &Silent).is_ok());
}

#[test]
fn weights_cut_after_opening_are_an_error() {
    let mut file = safetensors(&tiny_tensors());
    let dir = folder(TINY_CONFIG, &[("model.safetensors", file.clone())]);
    let checkpoint = Checkpoint::open(dir.path()).expect("a checkpoint");
    let model = convert(&checkpoint).expect("a model");
    let plan = plan(&checkpoint, &model, FileType::F32, false).expect("a plan");
    file.truncate(file.len() - 20);
    write(dir.path(), "model.safetensors", &file);
    let job = Job {
        checkpoint: &checkpoint,
        outputs: &model.outputs,
        plan: &plan,
        metadata: &model.metadata,
    };
    let pool = rayon::ThreadPoolBuilder::new().build().expect("a pool");
    let error = pipeline::run(
        &job,
        &pool,
        &Disk::new(usize::MAX),
        Path::new("out"),
        &Silent,
    );
    let error = error.expect_err("truncated").to_string();
    assert!(error.contains("is truncated"), "{error}");
}

#[test]
fn interruption_stops_the_work() {
    struct Stop;
    impl Progress for Stop {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let dir = folder(
        TINY_CONFIG,
        &[("model.safetensors", safetensors(&tiny_tensors()))],
    );
    let error =
        write_to(dir.path(), FileType::F32, 2, Disk::new(usize::MAX), &Stop).expect_err("stopped");
    assert!(matches!(error, Error::Interrupted));
    assert_eq!(error.exit_code(), 130);
}
