//! Quantize.
