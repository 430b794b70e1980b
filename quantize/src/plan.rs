//! Which tensor gets which format.
//!
//! The plan of each type name is llama.cpp's (`src/llama-quant.cpp`, as of llama-cpp-python
//! 0.3.36), so that a file's name means the same everywhere: the output (or tied embedding) in
//! Q6_K for all quantized types but Q8_0, more bits for the more sensitive tensors in the `_m`
//! and `_s` mixes, vectors and position embeddings unquantized. `--pure` leaves the mixing out.

use katari_gguf::Format;
use katari_gguf::keys::tensor;
use serde::Serialize;

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::convert::{Model, Output, Source};

/// A `--type`: a name that people know, and the mix of formats behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, non_camel_case_types)] // each is the type of its name
pub enum FileType {
    #[value(name = "f32")]
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    BF16,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_1")]
    Q4_1,
    #[value(name = "q5_0")]
    Q5_0,
    #[value(name = "q5_1")]
    Q5_1,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_k_s")]
    Q4_K_S,
    #[value(name = "q4_k_m", alias = "q4_k")]
    Q4_K_M,
    #[value(name = "q5_k_s")]
    Q5_K_S,
    #[value(name = "q5_k_m", alias = "q5_k")]
    Q5_K_M,
    #[value(name = "q6_k")]
    Q6_K,
}

impl FileType {
    /// Its name, llama.cpp's number for it under `general.file_type`, and its main format.
    #[rustfmt::skip]
    fn row(self) -> (&'static str, u32, Format) {
        match self {
            FileType::F32    => ("f32",    0,  Format::F32),
            FileType::F16    => ("f16",    1,  Format::F16),
            FileType::BF16   => ("bf16",   32, Format::BF16),
            FileType::Q4_0   => ("q4_0",   2,  Format::Q4_0),
            FileType::Q4_1   => ("q4_1",   3,  Format::Q4_1),
            FileType::Q5_0   => ("q5_0",   8,  Format::Q5_0),
            FileType::Q5_1   => ("q5_1",   9,  Format::Q5_1),
            FileType::Q8_0   => ("q8_0",   7,  Format::Q8_0),
            FileType::Q4_K_S => ("q4_k_s", 14, Format::Q4_K),
            FileType::Q4_K_M => ("q4_k_m", 15, Format::Q4_K),
            FileType::Q5_K_S => ("q5_k_s", 16, Format::Q5_K),
            FileType::Q5_K_M => ("q5_k_m", 17, Format::Q5_K),
            FileType::Q6_K   => ("q6_k",   18, Format::Q6_K),
        }
    }

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The type with this number under `general.file_type`.
    pub fn from_id(id: u32) -> Option<Self> {
        use clap::ValueEnum;
        let all = FileType::value_variants().iter();
        all.copied().find(|file_type| file_type.id() == id)
    }

    /// The number under `general.file_type`.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// The format of tensors that the mix says nothing else of.
    fn format(self) -> Format {
        self.row().2
    }
}

/// One tensor of the plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// Its name in GGUF.
    pub name: String,
    /// `[rows, cols]`, or `[n]`.
    pub shape: Vec<usize>,
    /// Element type in the checkpoint; "zeros" for a bias that it does not have.
    pub from: String,
    /// Format in the file.
    #[serde(serialize_with = "as_text")]
    pub to: Format,
    /// Bytes in the file, without padding.
    pub bytes: u64,
    /// Why it is in another format than the plan's, where a row cannot be divided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

fn as_text<S: serde::Serializer>(format: &Format, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(format)
}

/// Plans every tensor of a model.
///
/// # Errors
/// Where a tensor's size overflows.
pub fn plan(
    checkpoint: &Checkpoint,
    model: &Model,
    file_type: FileType,
    pure: bool,
) -> Result<Vec<Planned>, Error> {
    let mix = Mix {
        file_type,
        pure,
        is_tied: !model.outputs.iter().any(|o| o.name == OUTPUT_WEIGHT),
        n_layer: model.n_layer,
    };
    model
        .outputs
        .iter()
        .map(|output| {
            let from = match &output.source {
                Source::Zeros => "zeros".to_string(),
                Source::Stored { tensor, .. } => checkpoint
                    .get(tensor)
                    .map_or("?".to_string(), |stored| stored.dtype.to_string()),
            };
            let (to, note) = mix.format(output);
            let n = output
                .shape
                .iter()
                .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
            let bytes = n.and_then(|n| to.bytes(n)).ok_or_else(|| {
                Error::tensor(checkpoint.dir(), &output.name, "its size overflows")
            })?;
            Ok(Planned {
                name: output.name.clone(),
                shape: output.shape.clone(),
                from,
                to,
                bytes,
                note,
            })
        })
        .collect()
}

const OUTPUT_WEIGHT: &str = "output.weight";

/// What a tensor's format depends on beside the tensor.
struct Mix {
    file_type: FileType,
    pure: bool,
    /// Whether the embedding is the output matrix too.
    is_tied: bool,
    n_layer: usize,
}

impl Mix {
    /// The tensor's format, and why it is not the one that the mix chose.
    fn format(&self, output: &Output) -> (Format, Option<String>) {
        let is_matrix = output.shape.len() >= 2;
        let position = tensor::weight(tensor::POSITION_EMBD);
        if !is_matrix || output.name == position {
            return (Format::F32, None);
        }
        if !self.file_type.format().is_quantized() {
            return (self.file_type.format(), None);
        }
        let chosen = if self.pure {
            self.file_type.format()
        } else {
            self.mixed(&output.name)
        };
        fit(chosen, output.cols())
    }

    /// The mix's choice for a matrix.
    fn mixed(&self, name: &str) -> Format {
        let base = self.file_type.format();
        let is_output =
            name == OUTPUT_WEIGHT || (self.is_tied && name == tensor::weight(tensor::TOKEN_EMBD));
        if is_output {
            return match base {
                Format::Q8_0 => Format::Q8_0,
                _ => Format::Q6_K,
            };
        }
        let Some((layer, module)) = layer_and_module(name) else {
            return base;
        };
        let is_values = module == tensor::ATTN_V || module == tensor::ATTN_QKV;
        let is_down = module == tensor::FFN_DOWN;
        match self.file_type {
            FileType::Q4_K_M | FileType::Q5_K_M if is_values || is_down => {
                if use_more_bits(layer, self.n_layer) {
                    Format::Q6_K
                } else {
                    base
                }
            }
            FileType::Q4_K_S if is_values && layer < 4 => Format::Q5_K,
            FileType::Q4_K_S if is_down && layer < self.n_layer / 8 => Format::Q5_K,
            _ => base,
        }
    }
}

/// The first and last eighth of the layers, and every third between.
fn use_more_bits(layer: usize, n_layer: usize) -> bool {
    let eighth = n_layer / 8;
    layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2
}

/// `blk.3.attn_v.weight` -> (3, `attn_v`).
fn layer_and_module(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest.strip_suffix(".weight")?))
}

/// A format whose blocks divide rows of `cols`: the chosen one, else the next one with smaller
/// blocks, else f16.
fn fit(chosen: Format, cols: usize) -> (Format, Option<String>) {
    let divides = |format: Format| cols.is_multiple_of(format.block_len());
    if divides(chosen) {
        return (chosen, None);
    }
    let smaller = match chosen {
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        other => other,
    };
    let fallback = if divides(smaller) {
        smaller
    } else {
        Format::F16
    };
    let note = format!(
        "rows of {cols} are no multiple of {chosen}'s blocks of {}: {fallback} instead",
        chosen.block_len()
    );
    (fallback, Some(note))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(file_type: FileType, is_tied: bool, n_layer: usize) -> Mix {
        Mix {
            file_type,
            pure: false,
            is_tied,
            n_layer,
        }
    }

    /// Layers of 28 whose ffn_down llama.cpp puts in Q6_K, worked out by hand from its rule:
    /// 28 / 8 = 3 at each end (7 * 28 / 8 = 24), and 3 + 2, 3 + 5 ... between.
    const MORE_BITS_28: [usize; 13] = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26];

    #[test]
    fn q4_k_m_gives_more_bits_to_the_layers_that_llama_cpp_does() {
        let mix = mix(FileType::Q4_K_M, false, 28);
        for layer in 0..28 {
            let expected = if MORE_BITS_28.contains(&layer) || layer == 27 {
                Format::Q6_K
            } else {
                Format::Q4_K
            };
            for module in ["attn_v", "attn_qkv", "ffn_down"] {
                let name = format!("blk.{layer}.{module}.weight");
                assert_eq!(mix.mixed(&name), expected, "{name}");
            }
            for module in ["attn_q", "attn_k", "attn_output", "ffn_up"] {
                let name = format!("blk.{layer}.{module}.weight");
                assert_eq!(mix.mixed(&name), Format::Q4_K, "{name}");
            }
        }
        assert_eq!(mix.mixed("output.weight"), Format::Q6_K);
        assert_eq!(mix.mixed("token_embd.weight"), Format::Q4_K);
    }

    #[test]
    fn q4_k_s_gives_q5_k_to_the_first_layers() {
        let mix = mix(FileType::Q4_K_S, false, 36);
        assert_eq!(mix.mixed("blk.3.attn_qkv.weight"), Format::Q5_K);
        assert_eq!(mix.mixed("blk.4.attn_qkv.weight"), Format::Q4_K);
        assert_eq!(mix.mixed("blk.3.ffn_down.weight"), Format::Q5_K);
        assert_eq!(mix.mixed("blk.4.ffn_down.weight"), Format::Q4_K);
    }

    #[test]
    fn tied_embedding_takes_the_outputs_format() {
        assert_eq!(
            mix(FileType::Q4_0, true, 24).mixed("token_embd.weight"),
            Format::Q6_K
        );
        assert_eq!(
            mix(FileType::Q8_0, true, 24).mixed("token_embd.weight"),
            Format::Q8_0
        );
    }

    #[test]
    fn rows_that_a_format_cannot_divide_fall_back_and_say_so() {
        for (chosen, cols, expected) in [
            (Format::Q4_K, 64, Format::Q5_0),
            (Format::Q5_K, 64, Format::Q5_1),
            (Format::Q6_K, 96, Format::Q8_0),
            (Format::Q6_K, 80, Format::F16),
            (Format::Q4_0, 80, Format::F16),
        ] {
            let (format, note) = fit(chosen, cols);
            assert_eq!(format, expected);
            assert!(note.is_some_and(|n| n.contains(&expected.to_string())));
        }
        assert_eq!(fit(Format::Q4_K, 512), (Format::Q4_K, None));
    }
}
