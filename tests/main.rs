//! Integration tests, one binary: each module is a subject.
mod arrows;
mod cli;
mod constrain;
mod devices;
#[cfg(target_os = "linux")]
mod gpu;
mod kv;
#[cfg(feature = "ggml")]
mod llama;
mod models;
mod quantize;
mod sampler;
mod schedule;
#[cfg(feature = "serve")]
mod serve;
mod support;
mod tokenizers;
