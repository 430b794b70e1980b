//! Reads and writes GGUF files and their quantized block formats: bytes in, bytes out.
//!
//! This crate is a leaf: it opens no file, starts no thread and knows no architecture.
//! The format is specified in the ggml repository, `docs/gguf.md`; versions 2 and 3 are read,
//! version 3 is written.
#![forbid(unsafe_code)]

pub mod block;
mod error;
pub mod keys;
mod read;
mod tensor;
mod value;
mod write;

pub use block::{Block, Format, Quantized};
pub use error::Error;
pub use read::{Gguf, TensorInfo};
pub use value::{Array, FromValue, Metadata, Value};
pub use write::{TensorSpec, Writer, file_bytes};
