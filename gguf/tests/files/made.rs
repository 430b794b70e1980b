//! Files to test with: one with everything in it, and bytes put together by hand.

use katari_gguf::{Array, Format, Gguf, Metadata, TensorSpec, Writer, keys};

use crate::support;

/// A file being put together by hand, as no writer would.
#[derive(Default, Clone)]
pub struct Raw {
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

impl Raw {
    pub fn entry(mut self, key: impl AsRef<[u8]>, id: u32, value: &[u8]) -> Self {
        let entry = [&string(key), &id.to_le_bytes()[..], value].concat();
        self.entries.push(entry);
        self
    }

    /// An array that claims `len` elements of type `id`.
    pub fn array(self, key: &str, id: u32, len: u64, elements: &[u8]) -> Self {
        let value = [&id.to_le_bytes()[..], &len.to_le_bytes(), elements].concat();
        self.entry(key, 9, &value)
    }

    pub fn tensor(mut self, name: impl AsRef<[u8]>, dims: &[u64], id: u32, offset: u64) -> Self {
        let mut info = string(name);
        info.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| info.extend(dim.to_le_bytes()));
        info.extend(id.to_le_bytes());
        info.extend(offset.to_le_bytes());
        self.tensors.push(info);
        self
    }

    pub fn data(mut self, bytes: usize) -> Self {
        self.data = vec![7; bytes];
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
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
    pub fn refused(&self, words: &[&str]) {
        refused(&self.bytes(), words);
    }
}

#[track_caller]
pub fn refused(bytes: &[u8], words: &[&str]) {
    let error = Gguf::parse(bytes).map(|file| file.metadata);
    let error = error.expect_err("a refusal").to_string();
    for word in words {
        assert!(error.contains(word), "'{word}' is missing in: {error}");
    }
}

pub const F32: u32 = 0;
pub const U32: u32 = 4;
pub const Q4_0: u32 = 2;

/// A small file with everything in it.
pub fn sample() -> (Metadata, Vec<TensorSpec>, Vec<Vec<u8>>) {
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

pub fn nested() -> Array {
    Array::Nested(vec![
        Array::U8(vec![1, 2]),
        Array::Nested(vec![Array::String(vec!["x".into()]), Array::Bool(vec![])]),
    ])
}

pub fn write(metadata: &Metadata, tensors: &[TensorSpec], data: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), metadata, tensors).expect("a header");
    data.iter()
        .for_each(|bytes| writer.write(bytes).expect("room"));
    writer.finish().expect("complete")
}

pub fn sample_file() -> Vec<u8> {
    let (metadata, tensors, data) = sample();
    write(&metadata, &tensors, &data)
}
