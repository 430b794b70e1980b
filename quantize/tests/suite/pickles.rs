//! Pickles: what torch.save writes is read, everything else is refused by name, nothing panics.

use katari_quantize::checkpoint::Dtype;
use katari_quantize::checkpoint::pickle::parse_state_dict;
use proptest::prelude::*;

use crate::support::{Pickle, Tensor, state_dict, strides, tiny_tensors};

fn message(pickle: &[u8]) -> String {
    parse_state_dict(pickle).expect_err("a refusal").to_string()
}

#[test]
fn state_dict_with_metadata_is_read_in_order() {
    let tensors = tiny_tensors();
    let state = parse_state_dict(&state_dict(&tensors)).expect("a state dict");
    assert_eq!(state.len(), tensors.len());
    for (i, ((name, found), expected)) in state.iter().zip(&tensors).enumerate() {
        assert_eq!(name, &expected.name);
        assert_eq!(found.storage.key, i.to_string());
        assert_eq!(found.storage.dtype(), Dtype::F32);
        let shape: Vec<u64> = expected.shape.iter().map(|&d| d as u64).collect();
        assert_eq!(found.shape, shape);
        assert!(found.is_contiguous());
    }
}

#[test]
fn os_system_is_refused_by_name() {
    let mut pickle = Pickle::default();
    pickle
        .op(b"\x80\x02")
        .global("os", "system")
        .text("true")
        .op(b"\x85R.");
    assert!(
        message(&pickle.0).contains("os.system"),
        "{}",
        message(&pickle.0)
    );
}

#[test]
fn builtins_eval_after_a_whole_state_dict_is_refused() {
    let mut bytes = state_dict(&tiny_tensors());
    bytes.pop();
    let mut pickle = Pickle(bytes);
    pickle.global("builtins", "eval").text("1").op(b"\x85R0.");
    assert!(message(&pickle.0).contains("builtins.eval"));
}

#[test]
fn other_names_of_torch_are_refused() {
    for (module, name) in [
        ("torch._utils", "_rebuild_parameter"),
        ("torch.storage", "_load_from_bytes"),
        ("torch", "load"),
        ("torch", "HalfStorage.__class__"),
        ("collections", "defaultdict"),
        ("torch HalfStorage", "x"),
    ] {
        let mut pickle = Pickle::default();
        pickle.op(b"\x80\x02").global(module, name).op(b".");
        let message = message(&pickle.0);
        assert!(message.contains(&format!("{module}.{name}")), "{message}");
    }
}

#[test]
fn each_forbidden_opcode_is_refused() {
    let allowed = b"\x80.(NJKM\x8aXt)\x85\x86\x87}suqrhjcQRb\x88\x89";
    for opcode in 0..=255u8 {
        if allowed.contains(&opcode) {
            continue;
        }
        let message = message(&[0x80, 2, opcode]);
        assert!(
            message.contains("forbidden opcode"),
            "{opcode:#x}: {message}"
        );
    }
    assert!(message(b"\x80\x02(i").contains("INST"));
    assert!(message(b"\x80\x02\x93").contains("STACK_GLOBAL"));
}

#[test]
fn newer_protocol_is_refused() {
    assert!(message(b"\x80\x04}.").contains("protocol 4"));
}

#[test]
fn storage_type_cannot_be_called() {
    let mut pickle = Pickle::default();
    pickle
        .op(b"\x80\x02")
        .global("torch", "HalfStorage")
        .op(b")R.");
    assert!(message(&pickle.0).contains("not allowed"));
}

#[test]
fn state_of_a_tensor_cannot_be_set() {
    let mut pickle = Pickle::default();
    pickle
        .op(b"\x80\x02")
        .tensor("FloatStorage", "0", 1, &[1], &[1])
        .op(b"}b.");
    assert!(message(&pickle.0).contains("sets the state of a tensor"));
}

#[test]
fn memo_slot_that_is_not_set_is_an_error() {
    assert!(message(b"\x80\x02h\x07.").contains("memo slot 7"));
}

#[test]
fn cut_anywhere_it_is_an_error() {
    let whole = state_dict(&tiny_tensors()[..3]);
    for end in 0..whole.len() {
        assert!(parse_state_dict(&whole[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn string_longer_than_the_file_is_an_error() {
    assert!(message(b"\x80\x02X\xff\xff\xff\xff..").contains("truncated"));
}

#[test]
fn deep_nesting_needs_no_stack() {
    let mut pickle = Pickle::default();
    pickle.op(b"\x80\x02)");
    for _ in 0..1_000_000 {
        pickle.op(b"\x85");
    }
    pickle.op(b".");
    assert!(message(&pickle.0).contains("a tuple, expected a dict"));
}

#[test]
fn dict_within_itself_is_no_loop() {
    let mut pickle = Pickle::default();
    pickle.op(b"\x80\x02}q\x00").text("self").op(b"h\x00s.");
    assert!(message(&pickle.0).contains("'self' holds a dict"));
}

#[test]
fn nested_checkpoint_is_refused_by_key() {
    let mut pickle = Pickle::default();
    pickle.op(b"\x80\x02}").text("epoch").int(3).op(b"s.");
    assert!(message(&pickle.0).contains("'epoch' holds an integer"));
}

#[test]
fn negative_and_enormous_numbers_are_refused_or_kept_whole() {
    let mut negative = Pickle::default();
    negative
        .op(b"\x80\x02}")
        .text("t")
        .global("torch._utils", "_rebuild_tensor_v2")
        .op(b"((")
        .text("storage")
        .global("torch", "FloatStorage")
        .text("0")
        .text("cpu")
        .int(-1)
        .op(b"tQ.");
    assert!(message(&negative.0).contains("found -1"));
    assert!(message(b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x01.").contains("integer of 9 bytes"));
}

#[test]
fn view_is_told_from_a_contiguous_tensor() {
    let stride_of = |shape: &[usize], stride: &[usize]| {
        let mut pickle = Pickle::default();
        pickle
            .op(b"\x80\x02}")
            .text("t")
            .tensor("FloatStorage", "0", 6, shape, stride)
            .op(b"s.");
        parse_state_dict(&pickle.0).expect("a tensor")[0]
            .1
            .is_contiguous()
    };
    assert!(stride_of(&[2, 3], &[3, 1]));
    assert!(!stride_of(&[2, 3], &[1, 2]));
    assert!(!stride_of(&[2, 3], &[0, 1]));
    assert!(stride_of(&[1, 3], &[99, 1]));
    assert!(!stride_of(&[2, 3], &[1]));
    assert!(stride_of(&[], &[]));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_state_dict(&bytes);
    }

    /// Bytes that are mostly allowed opcodes reach deeper than random ones.
    #[test]
    fn random_opcodes_never_panic(
        opcodes in proptest::collection::vec(
            prop_oneof![
                4 => proptest::sample::select(&b"(NtK\x85\x86\x87)}subQRqh\x88.\x8a"[..]),
                1 => 0u8..4,
            ],
            0..200,
        )
    ) {
        let mut bytes = vec![0x80, 2];
        bytes.extend(opcodes);
        let _ = parse_state_dict(&bytes);
    }

    #[test]
    fn flipped_bytes_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = state_dict(&tiny_tensors());
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = parse_state_dict(&bytes);
    }

    #[test]
    fn any_state_dict_is_read_back(
        shapes in proptest::collection::vec(proptest::collection::vec(0usize..5, 0..4), 0..8)
    ) {
        let tensors: Vec<Tensor> = shapes
            .iter()
            .enumerate()
            .map(|(i, shape)| Tensor::counting(&format!("t{i}"), shape))
            .collect();
        let state = parse_state_dict(&state_dict(&tensors)).map_err(|e| TestCaseError::fail(e.to_string()))?;
        for ((name, found), expected) in state.iter().zip(&tensors) {
            prop_assert_eq!(name, &expected.name);
            let stride: Vec<u64> = strides(&expected.shape).iter().map(|&s| s as u64).collect();
            prop_assert_eq!(&found.stride, &stride);
        }
        prop_assert_eq!(state.len(), tensors.len());
    }
}
