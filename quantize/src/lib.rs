//! Turns a Hugging Face checkpoint folder into a quantized GGUF file.
#![forbid(unsafe_code)]

mod error;

pub use error::Error;
