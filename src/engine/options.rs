//! How to open a model, and what follows from it for a given one.

use super::EngineError;
use super::devices::{DeviceChoice, GpuLayers};
use crate::cpu::Isa;
use crate::kv::KvType;
use crate::models::Hyper;

/// How to open a model.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where the layers run.
    pub device: DeviceChoice,
    /// How many of the last layers a device other than the CPU backend runs.
    pub gpu_layers: GpuLayers,
    /// Threads of the CPU backend; as many as the machine has cores where `None`.
    pub threads: Option<usize>,
    /// Instruction set of the CPU backend; the best there is where `None`.
    pub isa: Option<Isa>,
    /// The longest a sequence may grow; what the model was trained for where `None`.
    pub n_ctx: Option<usize>,
    /// Element types of the keys and the values.
    pub kv: (KvType, KvType),
    /// How many sequences can be held at once, each up to `n_ctx` long.
    pub n_sequences: usize,
    /// Tokens of the largest pass, for the memory figures.
    pub n_batch: usize,
    /// Over how many CPU backends the layers are spread where they run on the CPU; only hidden
    /// states cross. Of use to tests.
    pub n_devices: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            device: DeviceChoice::Auto,
            gpu_layers: GpuLayers::Auto,
            threads: None,
            isa: None,
            n_ctx: None,
            kv: (KvType::F16, KvType::F16),
            n_sequences: 1,
            n_batch: 512,
            n_devices: 1,
        }
    }
}

/// The KV cache's sizes for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The longest a sequence may grow.
    pub n_ctx: usize,
    /// Cells: as many as all sequences can fill.
    pub n_cells: u32,
    /// How many sequences.
    pub n_sequences: u32,
}

impl EngineOptions {
    /// Threads to use. By default not more than cores: two threads of one core share the units
    /// that dot products need.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| {
            let allowed = std::thread::available_parallelism().map_or(1, usize::from);
            allowed.min(num_cpus::get_physical()).max(1)
        })
    }

    /// What the options come to for a model.
    pub(super) fn sizes(&self, hyper: &Hyper) -> Result<Sizes, EngineError> {
        let wrong = |option, found, expected: String| EngineError::Option {
            option,
            found,
            expected,
        };
        let n_ctx = self.n_ctx.unwrap_or(hyper.n_ctx);
        // Learned positions end where training did; rotary ones go on, if worse and worse.
        if n_ctx == 0 || (hyper.rope.is_none() && n_ctx > hyper.n_ctx) {
            let expected = format!("1 to {}, the model's positions", hyper.n_ctx);
            return Err(wrong("context length", n_ctx, expected));
        }
        // Positions are signed where they are subtracted.
        if i32::try_from(n_ctx).is_err() {
            return Err(wrong("context length", n_ctx, format!("1 to {}", i32::MAX)));
        }
        let n_cells = n_ctx.checked_mul(self.n_sequences);
        let n_cells = n_cells
            .and_then(|n| i32::try_from(n).ok())
            .filter(|&n| n > 0);
        match (n_cells, u32::try_from(self.n_sequences)) {
            (Some(n_cells), Ok(n_sequences)) => Ok(Sizes {
                n_ctx,
                n_cells: n_cells.unsigned_abs(),
                n_sequences,
            }),
            _ => {
                let expected = format!(
                    "1 to {}, at a context of {n_ctx}",
                    i32::MAX as usize / n_ctx
                );
                Err(wrong("number of sequences", self.n_sequences, expected))
            }
        }
    }
}
