//! safetensors: eight bytes of header length, a JSON header, then the tensors' bytes.
//!
//! The format is described in the safetensors repository's README. Its guards are kept: a header
//! of at most 100 MB, offsets that follow one another without holes and end with the file, sizes
//! that equal shape times element; all in checked arithmetic. Duplicate names are refused too.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::file::SourceFile;
use super::{Dtype, Listed};
use crate::Error;

/// As the safetensors library has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors of a file.
pub(super) fn tensors(file: &SourceFile) -> Result<Vec<Listed>, Error> {
    let mut length = [0u8; 8];
    if file.len() < 8 {
        return Err(Error::file(
            file.path(),
            format!(
                "is truncated: {} bytes, a safetensors file has at least 8; download it again",
                file.len()
            ),
        ));
    }
    file.read_exact_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::file(
            file.path(),
            format!(
                "claims a header of {length} bytes; safetensors allows {MAX_HEADER_BYTES}, \
                 so this is no safetensors file or a damaged one"
            ),
        ));
    }
    let data = file.len() - 8;
    if length > data {
        return Err(Error::file(
            file.path(),
            format!(
                "is truncated: its header has {length} bytes, the file only {data} more; \
                 download it again"
            ),
        ));
    }
    let mut header = vec![0u8; length as usize];
    file.read_exact_at(8, &mut header)?;
    parse_header(&header, data - length).map_or_else(
        |fault| Err(fault.at(file)),
        |tensors| {
            Ok(tensors
                .into_iter()
                .map(|t| (t.name, t.dtype, t.shape, 8 + length + t.start))
                .collect())
        },
    )
}

/// One tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderTensor {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte, from the end of the header.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

/// What is wrong with a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The tensor at fault, where it is one's.
    pub tensor: Option<String>,
    /// What was found and what was expected.
    pub message: String,
}

impl Fault {
    fn at(self, file: &SourceFile) -> Error {
        match self.tensor {
            Some(name) => Error::tensor(file.path(), name, self.message),
            None => Error::file(file.path(), self.message),
        }
    }
}

/// Parses a header and checks every span against the `data` bytes behind it.
///
/// # Errors
/// Where it is no JSON of the right form, or where any span, size or name does not hold.
pub fn parse_header(header: &[u8], data: u64) -> Result<Vec<HeaderTensor>, Fault> {
    let whole = |message: String| Fault {
        tensor: None,
        message,
    };
    let Header(entries) = serde_json::from_slice(header)
        .map_err(|e| whole(format!("its safetensors header is damaged: {e}")))?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let [start, end] = entry.data_offsets;
        let dtype = Dtype::from_safetensors(&entry.dtype);
        let fault = |message: String| Fault {
            tensor: Some(name.clone()),
            message,
        };
        if start > end || end > data {
            return Err(fault(format!(
                "its bytes {start}..{end} lie outside the {data} bytes of data; \
                 the file is truncated or its header lies"
            )));
        }
        let size = entry
            .shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d))
            .ok_or_else(|| fault(format!("its shape {:?} overflows", entry.shape)))?;
        if let Some(width) = dtype.bytes()
            && size.checked_mul(width) != Some(end - start)
        {
            return Err(fault(format!(
                "its shape {:?} of {dtype} does not fill its {} bytes",
                entry.shape,
                end - start
            )));
        }
        tensors.push(HeaderTensor {
            name,
            dtype,
            shape: entry.shape,
            start,
            end,
        });
    }
    // Holes and overlaps: in order of offset, each begins where the one before it ends.
    let mut order: Vec<&HeaderTensor> = tensors.iter().collect();
    order.sort_by_key(|t| (t.start, t.end));
    let mut expected = 0;
    for tensor in order {
        if tensor.start != expected {
            return Err(Fault {
                tensor: Some(tensor.name.clone()),
                message: format!(
                    "begins at byte {} of the data, expected {expected}: spans must follow one another",
                    tensor.start
                ),
            });
        }
        expected = tensor.end;
    }
    if expected != data {
        return Err(whole(format!(
            "its tensors end at byte {expected} of the data, which has {data} bytes"
        )));
    }
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Fault {
            tensor: Some(pair[0].to_string()),
            message: "is in the header twice".to_string(),
        });
    }
    Ok(tensors)
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries in file order, duplicates kept, `__metadata__` left out.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
