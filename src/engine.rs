//! Opens a GGUF file, places its layers on devices and owns the session: the sequences, their
//! tokens and the KV ledger. Forward passes only; which tokens travel together is for
//! [`schedule`](crate::schedule) to say.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::kv::KvType;

/// Which device to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The best this build and machine have.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
}

/// A device this build does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this build has no device '{found}' (it has auto, cpu)")]
pub struct UnknownDevice {
    /// What was asked for.
    pub found: String,
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => Err(UnknownDevice {
                found: s.to_string(),
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceChoice::Auto => "auto",
            DeviceChoice::Cpu => "cpu",
        })
    }
}

/// How to open a model.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where the layers run.
    pub device: DeviceChoice,
    /// Threads of the CPU backend; all physical cores where `None`.
    pub threads: Option<usize>,
    /// The longest a sequence may grow; what the model was trained for where `None`.
    pub n_ctx: Option<usize>,
    /// Element types of the keys and the values.
    pub kv: (KvType, KvType),
    /// How many sequences can be held at once.
    pub n_sequences: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: DeviceChoice::Auto,
            threads: None,
            n_ctx: None,
            kv: (KvType::F16, KvType::F16),
            n_sequences: 1,
        }
    }
}

/// What could not be done, with the file, tensor, key or sequence it concerns.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be opened or is no model of ours.
    #[error("{0}")]
    File(String),
}

/// One token to append to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// The sequence, below `n_sequences`.
    pub sequence: u32,
    /// The token's id, below `n_vocab`.
    pub token: u32,
    /// Whether to compute the logits of what follows it.
    pub wants_logits: bool,
}

/// Logits `[n_outputs, n_vocab]`: a row for each [`Feed`] that wanted them, in order.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    values: &'a [f32],
    n_vocab: usize,
}

impl<'a> Logits<'a> {
    /// The rows, each `[n_vocab]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> {
        self.values.chunks_exact(self.n_vocab)
    }

    /// Row `i`, if there is one.
    pub fn row(&self, i: usize) -> Option<&'a [f32]> {
        self.rows().nth(i)
    }
}

/// Bytes that a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The tensors, as they lie in the file.
    pub weights: u64,
    /// The KV cache.
    pub kv: u64,
    /// Activations of the largest pass; an estimate.
    pub scratch: u64,
}

/// A model on its devices with its session.
pub struct Engine {
    n_vocab: usize,
    n_ctx: usize,
}

impl Engine {
    /// Opens the GGUF file at `path`.
    pub fn open(_path: &Path, _options: &EngineOptions) -> Result<Engine, EngineError> {
        Err(EngineError::File("not built yet".into()))
    }

    /// Rows of the embedding, the width of the logits.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The longest a sequence may grow.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Appends tokens to their sequences and runs them in one forward pass.
    pub fn evaluate(&mut self, _feeds: &[Feed]) -> Result<Logits<'_>, EngineError> {
        Err(EngineError::File("not built yet".into()))
    }
}
