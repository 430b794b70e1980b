//! pytorch_model.bin: a zip archive whose `data.pkl` describes tensors and whose `data/KEY`
//! entries are their storages, stored uncompressed, so that they are read where they lie.
//!
//! The layout is that of PyTorch's serialization notes ("torch.save ... zipfile-based").

use std::collections::HashMap;

use zip::{CompressionMethod, ZipArchive};

use super::file::SourceFile;
use super::pickle::{self, TensorRef};
use super::{Dtype, Listed};
use crate::Error;

/// A state dict's pickle has some two hundred bytes a tensor; what is far larger is none.
const MAX_PICKLE_BYTES: u64 = 64 << 20;

/// Where an archive's entry lies in the file.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    len: u64,
}

/// The tensors of a file.
pub(super) fn tensors(file: &SourceFile) -> Result<Vec<Listed>, Error> {
    refuse_other_kinds(file)?;
    let entries = entries(file)?;
    let root = entries
        .keys()
        .find_map(|name| {
            let root = name.strip_suffix("data.pkl")?;
            (root.matches('/').count() == 1 && root.ends_with('/')).then_some(root)
        })
        .ok_or_else(|| {
            Error::file(
                file.path(),
                "is a zip archive without a data.pkl, so not one that torch.save wrote",
            )
        })?;
    if let Some(order) = entries.get(&format!("{root}byteorder")) {
        let found = read_entry(file, *order, 16, "byteorder")?;
        if found != b"little" {
            return Err(Error::file(
                file.path(),
                format!(
                    "holds {}-endian numbers; only little-endian ones are read",
                    String::from_utf8_lossy(&found)
                ),
            ));
        }
    }
    let Some(span) = entries.get(&format!("{root}data.pkl")) else {
        return Err(Error::file(file.path(), "has no data.pkl"));
    };
    let bytes = read_entry(file, *span, MAX_PICKLE_BYTES, "data.pkl")?;
    let state = pickle::parse_state_dict(&bytes)
        .map_err(|e| Error::file(file.path(), format!("data.pkl: {e}")))?;
    state
        .into_iter()
        .map(|(name, tensor)| {
            locate(root, &entries, &tensor)
                .map(|(dtype, offset)| (name.clone(), dtype, tensor.shape.clone(), offset))
                .map_err(|message| Error::tensor(file.path(), name, message))
        })
        .collect()
}

/// The tensor's type and first byte in the file, its extent checked against its storage's bytes.
fn locate(
    root: &str,
    entries: &HashMap<String, Span>,
    tensor: &TensorRef,
) -> Result<(Dtype, u64), String> {
    let storage = &tensor.storage;
    let span = entries
        .get(&format!("{root}data/{}", storage.key))
        .ok_or_else(|| {
            format!(
                "its storage '{}' is not in the archive; download the file again",
                storage.key
            )
        })?;
    if !tensor.is_contiguous() {
        return Err(format!(
            "its strides {:?} do not follow its shape {:?}: it was saved as a view; \
             save the checkpoint again with every tensor made .contiguous()",
            tensor.stride, tensor.shape
        ));
    }
    let dtype = storage.dtype();
    let width = dtype
        .bytes()
        .ok_or_else(|| format!("its elements are {dtype}, of unknown size"))?;
    if storage.numel.checked_mul(width) != Some(span.len) {
        return Err(format!(
            "its storage '{}' should hold {} elements of {dtype} but has {} bytes; \
             the file is damaged or lies",
            storage.key, storage.numel, span.len
        ));
    }
    let numel = tensor
        .shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .ok_or_else(|| format!("its shape {:?} overflows", tensor.shape))?;
    let start = tensor.offset.checked_mul(width);
    let len = numel.checked_mul(width);
    match (start, len) {
        (Some(start), Some(len)) if start.checked_add(len).is_some_and(|end| end <= span.len) => {
            Ok((dtype, span.start + start))
        }
        _ => Err(format!(
            "its shape {:?} of {dtype} from element {} on does not fit the {} bytes of storage '{}'; \
             the file is truncated or lies",
            tensor.shape, tensor.offset, span.len, storage.key
        )),
    }
}

/// Says what a file is that is no zip archive.
fn refuse_other_kinds(file: &SourceFile) -> Result<(), Error> {
    let mut head = [0u8; 4];
    if file.len() >= 4 {
        file.read_exact_at(0, &mut head)?;
    }
    let message = match head {
        [b'P', b'K', ..] => return Ok(()),
        // PROTO 2, LONG1 of ten bytes: the magic number of the format before 1.6.
        [0x80, 0x02, 0x8a, 0x0a] => {
            "is in PyTorch's format from before version 1.6, which is not read; with Python, \
             load it with torch.load(path, weights_only=True) and write it again with torch.save"
        }
        [0x80, ..] => "is a bare pickle, which is not read; expected what torch.save writes",
        _ => "is no zip archive as torch.save writes; download it again",
    };
    Err(Error::file(file.path(), message))
}

/// The archive's stored entries by name, each span checked against the file.
fn entries(file: &SourceFile) -> Result<HashMap<String, Span>, Error> {
    let damaged = |e: zip::result::ZipError| {
        Error::file(
            file.path(),
            format!("is a damaged or truncated zip archive: {e}; download it again"),
        )
    };
    let reader = std::io::BufReader::with_capacity(1 << 16, file.handle());
    let mut archive = ZipArchive::new(reader).map_err(damaged)?;
    let mut entries = HashMap::with_capacity(archive.len());
    for i in 0..archive.len() {
        let entry = archive.by_index_raw(i).map_err(damaged)?;
        let name = entry.name().to_string();
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(Error::file(
                file.path(),
                format!(
                    "its entry '{name}' is compressed or encrypted; torch.save stores entries plainly"
                ),
            ));
        }
        let len = entry.size();
        let inside = entry
            .data_start()
            .filter(|start| start.checked_add(len).is_some_and(|end| end <= file.len()));
        let Some(start) = inside else {
            return Err(Error::file(
                file.path(),
                format!(
                    "its entry '{name}' of {len} bytes lies outside the file, which has {} bytes; \
                     download it again",
                    file.len()
                ),
            ));
        };
        entries.insert(name, Span { start, len });
    }
    Ok(entries)
}

/// Reads a small entry whole.
fn read_entry(file: &SourceFile, span: Span, limit: u64, name: &str) -> Result<Vec<u8>, Error> {
    if span.len > limit {
        return Err(Error::file(
            file.path(),
            format!(
                "its {name} has {} bytes, expected at most {limit}",
                span.len
            ),
        ));
    }
    let mut bytes = vec![0; span.len as usize];
    file.read_exact_at(span.start, &mut bytes)?;
    Ok(bytes)
}
