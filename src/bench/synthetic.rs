//! Models of real size without real weights, in memory.
//!
//! Speed does not depend on what the weights are, as long as no value overflows: they are normally
//! distributed around 0 with the spread that trained weights have, quantised once for each
//! format, and repeated over the tensors.

use std::io::Write;
use std::path::Path;

use katari_gguf::keys::tensor;
use katari_gguf::{Format, TensorSpec, Writer, file_bytes};
use katari_quantize::FileType;
use katari_quantize::shapes::{Header, Shape};
use memmap2::MmapMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::{EngineError, ModelFile};

/// Values that repeat: whole blocks of every format, and a number of them that divides no
/// tensor's row, so that rows differ.
const PATTERN: usize = 4093 * 256;

/// Standard deviation of the weights.
const SPREAD: f32 = 0.02;

/// Why there is no such model.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// The conversion refused.
    #[error(transparent)]
    Convert(#[from] katari_quantize::Error),
    /// The header cannot be written.
    #[error(transparent)]
    Write(#[from] katari_gguf::Error),
    /// The system gives no memory.
    #[error("cannot get {bytes} bytes of memory for the weights: {cause}")]
    Memory {
        /// How many.
        bytes: u64,
        /// What it says.
        cause: std::io::Error,
    },
    /// What was written is no model.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A file of `shape` as `file_type`, without a tokenizer, that lies in memory alone. `progress`
/// is told the bytes made and those there will be.
///
/// # Errors
/// Where there is not enough memory.
pub fn model(
    shape: Shape,
    file_type: FileType,
    mut progress: impl FnMut(u64, u64),
) -> Result<ModelFile, SyntheticError> {
    let Header { metadata, tensors } = shape.header(file_type)?;
    let bytes = file_bytes(&metadata, &tensors)?;
    let too_large = |cause| SyntheticError::Memory { bytes, cause };
    let len = usize::try_from(bytes).map_err(|e| too_large(std::io::Error::other(e)))?;
    // Anonymous memory of its own, aligned as a mapped file is.
    let mut memory = MmapMut::map_anon(len).map_err(too_large)?;
    let mut writer = Writer::new(&mut memory[..], &metadata, &tensors)?;
    let mut patterns = Patterns::new();
    let mut made = 0;
    for spec in &tensors {
        write(&mut writer, spec, &mut patterns)?;
        made += spec.bytes()?;
        progress(made, bytes);
    }
    writer.finish()?;
    Ok(ModelFile::in_memory(Path::new(shape.name()), memory)?)
}

/// The header of such a file, without the weights.
///
/// # Errors
/// None but the conversion's and the parser's.
#[cfg(test)]
pub(super) fn header(
    shape: Shape,
    file_type: FileType,
) -> Result<katari_gguf::Gguf, SyntheticError> {
    let Header { metadata, tensors } = shape.header(file_type)?;
    // The parser wants the tensors' bytes to be there; pages that nobody writes cost nothing.
    let len = file_bytes(&metadata, &tensors)? as usize;
    let mut memory = MmapMut::map_anon(len).map_err(|cause| SyntheticError::Memory {
        bytes: len as u64,
        cause,
    })?;
    Writer::new(&mut memory[..], &metadata, &tensors)?;
    Ok(katari_gguf::Gguf::parse(&memory)?)
}

/// Writes the next tensor, which `spec` describes.
fn write(
    writer: &mut Writer<impl Write>,
    spec: &TensorSpec,
    patterns: &mut Patterns,
) -> Result<(), SyntheticError> {
    let is_gain = spec.name.ends_with(&tensor::weight("norm"));
    let pattern = patterns.of(spec.format, is_gain);
    let mut left = usize::try_from(spec.bytes()?).unwrap_or(usize::MAX);
    while left > 0 {
        let n = left.min(pattern.len());
        writer.write(&pattern[..n])?;
        left -= n;
    }
    Ok(())
}

/// The values that repeat, in each format that was asked for.
struct Patterns {
    values: Vec<f32>,
    made: Vec<(Format, bool, Vec<u8>)>,
}

impl Patterns {
    fn new() -> Patterns {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        // The sum of twelve evenly distributed numbers is nearly normal, of variance 1.
        let values = (0..PATTERN).map(|_| {
            let sum: f32 = (0..12).map(|_| random.random::<f32>()).sum();
            (sum - 6.0) * SPREAD
        });
        Patterns {
            values: values.collect(),
            made: Vec::new(),
        }
    }

    /// The pattern in `format`; around 1 for the gain of a norm.
    fn of(&mut self, format: Format, is_gain: bool) -> &[u8] {
        let found = (self.made.iter()).position(|(f, g, _)| (*f, *g) == (format, is_gain));
        let i = found.unwrap_or_else(|| {
            let centre = if is_gain { 1.0 } else { 0.0 };
            let values: Vec<f32> = self.values.iter().map(|v| v + centre).collect();
            let mut bytes = vec![0; PATTERN / format.block_len() * format.block_bytes()];
            format.quantize(&values, &mut bytes);
            self.made.push((format, is_gain, bytes));
            self.made.len() - 1
        });
        &self.made[i].2
    }
}
