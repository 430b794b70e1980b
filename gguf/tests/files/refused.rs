//! What the writer refuses.

use katari_gguf::{Error, Format, Metadata, TensorSpec, Writer, file_bytes, keys};

use crate::made::*;

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
