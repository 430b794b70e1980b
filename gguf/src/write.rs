//! Writing: version 3, little-endian, the same bytes for the same input.

use std::io::Write;

use crate::read::MAGIC;
use crate::value::{ARRAY_ID, each_element};
use crate::{Array, Error, Format, Metadata, TensorInfo, Value, keys, tensor};

/// The version written.
const VERSION: u32 = 3;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, unique in the file.
    pub name: String,
    /// Sizes, the contiguous dimension first: a matrix `[rows, cols]` has `[cols, rows]`.
    pub dims: Vec<u64>,
    /// How the values lie.
    pub format: Format,
}

impl TensorSpec {
    /// The tensor's bytes.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for a shape that GGUF cannot hold: no dimensions or more than four,
    /// an empty one, rows that are no whole number of blocks, a size beyond 64 bits.
    pub fn bytes(&self) -> Result<u64, Error> {
        tensor::size(&self.name, &self.dims, self.format).map_err(Error::Unwritable)
    }
}

impl From<&TensorInfo> for TensorSpec {
    /// The tensor of a file that was read, to be written again.
    fn from(info: &TensorInfo) -> Self {
        TensorSpec {
            name: info.name.clone(),
            dims: info.dims.clone(),
            format: info.format,
        }
    }
}

/// Writes a file from front to back: the header at once, then each tensor's bytes in order.
///
/// Keys and tensors are written in the order given, tensor data padded with zeros to the
/// alignment (`general.alignment` of the metadata, else 32 bytes).
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    alignment: u64,
    /// Name and size of each tensor.
    tensors: Vec<(String, u64)>,
    /// The tensor whose bytes come next.
    current: usize,
    /// How many of its bytes were written.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header to `out`: all metadata, all tensor infos, and padding to tensor data.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for what a GGUF file cannot hold (see [`TensorSpec::bytes`]; also
    /// names too long or twice, or a wrong alignment); [`Error::Io`] from `out`.
    pub fn new(mut out: W, metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self, Error> {
        let header = Header::new(metadata, tensors)?;
        out.write_all(&header.bytes)?;
        let sizes = tensors.iter().map(|t| t.name.clone()).zip(header.sizes);
        let mut writer = Writer {
            out,
            alignment: header.alignment,
            tensors: sizes.collect(),
            current: 0,
            written: 0,
        };
        writer.pad(header.bytes.len() as u64)?;
        Ok(writer)
    }

    /// Writes the next bytes: of the current tensor and, when it is complete, of those after it.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for more bytes than were declared; [`Error::Io`] from below.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let Some(&(_, size)) = self.tensors.get(self.current) else {
                return Err(Error::Unwritable(format!(
                    "{} bytes beyond the {} tensors declared",
                    bytes.len(),
                    self.tensors.len()
                )));
            };
            let missing = usize::try_from(size - self.written).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(missing.min(bytes.len()));
            self.out.write_all(now)?;
            self.written += now.len() as u64;
            bytes = rest;
            if self.written == size {
                self.pad(size)?;
                self.current += 1;
                self.written = 0;
            }
        }
        Ok(())
    }

    /// Flushes and gives `out` back.
    ///
    /// # Errors
    /// [`Error::Unwritable`] where a tensor is incomplete; [`Error::Io`] from below.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, size)) = self.tensors.get(self.current) {
            return Err(Error::Unwritable(format!(
                "tensor '{name}' has {} bytes, expected {size}",
                self.written
            )));
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Writes zeros from `position` to the next multiple of the alignment.
    fn pad(&mut self, position: u64) -> Result<(), Error> {
        let n = tensor::padding(position, self.alignment);
        std::io::copy(
            &mut std::io::Read::take(std::io::repeat(0), n),
            &mut self.out,
        )?;
        Ok(())
    }
}

/// How long the file will be that [`Writer`] writes, in bytes.
///
/// # Errors
/// [`Error::Unwritable`] as [`Writer::new`].
pub fn file_bytes(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<u64, Error> {
    Header::new(metadata, tensors)?.file_bytes()
}

/// The file that [`Writer`] writes, but for the tensors' bytes: for writing those in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayout {
    /// The file's first bytes: everything before tensor data.
    pub header: Vec<u8>,
    /// Where each tensor begins, from the file's first byte on. What lies between tensors, and
    /// behind the last, is zeros.
    pub offsets: Vec<u64>,
    /// How long the file is.
    pub bytes: u64,
}

impl FileLayout {
    /// The layout of a file with these keys and tensors, in this order.
    ///
    /// # Errors
    /// [`Error::Unwritable`] as [`Writer::new`].
    pub fn new(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Self, Error> {
        let header = Header::new(metadata, tensors)?;
        let bytes = header.file_bytes()?;
        let start = header.data_start();
        let offsets = header.offsets.iter().map(|offset| start + offset).collect();
        let mut header = header.bytes;
        header.resize(usize::try_from(start).unwrap_or(usize::MAX), 0);
        Ok(FileLayout {
            header,
            offsets,
            bytes,
        })
    }
}

/// Everything before the tensor data, without the padding behind it.
struct Header {
    bytes: Vec<u8>,
    alignment: u64,
    /// Bytes of each tensor.
    sizes: Vec<u64>,
    /// Where each begins, from the start of tensor data.
    offsets: Vec<u64>,
    /// Bytes of all tensors, padding included.
    data_bytes: u64,
}

impl Header {
    fn new(metadata: &Metadata, tensors: &[TensorSpec]) -> Result<Header, Error> {
        let alignment = metadata
            .opt::<u64>(keys::general::ALIGNMENT)?
            .map_or(Ok(tensor::DEFAULT_ALIGNMENT), tensor::check_alignment)
            .map_err(Error::Unwritable)?;

        let mut out = Vec::new();
        out.extend(MAGIC);
        VERSION.put(&mut out);
        (tensors.len() as u64).put(&mut out);
        (metadata.len() as u64).put(&mut out);
        for (key, value) in metadata.iter() {
            tensor::check_key(key).map_err(Error::Unwritable)?;
            put_string(key, &mut out);
            put_value(value, &mut out);
        }

        let mut sizes = Vec::with_capacity(tensors.len());
        let mut offsets = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        let mut names = std::collections::HashSet::new();
        for spec in tensors {
            tensor::check_name(&spec.name).map_err(Error::Unwritable)?;
            if !names.insert(&spec.name) {
                let message = format!("tensor '{}' is there twice", spec.name);
                return Err(Error::Unwritable(message));
            }
            let size = spec.bytes()?;
            put_string(&spec.name, &mut out);
            (spec.dims.len() as u32).put(&mut out);
            spec.dims.iter().for_each(|dim| dim.put(&mut out));
            spec.format.id().put(&mut out);
            offset.put(&mut out);
            sizes.push(size);
            offsets.push(offset);
            offset = offset
                .checked_add(size)
                .and_then(|end| end.checked_add(tensor::padding(end, alignment)))
                .ok_or_else(|| Error::Unwritable("the file's size exceeds 64 bits".into()))?;
        }
        Ok(Header {
            bytes: out,
            alignment,
            sizes,
            offsets,
            data_bytes: offset,
        })
    }

    /// Where tensor data begins.
    fn data_start(&self) -> u64 {
        let end = self.bytes.len() as u64;
        end + tensor::padding(end, self.alignment)
    }

    fn file_bytes(&self) -> Result<u64, Error> {
        let end = self.data_start().checked_add(self.data_bytes);
        end.ok_or_else(|| Error::Unwritable("the file's size exceeds 64 bits".into()))
    }
}

/// A type that an array can hold.
trait Element {
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! number_elements {
    ($($rust:ty),*) => {
        $(impl Element for $rust {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        })*
    };
}
number_elements!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Element for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Element for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_string(self, out);
    }
}

fn put_string(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put(out);
    out.extend(text.as_bytes());
}

macro_rules! write_values {
    ($($variant:ident, $rust:ty, $id:literal, $one:literal, $many:literal;)*) => {
        /// Type and value.
        fn put_value(value: &Value, out: &mut Vec<u8>) {
            match value {
                $(Value::$variant(v) => {
                    u32::put(&$id, out);
                    v.put(out);
                })*
                Value::Array(array) => {
                    ARRAY_ID.put(out);
                    put_array(array, out);
                }
            }
        }

        /// Element type, length and elements.
        fn put_array(array: &Array, out: &mut Vec<u8>) {
            match array {
                $(Array::$variant(v) => {
                    u32::put(&$id, out);
                    (v.len() as u64).put(out);
                    v.iter().for_each(|v| v.put(out));
                })*
                Array::Nested(v) => {
                    ARRAY_ID.put(out);
                    (v.len() as u64).put(out);
                    v.iter().for_each(|v| put_array(v, out));
                }
            }
        }
    };
}
each_element!(write_values);
