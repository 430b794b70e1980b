//! Reads and writes GGUF files and their quantized block formats: bytes in, bytes out.
//!
//! This crate is a leaf: it opens no file, starts no thread and knows no architecture.
//! The format is specified in the ggml repository, `docs/gguf.md`; versions 2 and 3 are read,
//! version 3 is written.
#![deny(unsafe_code)] // but for block/simd

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
pub use write::{FileLayout, TensorSpec, Writer, file_bytes};

// What the tests in tests/ use, for those beside the code.
#[cfg(test)]
extern crate self as katari_gguf;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod block_support;
