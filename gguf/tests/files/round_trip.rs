//! What is written is read back.

use katari_gguf::{Error, Format, Gguf, Metadata, TensorSpec, Value, file_bytes, keys};

use crate::made::*;

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
