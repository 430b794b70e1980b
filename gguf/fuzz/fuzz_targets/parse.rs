//! Whatever the bytes, parsing returns; and what parses can be read and written again.
#![no_main]

use katari_gguf::{Gguf, TensorSpec, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes) else {
        return;
    };
    let specs: Vec<_> = file.tensors.iter().map(TensorSpec::from).collect();
    let mut writer = Writer::new(Vec::new(), &file.metadata, &specs).expect("what was read");
    for tensor in &file.tensors {
        writer.write(file.data(bytes, tensor)).expect("as declared");
    }
    let written = writer.finish().expect("complete");
    let again = Gguf::parse(&written).expect("what was written");
    assert_eq!(again.tensors.len(), file.tensors.len());
});
