//! Checkpoint folders that are incomplete, damaged or lying: one error that names what is wrong.

use std::path::Path;

use katari_quantize::Error;
use katari_quantize::checkpoint::Checkpoint;
use katari_quantize::convert::{Model, convert};
use zip::CompressionMethod;

use crate::support::*;

fn open(dir: &Path) -> Result<Model, Error> {
    convert(&Checkpoint::open(dir)?)
}

/// The error of a folder with these files beside the tiny configuration.
fn message(files: &[(&str, Vec<u8>)]) -> String {
    message_with(TINY_CONFIG, files)
}

fn message_with(config: &str, files: &[(&str, Vec<u8>)]) -> String {
    let dir = folder(config, files);
    let error = open(dir.path()).expect_err("a refusal");
    assert_eq!(error.exit_code(), 1);
    error.to_string()
}

/// An index that puts each tensor into the shard `shard_of` says.
fn index(tensors: &[Tensor], shard_of: impl Fn(usize) -> String) -> Vec<u8> {
    let map: serde_json::Map<_, _> = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| (t.name.clone(), shard_of(i).into()))
        .collect();
    serde_json::to_vec(&serde_json::json!({ "weight_map": map })).expect("an index")
}

#[test]
fn all_four_kinds_of_checkpoint_give_the_same_model() {
    let tensors = tiny_tensors();
    let (first, second) = tensors.split_at(5);
    let safetensors_index = index(&tensors, |i| {
        format!("model-{}.safetensors", usize::from(i >= 5))
    });
    let torch_index = index(&tensors, |i| {
        format!("pytorch_model-{}.bin", usize::from(i >= 5))
    });
    let whole = open(folder(TINY_CONFIG, &[("model.safetensors", safetensors(&tensors))]).path());
    let whole = whole.expect("safetensors").outputs;
    for files in [
        vec![
            ("model.safetensors.index.json", safetensors_index),
            ("model-0.safetensors", safetensors(first)),
            ("model-1.safetensors", safetensors(second)),
        ],
        vec![("pytorch_model.bin", torch(&tensors))],
        vec![
            ("pytorch_model.bin.index.json", torch_index),
            ("pytorch_model-0.bin", torch(first)),
            ("pytorch_model-1.bin", torch(second)),
        ],
    ] {
        let dir = folder(TINY_CONFIG, &files);
        let model = open(dir.path()).expect(files[0].0);
        assert_eq!(model.outputs, whole, "{}", files[0].0);
    }
}

#[test]
fn folder_that_is_not_there() {
    let error = open(Path::new("no/such/folder")).expect_err("a refusal");
    assert!(error.to_string().contains("no/such/folder: does not exist"));
}

#[test]
fn folder_without_config() {
    let dir = tempfile::tempdir().expect("a folder");
    let error = open(dir.path()).expect_err("a refusal").to_string();
    assert!(error.contains("no config.json"), "{error}");
}

#[test]
fn config_that_is_no_json() {
    let message = message_with("{\"model_type\": ", &[]);
    assert!(
        message.contains("config.json: is not valid JSON"),
        "{message}"
    );
}

#[test]
fn folder_without_weights_names_what_it_looked_for() {
    let message = message(&[("tf_model.h5", Vec::new())]);
    assert!(message.contains("model.safetensors"), "{message}");
    assert!(message.contains("tf_model.h5 is of another framework"));
}

#[test]
fn architecture_that_is_not_known() {
    let message = message_with(
        r#"{"model_type": "llama"}"#,
        &[("model.safetensors", safetensors(&tiny_tensors()))],
    );
    assert!(
        message.contains("'llama', expected one of gptj, gpt_neox"),
        "{message}"
    );
}

#[test]
fn index_naming_a_missing_shard() {
    let tensors = tiny_tensors();
    let files = [
        (
            "model.safetensors.index.json",
            index(&tensors, |i| {
                format!("model-{}.safetensors", usize::from(i >= 5))
            }),
        ),
        ("model-0.safetensors", safetensors(&tensors[..5])),
    ];
    let message = message(&files);
    assert!(
        message.contains("names the shard model-1.safetensors"),
        "{message}"
    );
}

#[test]
fn index_naming_a_shard_without_the_tensor() {
    let tensors = tiny_tensors();
    let files = [
        (
            "model.safetensors.index.json",
            index(&tensors, |_| "all.safetensors".to_string()),
        ),
        ("all.safetensors", safetensors(&tensors[1..])),
    ];
    let message = message(&files);
    assert!(
        message.contains("'transformer.wte.weight': is not in this shard"),
        "{message}"
    );
}

#[test]
fn tensor_in_two_shards() {
    let tensors = tiny_tensors();
    let files = [
        (
            "model.safetensors.index.json",
            index(&tensors, |i| format!("{}.safetensors", usize::from(i >= 5))),
        ),
        ("0.safetensors", safetensors(&tensors)),
        ("1.safetensors", safetensors(&tensors[5..])),
    ];
    assert!(message(&files).contains("0.safetensors too"));
}

#[test]
fn safetensors_cut_anywhere() {
    let whole = safetensors(&tiny_tensors());
    for end in (0..whole.len()).step_by(37) {
        let message = message(&[("model.safetensors", whole[..end].to_vec())]);
        assert!(message.contains("model.safetensors"), "{message}");
    }
}

#[test]
fn safetensors_header_length_that_lies() {
    for length in [u64::MAX, 100_000_001, 1 << 40] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([0; 64]);
        let message = message(&[("model.safetensors", bytes)]);
        assert!(
            message.contains(&format!("claims a header of {length} bytes")),
            "{message}"
        );
    }
}

#[test]
fn torch_file_cut_anywhere() {
    let whole = torch(&tiny_tensors());
    for end in (0..whole.len()).step_by(41) {
        let message = message(&[("pytorch_model.bin", whole[..end].to_vec())]);
        assert!(message.contains("pytorch_model.bin"), "{message}");
    }
}

#[test]
fn torch_file_with_flipped_bytes_is_refused_or_read() {
    let whole = torch(&tiny_tensors());
    for at in (0..whole.len()).step_by(17) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let dir = folder(TINY_CONFIG, &[("pytorch_model.bin", bytes)]);
        // Flipped weights are weights still; what matters is that nothing panics.
        if let Err(error) = open(dir.path()) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn compressed_torch_entries_are_refused() {
    let tensors = tiny_tensors();
    let mut bytes = torch(&tensors);
    // Method 8 (deflate) in the first local header and the first entry of the directory.
    bytes[8] = 8;
    let directory = bytes
        .windows(4)
        .position(|w| w == b"PK\x01\x02")
        .expect("a directory");
    bytes[directory + 10] = 8;
    assert!(message(&[("pytorch_model.bin", bytes)]).contains("compressed"));
}

#[test]
fn torch_files_of_other_kinds_are_told_apart() {
    let legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    for (bytes, expected) in [
        (legacy, "before version 1.6"),
        (b"\x80\x04}.".to_vec(), "bare pickle"),
        (b"not a zip".to_vec(), "no zip archive"),
        (Vec::new(), "no zip archive"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(),
            "git lfs pull",
        ),
    ] {
        let message = message(&[("pytorch_model.bin", bytes)]);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn pickle_with_a_forbidden_name_in_an_archive() {
    let mut pickle = Pickle::default();
    pickle
        .op(b"\x80\x02")
        .global("posix", "system")
        .text("touch pwned")
        .op(b"\x85R.");
    let bytes = torch_archive(&pickle.0, &[], CompressionMethod::Stored);
    let message = message(&[("pytorch_model.bin", bytes)]);
    assert!(
        message.contains("pytorch_model.bin: data.pkl: asks for posix.system"),
        "{message}"
    );
}

#[test]
fn big_endian_archive_is_refused() {
    let mut bytes = torch(&tiny_tensors());
    let at = bytes
        .windows(6)
        .position(|w| w == b"little")
        .expect("the entry");
    bytes[at..at + 6].copy_from_slice(b"bigbig");
    assert!(message(&[("pytorch_model.bin", bytes)]).contains("little-endian"));
}

/// The error of a torch file with one tensor of 4 floats described by `describe`.
fn torch_message(describe: impl Fn(&mut Pickle)) -> String {
    let mut pickle = Pickle::default();
    pickle.op(b"\x80\x02}").text("t");
    describe(&mut pickle);
    pickle.op(b"s.");
    let bytes = torch_archive(&pickle.0, &[&[0; 16]], CompressionMethod::Stored);
    message(&[("pytorch_model.bin", bytes)])
}

#[test]
fn storage_that_is_not_in_the_archive() {
    let message = torch_message(|p| {
        p.tensor("FloatStorage", "7", 4, &[4], &[1]);
    });
    assert!(
        message.contains("'t': its storage '7' is not in the archive"),
        "{message}"
    );
}

#[test]
fn storage_key_that_is_a_path_finds_nothing() {
    let message = torch_message(|p| {
        p.tensor("FloatStorage", "../../../etc/passwd", 4, &[4], &[1]);
    });
    assert!(message.contains("is not in the archive"), "{message}");
}

#[test]
fn storage_shorter_than_it_claims() {
    let message = torch_message(|p| {
        p.tensor("FloatStorage", "0", 5, &[5], &[1]);
    });
    assert!(
        message.contains("should hold 5 elements of F32 but has 16 bytes"),
        "{message}"
    );
}

#[test]
fn tensor_larger_than_its_storage() {
    let message = torch_message(|p| {
        p.tensor("FloatStorage", "0", 4, &[3, 2], &[2, 1]);
    });
    assert!(message.contains("does not fit the 16 bytes"), "{message}");
}

#[test]
fn tensor_whose_size_overflows() {
    let huge = [1 << 31, 1 << 31, 1 << 31].map(|n: usize| n - 1);
    let message = torch_message(|p| {
        p.tensor("FloatStorage", "0", 4, &huge, &strides(&[2, 2, 2]));
    });
    assert!(message.contains("'t': "), "{message}");
}

#[test]
fn view_is_refused_with_the_next_step() {
    let message = torch_message(|p| {
        p.tensor("FloatStorage", "0", 4, &[2, 2], &[1, 2]);
    });
    assert!(message.contains(".contiguous()"), "{message}");
}

#[test]
fn missing_and_surplus_tensors_are_named() {
    let mut tensors = tiny_tensors();
    tensors.remove(2);
    tensors.push(Tensor::counting("transformer.h.0.adapter.weight", &[2, 2]));
    let message = message(&[("model.safetensors", safetensors(&tensors))]);
    assert!(
        message.contains("lacks tensors that config.json calls for: transformer.h.0.ln_1.weight"),
        "{message}"
    );
    assert!(
        message.contains("does not: transformer.h.0.adapter.weight"),
        "{message}"
    );
}

#[test]
fn tensor_of_another_shape_is_named_with_both_shapes() {
    let mut tensors = tiny_tensors();
    tensors[0] = Tensor::counting("transformer.wte.weight", &[9, 8]);
    let message = message(&[("model.safetensors", safetensors(&tensors))]);
    assert!(
        message.contains("'transformer.wte.weight': has shape [9, 8], expected [10, 8]"),
        "{message}"
    );
}

#[test]
fn tensor_of_another_type_is_named() {
    let mut tensors = tiny_tensors();
    tensors[3].dtype = "I32";
    let message = message(&[("model.safetensors", safetensors(&tensors))]);
    assert!(
        message.contains("'transformer.h.0.ln_1.bias': has elements of type I32"),
        "{message}"
    );
}

#[test]
fn missing_prefix_and_buffers_are_accepted() {
    let mut tensors = tiny_tensors();
    for t in &mut tensors {
        t.name = t.name.replace("transformer.", "");
    }
    tensors.push(Tensor {
        name: "h.0.attn.bias".to_string(),
        dtype: "U8",
        shape: vec![1, 1, 4, 4],
        bytes: vec![1; 16],
    });
    tensors.push(Tensor::f32("h.0.attn.masked_bias", &[], &[-1e4]));
    let dir = folder(TINY_CONFIG, &[("pytorch_model.bin", torch(&tensors))]);
    let model = open(dir.path()).expect("a model");
    assert_eq!(model.outputs.len(), tiny_tensors().len());
}

#[test]
fn options_that_change_the_arithmetic_are_refused_by_name() {
    for (option, value) in [
        ("scale_attn_by_inverse_layer_idx", "true"),
        ("scale_attn_weights", "false"),
        ("add_cross_attention", "true"),
        ("activation_function", "\"quick_gelu\""),
        ("quantization_config", "{\"bits\": 4}"),
    ] {
        let config = TINY_CONFIG.replacen('{', &format!("{{\"{option}\": {value},"), 1);
        let config = if option == "activation_function" {
            config.replace(", \"activation_function\": \"gelu_new\"", "")
        } else {
            config
        };
        let message = message_with(
            &config,
            &[("model.safetensors", safetensors(&tiny_tensors()))],
        );
        assert!(message.contains(&format!("'{option}'")), "{message}");
    }
}

#[test]
fn sizes_that_make_no_sense_are_refused_by_key() {
    for (from, to, expected) in [
        (
            "\"n_head\": 2",
            "\"n_head\": 3",
            "'n_head' is 3, expected a divisor",
        ),
        ("\"n_head\": 2", "\"n_head\": 0", "'n_head' is 0"),
        ("\"n_layer\": 1", "\"n_layer\": -1", "'n_layer' is -1"),
        ("\"n_embd\": 8", "\"n_embd\": 1e18", "'n_embd' is 1e+18"),
        ("\"n_embd\": 8", "\"n_embd\": \"8\"", "'n_embd' is \"8\""),
        ("\"vocab_size\": 10, ", "", "'vocab_size' is absent"),
        (
            "\"n_layer\": 1",
            "\"n_layer\": 1048576",
            "'n_layer' is 1048576, expected at most 4096",
        ),
    ] {
        let config = TINY_CONFIG.replace(from, to);
        let message = message_with(
            &config,
            &[("model.safetensors", safetensors(&tiny_tensors()))],
        );
        assert!(message.contains(expected), "{message}");
    }
}
