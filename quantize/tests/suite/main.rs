//! Tests of the crate's public API, one binary: each module is a subject.
mod checkpoints;
mod conversions;
mod pickles;
mod safetensors_headers;
mod support;
