//! Headers that lie.

use katari_gguf::Gguf;

use crate::made::*;

#[test]
fn a_file_cut_short_anywhere() {
    let bytes = sample_file();
    let file = Gguf::parse(&bytes).expect("a file");
    let needed = file.tensors.iter().map(|t| file.span(t).end).max();
    let needed = needed.expect("tensors") as usize;
    for len in 0..needed {
        assert!(
            Gguf::parse(&bytes[..len]).is_err(),
            "cut at {len} of {needed}"
        );
    }
    // Nothing but padding is missing.
    assert!(Gguf::parse(&bytes[..needed]).is_ok());
    refused(
        &bytes[..needed - 1],
        &["'blk.10.ffn_up.weight'", "cut short"],
    );
    refused(&bytes[..200], &["the file ends within"]);
}

#[test]
fn no_gguf_at_all() {
    refused(b"", &["the file ends within the magic number", "0 found"]);
    refused(b"PK\x03\x04 and so on", &["no GGUF file", r"PK\x03\x04"]);
    refused(b"ggml", &["no GGUF file", "ggml"]);
}

#[test]
fn versions_that_are_not_read() {
    let version = |v: u32| {
        let mut bytes = sample_file();
        bytes[4..8].copy_from_slice(&v.to_le_bytes());
        bytes
    };
    refused(&version(1), &["version 1", "expected 2 or 3"]);
    refused(&version(4), &["version 4", "expected 2 or 3"]);
    refused(&version(0), &["version 0"]);
    refused(&version(3u32.swap_bytes()), &["big-endian", "version 3"]);
}

#[test]
fn counts_beyond_the_file() {
    for claim in [u64::MAX, 1 << 62, 1 << 32, 100] {
        let claimed = claim.to_string();
        let mut bytes = sample_file();
        bytes.truncate(400);
        bytes[8..16].copy_from_slice(&claim.to_le_bytes());
        let refusal = Gguf::parse(&bytes);
        assert!(refusal.is_err());

        let mut bytes = Raw::default().bytes();
        bytes[8..16].copy_from_slice(&claim.to_le_bytes());
        refused(&bytes, &[&claimed, "tensors"]);
        let mut bytes = Raw::default().bytes();
        bytes[16..24].copy_from_slice(&claim.to_le_bytes());
        refused(&bytes, &[&claimed, "metadata entries"]);
    }
}

#[test]
fn lengths_beyond_the_file() {
    for claim in [u64::MAX, u64::MAX / 8 + 1, 1 << 40, 1000] {
        let claimed = claim.to_string();
        for id in [0, 4, 7, 8, 9, 10, 12] {
            let raw = Raw::default().array("a.key", id, claim, &[0; 64]);
            raw.refused(&["'a.key'", &claimed]);
        }
        let long = claim.to_le_bytes();
        Raw::default()
            .entry("a.key", 8, &long)
            .refused(&["'a.key'", &claimed]);
        // A key, and a tensor's name.
        let mut raw = Raw::default();
        raw.entries.push([&long[..], &[0; 64]].concat());
        raw.refused(&["entr", &claimed]);
        let mut raw = Raw::default().tensor("a", &[32], F32, 0).data(128);
        raw.tensors[0][..8].copy_from_slice(&long);
        raw.refused(&["the name of tensor 0", &claimed]);
    }
}

#[test]
fn arrays_nested_without_end() {
    let mut nested = Vec::new();
    for _ in 0..100_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    Raw::default()
        .entry("deep", 9, &nested)
        .refused(&["'deep'", "nests"]);
}

#[test]
fn types_that_are_unknown() {
    Raw::default()
        .entry("a.key", 13, &[0; 8])
        .refused(&["'a.key'", "type 13"]);
    Raw::default()
        .array("a.key", 99, 0, &[])
        .refused(&["'a.key'", "type 99"]);
    Raw::default()
        .entry("a.key", 7, &[2])
        .refused(&["'a.key'", "bool", "2"]);
    let q2_k = Raw::default()
        .tensor("blk.0.ffn_up.weight", &[256], 10, 0)
        .data(84);
    q2_k.refused(&["'blk.0.ffn_up.weight'", "10 (q2_k)", "q4_k"]);
    let unknown = Raw::default().tensor("t", &[256], 1000, 0).data(84);
    unknown.refused(&["'t'", "1000"]);
}

#[test]
fn text_that_is_no_utf8() {
    Raw::default()
        .entry("a.key", 8, &string(b"ab\xff"))
        .refused(&["'a.key'", "UTF-8"]);
    Raw::default()
        .entry(b"\xc3(", U32, &[0; 4])
        .refused(&["metadata entry 0", "UTF-8"]);
    let raw = Raw::default().tensor(b"\x80", &[32], F32, 0).data(128);
    raw.refused(&["tensor 0", "UTF-8"]);
}

#[test]
fn names_that_are_empty_or_too_long() {
    Raw::default()
        .entry("", U32, &[0; 4])
        .refused(&["key", "0 bytes"]);
    Raw::default()
        .entry("k".repeat(65536), U32, &[0; 4])
        .refused(&["key", "65536"]);
    Raw::default()
        .tensor("", &[32], F32, 0)
        .data(128)
        .refused(&["0 bytes"]);
    let long = "n".repeat(65);
    Raw::default()
        .tensor(&long, &[32], F32, 0)
        .data(128)
        .refused(&[&long, "65"]);
}

#[test]
fn an_alignment_of_zero_or_none_of_sense() {
    for alignment in [0u32, 1, 3, 4, 24, 1 << 17, 1 << 31, u32::MAX] {
        let raw = Raw::default().entry("general.alignment", U32, &alignment.to_le_bytes());
        let raw = raw.tensor("t", &[32], F32, 0).data(128);
        raw.refused(&["general.alignment", &alignment.to_string(), "power of two"]);
    }
    let raw = Raw::default().entry("general.alignment", 8, &string("32"));
    raw.refused(&["general.alignment", "a string"]);
    let raw = Raw::default().entry("general.alignment", 5, &(-32i32).to_le_bytes());
    raw.refused(&["general.alignment", "-32"]);
}

#[test]
fn a_key_or_tensor_twice() {
    let raw = Raw::default().entry("a.key", U32, &[0; 4]);
    raw.entry("a.key", U32, &[1; 4])
        .refused(&["'a.key'", "twice"]);
    let raw = Raw::default().tensor("t", &[32], F32, 0).data(256);
    raw.tensor("t", &[32], F32, 128).refused(&["'t'", "twice"]);
}

#[test]
fn tensors_that_overlap() {
    let raw = Raw::default().tensor("first", &[32], F32, 32).data(256);
    raw.clone()
        .tensor("second", &[32], F32, 128)
        .refused(&["'first'", "'second'", "overlap"]);
    raw.clone()
        .tensor("second", &[32], F32, 0)
        .refused(&["'first'", "'second'", "overlap"]);
    raw.tensor("second", &[32], F32, 32)
        .refused(&["'first'", "'second'", "overlap"]);
}

#[test]
fn a_tensor_outside_the_file() {
    let at = |offset| Raw::default().tensor("t", &[32], F32, offset).data(128);
    assert!(Gguf::parse(&at(0).bytes()).is_ok());
    for offset in [32, 128, 1 << 40, u64::MAX - 31, u64::MAX - 127] {
        at(offset).refused(&["'t'", &offset.to_string(), "128"]);
    }
    at(8).refused(&["'t'", "offset 8", "multiple of 32"]);
}

#[test]
fn shapes_whose_size_overflows() {
    let with = |dims: &[u64], id| Raw::default().tensor("t", dims, id, 0).data(128);
    for dims in [
        &[u64::MAX][..],
        &[1 << 62],
        &[1 << 32, 1 << 32],
        &[1 << 32, 1 << 30],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        &[32, u64::MAX],
        // Products that come back to something small.
        &[1 << 32, 1 << 32, 1 << 32, 1],
        &[1 << 63, 2],
    ] {
        with(dims, F32).refused(&["'t'"]);
        with(dims, Q4_0).refused(&["'t'"]);
    }
}

#[test]
fn shapes_that_make_no_tensor() {
    let with = |dims: &[u64], id| Raw::default().tensor("t", dims, id, 0).data(128);
    with(&[], F32).refused(&["'t'", "0 dimensions"]);
    with(&[1, 1, 1, 1, 1], F32).refused(&["'t'", "5 dimensions"]);
    with(&[32, 0], F32).refused(&["'t'", "dimension 1", "0"]);
    with(&[0, 32], F32).refused(&["'t'", "dimension 0", "0"]);
    with(&[33], Q4_0).refused(&["'t'", "33", "multiple of 32", "q4_0"]);
    with(&[16, 2], Q4_0).refused(&["'t'", "16", "multiple of 32"]);
    let mut raw = with(&[32], F32);
    raw.tensors[0][9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    raw.refused(&["'t'", "4294967295 dimensions"]);
}
