//! Whole files: what is written is read back, and no bytes do harm.

mod support;

use katari_gguf::{
    Array, Error, Format, Gguf, Metadata, TensorSpec, Value, Writer, file_bytes, keys,
};
use proptest::prelude::*;

/// A file being put together by hand, as no writer would.
#[derive(Default, Clone)]
struct Raw {
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

impl Raw {
    fn entry(mut self, key: impl AsRef<[u8]>, id: u32, value: &[u8]) -> Self {
        let entry = [&string(key), &id.to_le_bytes()[..], value].concat();
        self.entries.push(entry);
        self
    }

    /// An array that claims `len` elements of type `id`.
    fn array(self, key: &str, id: u32, len: u64, elements: &[u8]) -> Self {
        let value = [&id.to_le_bytes()[..], &len.to_le_bytes(), elements].concat();
        self.entry(key, 9, &value)
    }

    fn tensor(mut self, name: impl AsRef<[u8]>, dims: &[u64], id: u32, offset: u64) -> Self {
        let mut info = string(name);
        info.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| info.extend(dim.to_le_bytes()));
        info.extend(id.to_le_bytes());
        info.extend(offset.to_le_bytes());
        self.tensors.push(info);
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = vec![7; bytes];
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let (n, m) = (self.tensors.len() as u64, self.entries.len() as u64);
        let mut out = [&b"GGUF\x03\0\0\0"[..], &n.to_le_bytes(), &m.to_le_bytes()].concat();
        out.extend(self.entries.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    /// The error that reading gives; it must say all of `words`.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        refused(&self.bytes(), words);
    }
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let error = Gguf::parse(bytes).map(|file| file.metadata);
    let error = error.expect_err("a refusal").to_string();
    for word in words {
        assert!(error.contains(word), "'{word}' is missing in: {error}");
    }
}

const F32: u32 = 0;
const U32: u32 = 4;
const Q4_0: u32 = 2;

/// A small file with everything in it.
fn sample() -> (Metadata, Vec<TensorSpec>, Vec<Vec<u8>>) {
    let mut metadata = Metadata::new();
    metadata.set(keys::general::ARCHITECTURE, "gptneox");
    metadata.set(keys::arch::block_count("gptneox"), 2u32);
    metadata.set(keys::arch::layer_norm_epsilon("gptneox"), 1e-5f32);
    metadata.set(keys::tokenizer::TOKENS, vec!["<unk>", "吾輩", "は"]);
    metadata.set(keys::tokenizer::TOKEN_TYPE, vec![2, 1, 1]);
    metadata.set(keys::tokenizer::SCORES, vec![0.0f32, -1.5, -2.0]);
    metadata.set(keys::tokenizer::ADD_BOS, true);
    metadata.set(keys::tokenizer::PRECOMPILED_CHARSMAP, vec![1u8, 2, 3]);
    metadata.set("katari.test.nested", nested());
    let (mut tensors, mut data) = (Vec::new(), Vec::new());
    for (i, &format) in Format::ALL.iter().enumerate() {
        let spec = TensorSpec {
            name: keys::tensor::weight(&keys::tensor::block(i, keys::tensor::FFN_UP)),
            dims: vec![256, 1 + i as u64 % 3],
            format,
        };
        data.push(support::bytes(
            i as u64,
            spec.bytes().expect("a size") as usize,
        ));
        tensors.push(spec);
    }
    (metadata, tensors, data)
}

fn nested() -> Array {
    Array::Nested(vec![
        Array::U8(vec![1, 2]),
        Array::Nested(vec![Array::String(vec!["x".into()]), Array::Bool(vec![])]),
    ])
}

fn write(metadata: &Metadata, tensors: &[TensorSpec], data: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), metadata, tensors).expect("a header");
    data.iter()
        .for_each(|bytes| writer.write(bytes).expect("room"));
    writer.finish().expect("complete")
}

fn sample_file() -> Vec<u8> {
    let (metadata, tensors, data) = sample();
    write(&metadata, &tensors, &data)
}

#[test]
fn what_is_written_is_read_back_and_written_the_same() {
    let (metadata, tensors, data) = sample();
    let bytes = write(&metadata, &tensors, &data);
    assert_eq!(
        bytes.len() as u64,
        file_bytes(&metadata, &tensors).expect("a size")
    );
    let file = Gguf::parse(&bytes).expect("a file");
    assert_eq!((file.version, file.alignment), (3, 32));
    assert_eq!(file.metadata, metadata);
    for (spec, data) in tensors.iter().zip(&data) {
        let info = file.tensor(&spec.name).expect("the tensor");
        assert_eq!(&TensorSpec::from(info), spec);
        assert_eq!(file.data(&bytes, info), data);
        assert_eq!((file.data_start() + info.offset) % 32, 0);
        assert_eq!((info.cols(), info.rows()), (spec.dims[0], spec.dims[1]));
    }
    let specs: Vec<_> = file.tensors.iter().map(TensorSpec::from).collect();
    assert_eq!(write(&file.metadata, &specs, &data), bytes);
}

#[test]
fn bytes_may_come_in_any_pieces() {
    let (metadata, tensors, data) = sample();
    let whole = write(&metadata, &tensors, &data);
    for size in [1, 7, 100, 1 << 20] {
        let pieces = data.concat();
        let pieces: Vec<_> = pieces.chunks(size).map(<[u8]>::to_vec).collect();
        assert!(
            write(&metadata, &tensors, &pieces) == whole,
            "pieces of {size}"
        );
    }
}

#[test]
fn the_layout_is_that_of_the_specification() {
    let mut metadata = Metadata::new();
    metadata.set("a", 5u32);
    let spec = TensorSpec {
        name: "t".into(),
        dims: vec![2],
        format: Format::F32,
    };
    let bytes = write(&metadata, &[spec], &[vec![9; 8]]);
    let mut expected = b"GGUF\x03\0\0\0".to_vec();
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]); // tensors
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0]); // metadata entries
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b'a', 4, 0, 0, 0, 5, 0, 0, 0]);
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, b't', 1, 0, 0, 0]);
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0]); // its one dimension
    expected.extend([0; 4]); // its type
    expected.extend([0; 8]); // its offset
    expected.resize(expected.len().next_multiple_of(32), 0);
    expected.extend([9; 8]);
    expected.extend([0; 24]);
    assert_eq!(bytes, expected);
}

#[test]
fn version_2_is_read() {
    let mut bytes = sample_file();
    bytes[4] = 2;
    assert_eq!(Gguf::parse(&bytes).expect("a file").version, 2);
}

#[test]
fn the_alignment_of_the_metadata_is_kept() {
    let (mut metadata, tensors, data) = sample();
    metadata.set(keys::general::ALIGNMENT, 4096u32);
    let bytes = write(&metadata, &tensors, &data);
    let file = Gguf::parse(&bytes).expect("a file");
    assert_eq!((file.alignment, file.data_start() % 4096), (4096, 0));
    for (info, data) in file.tensors.iter().zip(&data) {
        assert_eq!(
            (info.offset % 4096, file.data(&bytes, info)),
            (0, &data[..])
        );
    }
}

// Values of other types than asked for.

#[test]
fn a_value_is_given_only_as_what_it_is() {
    let (mut m, ..) = sample();
    m.set("minus", -1i32);
    m.set("wide", u64::from(u32::MAX) + 1);
    m.set("small", Value::U8(3));
    m.set("double", 0.5f64);
    assert_eq!(m.need::<u32>("small").expect("fits"), 3);
    assert_eq!(m.need::<f32>("double").expect("fits"), 0.5);
    assert_eq!(m.need::<usize>("wide").expect("fits"), 1 << 32);
    assert_eq!(m.opt::<u32>("absent").expect("no error"), None);
    let tokens = m
        .need::<&[String]>(keys::tokenizer::TOKENS)
        .expect("strings");
    assert_eq!(tokens[1], "吾輩");

    let error = |e: Error, words: &[&str]| {
        let e = e.to_string();
        words
            .iter()
            .for_each(|w| assert!(e.contains(w), "'{w}' is missing in: {e}"));
    };
    error(
        m.need::<u32>("minus").expect_err("out of range"),
        &["'minus'", "-1", "a u32"],
    );
    error(
        m.need::<u32>("wide").expect_err("out of range"),
        &["'wide'", "4294967296"],
    );
    error(
        m.need::<u32>("double").expect_err("a float"),
        &["'double'", "f64", "a u32"],
    );
    error(
        m.need::<&str>("absent").expect_err("absent"),
        &["no key 'absent'", "a string"],
    );
    // A tokenizer array of the wrong element type is not read as another.
    let scores = m
        .need::<&[f32]>(keys::tokenizer::TOKEN_TYPE)
        .expect_err("integers");
    error(
        scores,
        &[
            keys::tokenizer::TOKEN_TYPE,
            "an array of i32",
            "an array of f32",
        ],
    );
    let tokens = m
        .need::<&[i32]>(keys::tokenizer::TOKENS)
        .expect_err("strings");
    error(tokens, &["an array of strings"]);
}

// Headers that lie.

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

// What the writer refuses.

#[test]
fn what_cannot_be_written() {
    fn spec(name: &str, dims: &[u64], format: Format) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            dims: dims.into(),
            format,
        }
    }
    #[track_caller]
    fn refused<T>(result: Result<T, Error>, words: &[&str]) {
        let error = result.map(|_| ()).expect_err("a refusal").to_string();
        words
            .iter()
            .for_each(|w| assert!(error.contains(w), "'{w}' is missing in: {error}"));
    }
    let none = Metadata::new();
    let new = |m: &Metadata, t: &[TensorSpec]| Writer::new(Vec::new(), m, t).map(|_| ());
    let t = spec("t", &[32], Format::F32);
    refused(new(&none, &[t.clone(), t.clone()]), &["'t'", "twice"]);
    refused(
        new(&none, &[spec("t", &[33], Format::Q8_0)]),
        &["'t'", "33", "q8_0"],
    );
    refused(
        new(&none, &[spec(&"n".repeat(65), &[1], Format::F32)]),
        &["65 bytes"],
    );
    refused(
        new(&none, &[spec("t", &[1 << 40, 1 << 40], Format::F32)]),
        &["64 bits"],
    );
    let halves = [
        spec("t", &[1 << 61], Format::F32),
        spec("u", &[1 << 61], Format::F32),
    ];
    refused(new(&none, &halves), &["64 bits"]);
    let mut metadata = Metadata::new();
    metadata.set(keys::general::ALIGNMENT, 48u32);
    refused(new(&metadata, &[]), &["general.alignment", "48"]);
    let mut metadata = Metadata::new();
    metadata.set("", 1u32);
    refused(new(&metadata, &[]), &["key", "0 bytes"]);

    let mut writer = Writer::new(Vec::new(), &none, std::slice::from_ref(&t)).expect("a header");
    refused(writer.write(&[0; 129]), &["1 bytes beyond"]);
    let mut writer = Writer::new(Vec::new(), &none, &[t]).expect("a header");
    writer.write(&[0; 127]).expect("room");
    refused(writer.finish(), &["'t'", "127", "128"]);
}

#[test]
fn a_full_disk_is_reported_as_such() {
    /// Takes so many bytes and then no more; holds back up to `buffer` until it is flushed.
    struct Full {
        room: usize,
        held: usize,
        buffer: usize,
    }
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.held += bytes.len();
            if self.held > self.buffer {
                self.flush()?
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            let held = std::mem::take(&mut self.held);
            self.room = self
                .room
                .checked_sub(held)
                .ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(())
        }
    }
    let (metadata, tensors, data) = sample();
    let size = file_bytes(&metadata, &tensors).expect("a size") as usize;
    let rooms = [0, 10, size / 2, size - 1, size];
    for (room, buffer) in rooms.into_iter().flat_map(|room| [(room, 0), (room, size)]) {
        let held = 0;
        let out = Full { room, held, buffer };
        let result = Writer::new(out, &metadata, &tensors).and_then(|mut writer| {
            data.iter().try_for_each(|bytes| writer.write(bytes))?;
            writer.finish().map(|_| ())
        });
        match result {
            Ok(()) => assert_eq!(room, size),
            Err(Error::Io(e)) => assert_eq!(e.kind(), std::io::ErrorKind::StorageFull),
            Err(e) => panic!("{e}"),
        }
    }
}

// Anything at all.

/// Parses `bytes` and, where that goes well, touches everything there is.
fn touch(bytes: &[u8]) {
    if let Ok(file) = Gguf::parse(bytes) {
        for tensor in &file.tensors {
            assert_eq!(file.data(bytes, tensor).len() as u64, tensor.bytes);
        }
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<u16>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1e9f32..1e9).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9f64..1e9).prop_map(Value::from),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    use proptest::collection::vec;
    let flat = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(-1e9f32..1e9, 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(".{0,12}", 0..9).prop_map(Array::String),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
    ];
    flat.prop_recursive(3, 20, 4, |inner| vec(inner, 0..4).prop_map(Array::Nested))
}

fn file() -> impl Strategy<Value = (Metadata, Vec<TensorSpec>)> {
    use proptest::collection::{btree_map, vec};
    let value = prop_oneof![scalar(), array().prop_map(Value::from)];
    let metadata = btree_map("[a-z][a-z0-9_.]{0,20}", value, 0..8);
    let tensor = (0..Format::ALL.len(), 1..3u64, vec(1..4u64, 0..3)).prop_map(|(f, cols, rest)| {
        let format = Format::ALL[f];
        let mut dims = vec![cols * format.block_len() as u64];
        dims.extend(rest);
        (dims, format)
    });
    let tensors = btree_map("[a-z][a-z0-9_.]{0,20}", tensor, 0..6);
    (metadata, tensors).prop_map(|(metadata, tensors)| {
        let spec = |(name, (dims, format))| TensorSpec { name, dims, format };
        (
            metadata.into_iter().collect(),
            tensors.into_iter().map(spec).collect(),
        )
    })
}

fn write_random(metadata: &Metadata, specs: &[TensorSpec], seed: u64) -> Vec<u8> {
    let bytes = |spec: &TensorSpec| spec.bytes().expect("a size") as usize;
    let data: Vec<_> = specs
        .iter()
        .map(|s| support::bytes(seed, bytes(s)))
        .collect();
    write(metadata, specs, &data)
}

proptest! {
    #[test]
    fn any_file_written_is_read_back_and_written_the_same(
        (metadata, specs) in file(), seed in any::<u64>()
    ) {
        let bytes = write_random(&metadata, &specs, seed);
        prop_assert_eq!(bytes.len() as u64, file_bytes(&metadata, &specs).expect("a size"));
        let parsed = Gguf::parse(&bytes).expect("a file");
        prop_assert_eq!(&parsed.metadata, &metadata);
        let again: Vec<_> = parsed.tensors.iter().map(TensorSpec::from).collect();
        prop_assert_eq!(&again, &specs);
        let data: Vec<_> = parsed.tensors.iter().map(|t| parsed.data(&bytes, t).to_vec()).collect();
        prop_assert!(write(&parsed.metadata, &again, &data) == bytes);
    }

    #[test]
    fn a_file_with_bytes_changed_never_panics(
        (metadata, specs) in file(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut bytes = write_random(&metadata, &specs, 0);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        touch(&bytes);
    }

    #[test]
    fn a_file_with_a_number_replaced_never_panics(
        (metadata, specs) in file(), at in any::<prop::sample::Index>(),
        number in prop_oneof![
            Just(u64::MAX), Just(1 << 63), Just(1 << 32), Just(u64::MAX / 32), 0..1000u64
        ]
    ) {
        let mut bytes = write_random(&metadata, &specs, 0);
        let at = at.index(bytes.len().saturating_sub(8).max(1));
        bytes.splice(at..(at + 8).min(bytes.len()), number.to_le_bytes());
        touch(&bytes);
    }

    #[test]
    fn a_file_cut_or_lengthened_never_panics(
        (metadata, specs) in file(), at in any::<prop::sample::Index>(),
        with in proptest::collection::vec(any::<u8>(), 0..40), keep in any::<bool>()
    ) {
        let bytes = write_random(&metadata, &specs, 0);
        let (head, tail) = bytes.split_at(at.index(bytes.len()));
        touch(&[head, &with, if keep { tail } else { &[] }].concat());
    }

    #[test]
    fn any_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
        touch(&tail);
        touch(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
    }
}
