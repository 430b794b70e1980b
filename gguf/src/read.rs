//! Reading: bytes of a file to header, metadata and tensor infos.
//!
//! Nothing the file says is believed: a length, count or offset is held against the bytes there
//! are before it is used, so that no memory is taken that the file does not pay for, and no
//! tensor lies outside the file or on another.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;

use crate::value::{ARRAY_ID, each_element};
use crate::{Array, Error, Format, Metadata, Value, keys, tensor};

/// The first four bytes of a file.
pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

/// How deep arrays may lie in arrays. No known key nests at all.
const MAX_NESTING: u32 = 4;

/// A parsed header. It holds no reference to the bytes, which are often a mapped file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The version of the file's format: 2 or 3, which differ in nothing read here.
    pub version: u32,
    /// The metadata, in file order.
    pub metadata: Metadata,
    /// The tensors, in file order.
    pub tensors: Vec<TensorInfo>,
    /// What tensor offsets are multiples of, in bytes.
    pub alignment: u64,
    data_start: u64,
    index: HashMap<String, usize>,
}

/// Where a tensor is and what shape it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the file.
    pub name: String,
    /// Sizes, the contiguous dimension first: a matrix `[rows, cols]` has `[cols, rows]`.
    pub dims: Vec<u64>,
    /// How the values lie.
    pub format: Format,
    /// First byte, counted from the start of tensor data.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of values. (Their product was checked when the file was parsed.)
    pub fn n_values(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Values in a row, the contiguous dimension; 1 where there are no dimensions.
    pub fn cols(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// The number of rows, all other dimensions together.
    pub fn rows(&self) -> u64 {
        self.dims.iter().skip(1).product()
    }
}

impl Gguf {
    /// Parses a file's header and checks that every tensor lies within `bytes`.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything that is not a whole GGUF file of version 2 or 3 in
    /// little-endian order, with formats of [`Format`]; [`Error::WrongType`] for an alignment
    /// that is no integer.
    pub fn parse(bytes: &[u8]) -> Result<Gguf, Error> {
        let mut cursor = Cursor { bytes, position: 0 };
        let version = cursor.version()?;
        let n_tensors = cursor.u64("the number of tensors")?;
        let n_entries = cursor.u64("the number of metadata entries")?;

        let metadata = cursor.metadata(n_entries)?;
        let alignment = metadata
            .opt::<u64>(keys::general::ALIGNMENT)?
            .map_or(Ok(tensor::DEFAULT_ALIGNMENT), tensor::check_alignment)
            .map_err(Error::Malformed)?;

        // A tensor info: name, number of dimensions, one dimension, type, offset.
        let n_tensors = cursor.count(n_tensors, 8 + 1 + 4 + 8 + 4 + 8, "tensors")?;
        let mut tensors = Vec::with_capacity(n_tensors);
        let mut index = HashMap::with_capacity(n_tensors);
        for i in 0..n_tensors {
            let info = cursor.tensor_info(i, alignment)?;
            if index.insert(info.name.clone(), i).is_some() {
                return malformed(format!("tensor '{}' is there twice", info.name));
            }
            tensors.push(info);
        }

        let header = cursor.position as u64;
        let data_start = header + tensor::padding(header, alignment);
        check_spans(&tensors, (bytes.len() as u64).saturating_sub(data_start))?;
        Ok(Gguf {
            version,
            metadata,
            tensors,
            alignment,
            data_start,
            index,
        })
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// Where tensor data begins in the file, in bytes.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Where the tensor's bytes lie in the file.
    pub fn span(&self, tensor: &TensorInfo) -> Range<u64> {
        let start = self.data_start + tensor.offset;
        start..start + tensor.bytes
    }

    /// The tensor's bytes. Spans were checked against `bytes` when parsing.
    ///
    /// # Panics
    /// Where `bytes` are not those that were parsed, or `tensor` is not of this file.
    pub fn data<'a>(&self, bytes: &'a [u8], tensor: &TensorInfo) -> &'a [u8] {
        let Range { start, end } = self.span(tensor);
        &bytes[start as usize..end as usize]
    }
}

fn malformed<T>(message: String) -> Result<T, Error> {
    Err(Error::Malformed(message))
}

/// Refuses tensors that reach beyond the data there is, or that share bytes.
fn check_spans(tensors: &[TensorInfo], available: u64) -> Result<(), Error> {
    let mut spans = Vec::with_capacity(tensors.len());
    for t in tensors {
        match t.offset.checked_add(t.bytes) {
            Some(end) if end <= available => spans.push((t.offset, end, &t.name)),
            _ => {
                return malformed(format!(
                    "tensor '{}' has {} bytes at offset {} of the tensor data, of which the file \
                     holds {available}: the file is cut short or damaged",
                    t.name, t.bytes, t.offset
                ));
            }
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        if let [(_, end, first), (start, _, second)] = pair
            && start < end
        {
            return malformed(format!(
                "tensors '{first}' and '{second}' overlap: one ends at byte {end} of the tensor \
                 data, the next begins at {start}"
            ));
        }
    }
    Ok(())
}

/// What is left to read.
struct Cursor<'a> {
    bytes: &'a [u8],
    /// At most `bytes.len()`.
    position: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `n` bytes, which are `what`.
    fn take(&mut self, n: usize, what: impl Display) -> Result<&'a [u8], Error> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match rest.get(..n) {
            Some(taken) => {
                self.position += n;
                Ok(taken)
            }
            None => malformed(format!(
                "the file ends within {what}: {n} bytes expected at byte {}, {} found",
                self.position,
                rest.len()
            )),
        }
    }

    fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: impl Display) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: impl Display) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// `n` as a count of things that take `least` bytes each: no more than the file can hold.
    fn count(&self, n: u64, least: usize, what: impl Display) -> Result<usize, Error> {
        let most = self.left() / least;
        match usize::try_from(n) {
            Ok(n) if n <= most => Ok(n),
            _ => malformed(format!(
                "the file claims {n} {what}, but the {} bytes left at byte {} hold at most {most}",
                self.left(),
                self.position
            )),
        }
    }

    fn string(&mut self, what: impl Display) -> Result<String, Error> {
        let len = self.u64(format_args!("the length of {what}"))?;
        let len = self.count(len, 1, format_args!("bytes for {what}"))?;
        let at = self.position;
        match std::str::from_utf8(self.take(len, &what)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => malformed(format!(
                "{what} is no UTF-8 at byte {}",
                at + e.valid_up_to()
            )),
        }
    }

    fn version(&mut self) -> Result<u32, Error> {
        let magic: [u8; 4] = self.array("the magic number")?;
        if magic != MAGIC {
            return malformed(format!(
                "this is no GGUF file: it begins with '{}', expected 'GGUF'",
                magic.escape_ascii()
            ));
        }
        match self.u32("the version")? {
            version @ 2..=3 => Ok(version),
            1 => malformed(
                "GGUF version 1 is not read (expected 2 or 3): convert the model again".into(),
            ),
            version if (1..=3).contains(&version.swap_bytes()) => malformed(format!(
                "the file is big-endian GGUF version {}; only little-endian is read",
                version.swap_bytes()
            )),
            version => malformed(format!(
                "GGUF version {version} is unknown (expected 2 or 3)"
            )),
        }
    }

    fn metadata(&mut self, n_entries: u64) -> Result<Metadata, Error> {
        // An entry: key, type, value.
        let n = self.count(n_entries, 8 + 1 + 4 + 1, "metadata entries")?;
        let mut metadata = Metadata::new();
        for i in 0..n {
            let key = self.string(format_args!("the key of metadata entry {i}"))?;
            tensor::check_key(&key).map_err(Error::Malformed)?;
            if metadata.get(&key).is_some() {
                return malformed(format!("metadata key '{key}' is there twice"));
            }
            let id = self.u32(format_args!("the type of metadata key '{key}'"))?;
            let value = self.value(id, &key)?;
            metadata.set(key, value);
        }
        Ok(metadata)
    }

    fn tensor_info(&mut self, i: usize, alignment: u64) -> Result<TensorInfo, Error> {
        let name = self.string(format_args!("the name of tensor {i}"))?;
        tensor::check_name(&name).map_err(Error::Malformed)?;
        let n_dims = self.u32(format_args!("the number of dimensions of tensor '{name}'"))?;
        if n_dims > tensor::MAX_DIMS as u32 {
            return malformed(format!(
                "tensor '{name}' has {n_dims} dimensions, expected 1 to {}",
                tensor::MAX_DIMS
            ));
        }
        let dims = (0..n_dims)
            .map(|_| self.u64(format_args!("the shape of tensor '{name}'")))
            .collect::<Result<Vec<_>, _>>()?;
        let id = self.u32(format_args!("the type of tensor '{name}'"))?;
        let Some(format) = Format::from_id(id) else {
            return malformed(format!(
                "tensor '{name}' has type {id}{}, which is not supported (expected one of {})",
                ggml_name(id).map_or(String::new(), |name| format!(" ({name})")),
                crate::block::names()
            ));
        };
        let offset = self.u64(format_args!("the offset of tensor '{name}'"))?;
        if offset % alignment != 0 {
            return malformed(format!(
                "tensor '{name}' is at offset {offset}, expected a multiple of {alignment}"
            ));
        }
        let bytes = tensor::size(&name, &dims, format).map_err(Error::Malformed)?;
        Ok(TensorInfo {
            name,
            dims,
            format,
            offset,
            bytes,
        })
    }
}

/// The name of a ggml type that we do not read, for errors.
fn ggml_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "q4_2, removed from ggml",
        5 => "q4_3, removed from ggml",
        9 => "q8_1",
        10 => "q2_k",
        11 => "q3_k",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        20 => "iq4_nl",
        21 => "iq3_s",
        22 => "iq2_s",
        23 => "iq4_xs",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        28 => "f64",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        39 => "mxfp4",
        _ => return None,
    })
}

/// A type that an array can hold.
trait Element: Sized {
    /// The fewest bytes one takes.
    const LEAST: usize;
    fn read(cursor: &mut Cursor, key: &str) -> Result<Self, Error>;
}

macro_rules! number_elements {
    ($($rust:ty),*) => {
        $(impl Element for $rust {
            const LEAST: usize = size_of::<$rust>();
            fn read(cursor: &mut Cursor, key: &str) -> Result<Self, Error> {
                let bytes = cursor.array(format_args!("the value of metadata key '{key}'"))?;
                Ok(<$rust>::from_le_bytes(bytes))
            }
        })*
    };
}
number_elements!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Element for bool {
    const LEAST: usize = 1;
    fn read(cursor: &mut Cursor, key: &str) -> Result<Self, Error> {
        match u8::read(cursor, key)? {
            0 => Ok(false),
            1 => Ok(true),
            other => malformed(format!(
                "metadata key '{key}' holds {other} for a bool, expected 0 or 1"
            )),
        }
    }
}

impl Element for String {
    const LEAST: usize = 8;
    fn read(cursor: &mut Cursor, key: &str) -> Result<Self, Error> {
        cursor.string(format_args!("a string of metadata key '{key}'"))
    }
}

impl Cursor<'_> {
    fn elements<T: Element>(&mut self, n: u64, key: &str) -> Result<Vec<T>, Error> {
        let what = format_args!("elements for metadata key '{key}'");
        let n = self.count(n, T::LEAST, what)?;
        (0..n).map(|_| T::read(self, key)).collect()
    }
}

macro_rules! read_values {
    ($($variant:ident, $rust:ty, $id:literal, $one:literal, $many:literal;)*) => {
        impl Cursor<'_> {
            fn value(&mut self, id: u32, key: &str) -> Result<Value, Error> {
                match id {
                    $($id => <$rust>::read(self, key).map(Value::$variant),)*
                    ARRAY_ID => self.array_value(key, 0).map(Value::Array),
                    _ => malformed(format!(
                        "metadata key '{key}' has type {id}, expected 0 to 12"
                    )),
                }
            }

            fn array_value(&mut self, key: &str, depth: u32) -> Result<Array, Error> {
                let id = self.u32(format_args!("the element type of metadata key '{key}'"))?;
                let n = self.u64(format_args!("the length of metadata key '{key}'"))?;
                match id {
                    $($id => self.elements(n, key).map(Array::$variant),)*
                    ARRAY_ID if depth < MAX_NESTING => {
                        // An array: element type and length.
                        let what = format_args!("arrays for metadata key '{key}'");
                        let n = self.count(n, 4 + 8, what)?;
                        let arrays = (0..n).map(|_| self.array_value(key, depth + 1));
                        arrays.collect::<Result<_, _>>().map(Array::Nested)
                    }
                    ARRAY_ID => malformed(format!(
                        "metadata key '{key}' nests arrays deeper than {MAX_NESTING}"
                    )),
                    _ => malformed(format!(
                        "metadata key '{key}' is an array of type {id}, expected 0 to 12"
                    )),
                }
            }
        }
    };
}
each_element!(read_values);
