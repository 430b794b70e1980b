//! GPT-2 (Radford et al. 2019): learned positions, biases on every linear, output tied to the
//! embedding.

use super::block::{Biases, OfBlocks};
use super::{Hyper, HyperReader, LoadError, Output};
use crate::ops::Activation;

/// The architecture.
pub struct Gpt2;

impl OfBlocks for Gpt2 {
    const OUTPUT: Output = Output::Tied;

    fn hyper(reader: &HyperReader<'_>) -> Result<Hyper, LoadError> {
        reader.common(Activation::GeluTanh)
    }

    fn biases(_: &Hyper, _: usize) -> Biases {
        Biases::ALL
    }
}
