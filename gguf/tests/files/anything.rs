//! Anything at all: random files and random damage.

use katari_gguf::{Array, Format, Gguf, Metadata, TensorSpec, Value, file_bytes};
use proptest::prelude::*;

use crate::made::*;
use crate::support;

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
