//! safetensors headers: its library's guards hold here too, and nothing panics.

use katari_quantize::checkpoint::safetensors::{HeaderTensor, parse_header};
use proptest::prelude::*;

use crate::support::{safetensors, tiny_tensors};

fn message(header: &str, data: u64) -> String {
    let fault = parse_header(header.as_bytes(), data).expect_err("a refusal");
    format!("{}: {}", fault.tensor.unwrap_or_default(), fault.message)
}

/// Header of a file and how many bytes of data follow it.
fn split(file: &[u8]) -> (&[u8], u64) {
    let n = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
    (&file[8..8 + n], (file.len() - 8 - n) as u64)
}

#[test]
fn header_of_a_good_file_is_read() {
    let file = safetensors(&tiny_tensors());
    let (header, data) = split(&file);
    let tensors = parse_header(header, data).expect("a header");
    assert_eq!(tensors.len(), tiny_tensors().len());
    let HeaderTensor {
        shape, start, end, ..
    } = &tensors[0];
    assert_eq!((shape.as_slice(), *start, *end), (&[10, 8][..], 0, 320));
}

#[test]
fn offsets_outside_the_data_are_refused() {
    let text = r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(message(text, 4).contains("t: its bytes 0..8 lie outside"));
}

#[test]
fn offsets_backwards_are_refused() {
    let text = r#"{"t":{"dtype":"F32","shape":[0],"data_offsets":[8,0]}}"#;
    assert!(message(text, 8).contains("8..0"));
}

#[test]
fn overlapping_tensors_are_refused() {
    let text = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                   "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    assert!(message(text, 12).contains("b: begins at byte 4"));
}

#[test]
fn hole_between_tensors_is_refused() {
    let text = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                   "b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;
    assert!(message(text, 6).contains("b: begins at byte 4 of the data, expected 2"));
}

#[test]
fn data_after_the_last_tensor_is_refused() {
    let text = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    assert!(message(text, 3).contains("end at byte 2"));
}

#[test]
fn shape_that_does_not_fill_its_bytes_is_refused() {
    let text = r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,8]}}"#;
    assert!(message(text, 8).contains("a: its shape [3] of F16 does not fill its 8 bytes"));
}

#[test]
fn shape_whose_product_overflows_is_refused() {
    let text = r#"{"a":{"dtype":"F16","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}"#;
    assert!(message(text, 0).contains("overflows"));
    // The product fits 64 bits, the bytes do not.
    let text = r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#;
    assert!(message(text, 0).contains("does not fill"));
}

#[test]
fn name_twice_is_refused() {
    let text = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},
                   "a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    assert!(message(text, 2).contains("a: is in the header twice"));
}

#[test]
fn negative_and_fractional_numbers_are_refused() {
    for shape in ["-1", "1.5", "1e99", "\"2\""] {
        let text = format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,2]}}}}"#);
        assert!(message(&text, 2).contains("damaged"), "{shape}");
    }
}

#[test]
fn deep_nesting_in_metadata_is_refused() {
    let text = format!(r#"{{"__metadata__":{}}}"#, "[".repeat(100_000));
    assert!(message(&text, 0).contains("damaged"));
}

/// Whether the safetensors library itself reads a file of this header.
fn library_reads(header: &[u8], data: u64) -> bool {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + data as usize, 0);
    safetensors::SafeTensors::deserialize(&file).is_ok()
}

proptest! {
    #[test]
    fn random_text_never_panics(header in proptest::collection::vec(any::<u8>(), 0..300), data in any::<u64>()) {
        let _ = parse_header(&header, data);
    }

    /// What is accepted here, the library accepts: its guards are a floor.
    #[test]
    fn whatever_is_read_the_library_reads_too(
        spans in proptest::collection::vec((0u64..6, 0u64..4, proptest::sample::select(vec!["U8", "F16", "F32", "BOOL"]), 0u64..5), 0..4),
        data in 0u64..16,
    ) {
        let entries: Vec<String> = spans.iter().enumerate().map(|(i, (start, n, dtype, shape))| {
            format!(r#""t{i}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{start},{}]}}"#, start + n)
        }).collect();
        let header = format!("{{{}}}", entries.join(","));
        if parse_header(header.as_bytes(), data).is_ok() {
            prop_assert!(library_reads(header.as_bytes(), data), "{header} with {data}");
        }
    }

    #[test]
    fn flipped_header_is_refused_or_read_by_the_library_too(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let file = safetensors(&tiny_tensors());
        let (header, data) = split(&file);
        let mut header = header.to_vec();
        let at = at.index(header.len());
        header[at] = value;
        if let Ok(tensors) = parse_header(&header, data) {
            // Types that the library does not know are of no use here and are kept by name.
            let all_known = tensors.iter().all(|t| t.dtype.bytes().is_some());
            prop_assert!(!all_known || library_reads(&header, data));
        }
    }
}
