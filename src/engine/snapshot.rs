//! A sequence as bytes, to go on with in a later session. Read back, the bytes are untrusted.
//!
//! Little-endian: magic, fingerprint of the model file (u64), KV types (a byte each), number of
//! tokens (u32), where a context shift cut (u32, the number of tokens where none did), the
//! tokens (u32 each), then for each device its store: length (u64) and bytes.

use super::ModelFile;
use super::session::{Session, SessionError};
use crate::kv::KvType;

const MAGIC: &[u8; 8] = b"katarikv";
const VERSION: u32 = 1;

/// Why a sequence cannot be saved or put back.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are no snapshot, cut, or of another session.
    #[error("the saved session has {found}, expected {expected}")]
    Malformed {
        /// What was found.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// The session refused.
    #[error(transparent)]
    Session(#[from] SessionError),
}

fn malformed(found: impl ToString, expected: impl ToString) -> SnapshotError {
    SnapshotError::Malformed {
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

pub(super) fn export(
    file: &ModelFile,
    session: &Session,
    sequence: u32,
) -> Result<Vec<u8>, SnapshotError> {
    let stores = session.export(sequence)?;
    let tokens = session.tokens(sequence);
    let mut out = MAGIC.to_vec();
    let u32 = |out: &mut Vec<u8>, n: u32| out.extend(n.to_le_bytes());
    u32(&mut out, VERSION);
    out.extend(fingerprint(file).to_le_bytes());
    out.extend(kv_types(session));
    u32(&mut out, tokens.len() as u32);
    u32(&mut out, session.reusable(sequence).len() as u32);
    for &token in tokens {
        u32(&mut out, token);
    }
    for store in stores {
        out.extend((store.len() as u64).to_le_bytes());
        out.extend(store);
    }
    Ok(out)
}

pub(super) fn import(
    file: &ModelFile,
    session: &mut Session,
    sequence: u32,
    bytes: &[u8],
) -> Result<(), SnapshotError> {
    let mut reader = Reader { bytes };
    if reader.take(MAGIC.len(), "a saved session")? != MAGIC {
        return Err(malformed("another beginning", "that of a saved session"));
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(malformed(
            format!("version {version}"),
            format!("version {VERSION}"),
        ));
    }
    if reader.u64()? != fingerprint(file) {
        let expected = format!("the one of {}", file.path().display());
        return Err(malformed("another model's fingerprint", expected));
    }
    let expected = kv_types(session);
    if reader.take(expected.len(), "KV types")? != expected {
        return Err(malformed("other KV types", "those of this session"));
    }
    let n_tokens = reader.u32()? as usize;
    let reusable = reader.u32()? as usize;
    // No product: what is read is bounded by the bytes there are.
    let tokens = (0..n_tokens)
        .map(|_| reader.u32())
        .collect::<Result<Vec<u32>, _>>()?;
    let cut = Some(reusable).filter(|&cut| cut < n_tokens);
    let mut stores = Vec::new();
    for kv in session.stores() {
        let expected = kv.bytes() / (kv.n_cells as u64).max(1) * n_tokens as u64;
        let found = reader.u64()?;
        if found != expected {
            return Err(malformed(
                format!("a store of {found} bytes"),
                format!("{expected} for {n_tokens} tokens"),
            ));
        }
        let len = usize::try_from(found).unwrap_or(usize::MAX);
        stores.push(reader.take(len, "keys and values")?);
    }
    if !reader.bytes.is_empty() {
        return Err(malformed(
            format!("{} more bytes", reader.bytes.len()),
            "its end",
        ));
    }
    Ok(session.import(sequence, tokens, cut, &stores)?)
}

/// The KV types of each device's store, as bytes.
fn kv_types(session: &Session) -> Vec<u8> {
    let number = |t: KvType| KvType::ALL.iter().position(|&u| u == t).unwrap_or_default() as u8;
    session
        .stores()
        .flat_map(|kv| [number(kv.keys), number(kv.values)])
        .collect()
}

/// Tells model files apart: FNV-1a (Fowler, Noll, Vo) over the header and the first bytes of
/// each tensor.
fn fingerprint(file: &ModelFile) -> u64 {
    /// Bytes of each tensor that count.
    const SAMPLE: usize = 64;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    let gguf = file.gguf();
    let header = usize::try_from(gguf.data_start()).unwrap_or(usize::MAX);
    add(file.bytes().get(..header).unwrap_or(file.bytes()));
    for tensor in &gguf.tensors {
        let bytes = gguf.data(file.bytes(), tensor);
        add(&bytes[..bytes.len().min(SAMPLE)]);
    }
    hash
}

/// Takes bytes from the front.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8], SnapshotError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(n) else {
            let found = format!("only {} bytes left", self.bytes.len());
            return Err(malformed(found, format!("{n} more, {what}")));
        };
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, "a number")?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, SnapshotError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, SnapshotError> {
        self.array().map(u64::from_le_bytes)
    }
}
