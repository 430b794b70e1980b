//! katari: quantized inference for Japanese GPT-J, GPT-NeoX, GPT-NeoX-Japanese and GPT-2 models.
//!
//! The rooms, and which may use which:
//!
//! - `serve` (a feature, on by default) answers over HTTP: uses `schedule`, `engine`, `constrain`,
//!   `sampler`, `text`
//! - [`schedule`] forms batches: uses `engine`, `sampler`, `text`
//! - [`engine`] opens a file and owns a session: uses `models`, `cpu`, `ggml`, `ops`, `kv` and the
//!   gguf crate
//! - [`mod@bench`] measures an engine: uses `engine`, `models`, `cpu`, `ops`, `kv`, and the gguf and
//!   quantize crates
//! - [`constrain`] says what a text must look like: uses `sampler`, `text`
//! - [`models`] one file an architecture: uses `ops` and the gguf crate
//! - [`cpu`] the CPU backend: uses `ops`, the types of `kv` and the gguf crate
//! - `ggml` (with the feature of its name) the ggml backend, CUDA among its devices: uses `ops`, the
//!   types of `kv` and the gguf crate
//! - [`ops`] what a device can do: uses the slot types of `kv` and the gguf crate's formats
//! - [`text`] tokenizers: uses the gguf crate
//! - [`kv`], [`sampler`]: use nothing of ours
//!
//! The integration test `arrows` holds this.
#![deny(unsafe_code)]

pub mod bench;
pub mod constrain;
pub mod cpu;
pub mod engine;
#[cfg(feature = "ggml")]
mod ggml;
pub mod kv;
pub mod models;
pub mod ops;
pub mod sampler;
pub mod schedule;
#[cfg(feature = "serve")]
pub mod serve;
pub mod text;
