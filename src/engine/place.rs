//! Which layers run where: how many of the last ones fit a GPU, and what each device gets.

use std::ops::Range;

use katari_gguf::Gguf;
use katari_gguf::keys::tensor;

use super::devices::{GpuLayers, Target, choose};
use super::options::{EngineOptions, Sizes};
use crate::models::{Hyper, Part};
use crate::ops::{DeviceError, KvShape};

/// Bytes of a GPU's free memory that `auto` leaves alone: the workspace of its matrix library,
/// buffers that grow, and what a desktop takes meanwhile.
const RESERVE: u64 = 512 << 20;

/// A part of a model and where it runs.
pub(super) struct Placed {
    pub part: Part,
    /// The CPU backend where `None`.
    pub target: Option<Target>,
    pub placement: Placement,
}

/// What one device runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The device, as `--device` names it.
    pub device: String,
    /// Whether it is another than the CPU backend.
    pub offloaded: bool,
    /// Its layers.
    pub layers: Range<usize>,
    /// Whether it ends with the head.
    pub head: bool,
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of keys and values.
    pub kv: u64,
    /// Bytes of activations; an estimate.
    pub scratch: u64,
    /// Bytes that were free on the device before, where it says.
    pub free: Option<u64>,
}

/// Bytes that the pieces of a model take.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pieces {
    /// Weights of each layer.
    layers: Vec<u64>,
    /// Weights of the head.
    head: u64,
    /// Keys and values of a layer.
    kv: u64,
    /// Activations of a pass.
    scratch: u64,
}

impl Pieces {
    /// `scores` says whether attention lays its scores down in memory.
    fn of(
        gguf: &Gguf,
        hyper: &Hyper,
        options: &EngineOptions,
        sizes: &Sizes,
        scores: bool,
    ) -> Pieces {
        let with_prefix = |prefix: &str| -> u64 {
            let tensors = gguf.tensors.iter();
            tensors
                .filter(|t| t.name.starts_with(prefix))
                .map(|t| t.bytes)
                .sum()
        };
        // All names of a layer begin alike: `blk.3.`.
        let layer = |i| with_prefix(&tensor::block(i, ""));
        let tied = gguf.tensor(&tensor::weight(tensor::OUTPUT)).is_none();
        let table = match tied {
            true => with_prefix(&format!("{}.", tensor::TOKEN_EMBD)),
            false => with_prefix(&format!("{}.", tensor::OUTPUT)),
        };
        let n_tokens = options.n_batch.min(sizes.n_ctx);
        // As products and as weights.
        let scores = match scores {
            true => 8 * n_tokens as u64 * u64::from(sizes.n_cells) * hyper.heads.n_head as u64,
            false => 0,
        };
        let mask = 2 * n_tokens as u64 * u64::from(sizes.n_cells);
        Pieces {
            layers: (0..hyper.n_layer).map(layer).collect(),
            head: table + with_prefix(&format!("{}.", tensor::OUTPUT_NORM)),
            kv: kv_shape(hyper, options, sizes, 1).bytes(),
            scratch: hyper.scratch_bytes(n_tokens, n_tokens) + scores + mask,
        }
    }

    fn layer(&self, i: usize) -> u64 {
        self.layers
            .get(i)
            .copied()
            .unwrap_or(0)
            .saturating_add(self.kv)
    }
}

/// The KV store of a device with `n_layer` layers.
pub(super) fn kv_shape(
    hyper: &Hyper,
    options: &EngineOptions,
    sizes: &Sizes,
    n_layer: usize,
) -> KvShape {
    KvShape {
        n_layer,
        n_cells: sizes.n_cells as usize,
        heads: hyper.heads,
        keys: options.kv.0,
        values: options.kv.1,
    }
}

/// Which layers run on which device, in order.
pub(super) fn place(
    gguf: &Gguf,
    hyper: &Hyper,
    options: &EngineOptions,
    sizes: &Sizes,
) -> Result<Vec<Placed>, DeviceError> {
    let targets = choose(options.device)?;
    let kv = kv_shape(hyper, options, sizes, 1);
    let scores = targets.iter().any(|t| !t.fuses_attention(&kv));
    let pieces = Pieces::of(gguf, hyper, options, sizes, scores);
    // What is no GPU shares the machine's memory, so nothing is gained by leaving layers behind.
    let free: Vec<Option<u64>> = targets
        .iter()
        .map(|t| t.memory().map(|(free, _)| free))
        .collect();
    let counts = split(&pieces, &free, options.gpu_layers);
    let on_cpu = hyper.n_layer - counts.iter().sum::<usize>();
    let mut placed = Vec::new();
    let mut add = |layers: Range<usize>, target: Option<Target>| {
        let weights = layers.clone().map(|i| pieces.layers[i]).sum::<u64>();
        let last = layers.end == hyper.n_layer;
        let placement = Placement {
            device: target.as_ref().map_or("cpu".into(), Target::to_string),
            offloaded: target.is_some(),
            head: last,
            weights: weights + if last { pieces.head } else { 0 },
            kv: pieces.kv.saturating_mul(layers.len() as u64),
            scratch: pieces.scratch,
            free: target
                .as_ref()
                .and_then(Target::memory)
                .map(|(free, _)| free),
            layers: layers.clone(),
        };
        placed.push(Placed {
            part: Part {
                first: layers.start == 0,
                last,
                layers,
            },
            target,
            placement,
        });
    };
    if on_cpu > 0 {
        let n = match targets.is_empty() {
            true => options.n_devices.clamp(1, on_cpu),
            false => 1,
        };
        for i in 0..n {
            add(on_cpu * i / n..on_cpu * (i + 1) / n, None);
        }
    }
    let mut start = on_cpu;
    for (target, count) in targets.into_iter().zip(counts) {
        if count > 0 {
            add(start..start + count, Some(target));
            start += count;
        }
    }
    Ok(placed)
}

/// How many layers each device gets, the last ones of the model; `free` are the bytes that each
/// has, where it says.
fn split(pieces: &Pieces, free: &[Option<u64>], wanted: GpuLayers) -> Vec<usize> {
    let n_layer = pieces.layers.len();
    // How many of the last layers would fit each device alone; the head counts on every one,
    // since any may turn out to be the last.
    let fitting = |free: &Option<u64>| {
        let Some(free) = free else { return n_layer };
        let mut left = free.saturating_sub(RESERVE + pieces.scratch + pieces.head);
        let mut n = 0;
        while n < n_layer {
            match left.checked_sub(pieces.layer(n_layer - 1 - n)) {
                Some(rest) => left = rest,
                None => break,
            }
            n += 1;
        }
        n
    };
    let capacity: Vec<usize> = free.iter().map(fitting).collect();
    let total: usize = capacity.iter().sum();
    let n = match wanted {
        GpuLayers::Auto => total.min(n_layer),
        GpuLayers::All => n_layer,
        GpuLayers::Count(n) => n.min(n_layer),
    };
    // In proportion to what fits; evenly where nothing does, so that the device can say so.
    let weight = |i: usize| if total == 0 { 1 } else { capacity[i] };
    let all: usize = (0..free.len()).map(weight).sum();
    let mut before = 0;
    (0..free.len())
        .map(|i| {
            let from = n * before / all.max(1);
            before += weight(i);
            n * before / all.max(1) - from
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Ten layers of 0.9 GiB and as many of 0.1 GiB of KV, a head of 0.25 GiB.
    fn pieces() -> Pieces {
        Pieces {
            layers: vec![9 * GIB / 10; 10],
            head: GIB / 4,
            kv: GIB / 10,
            scratch: GIB / 4,
        }
    }

    #[test]
    fn auto_takes_what_fits_beside_the_head_and_a_reserve() {
        let one = |free| split(&pieces(), &[Some(free)], GpuLayers::Auto);
        // A gibibyte for head, scratch and reserve, then one a layer.
        assert_eq!(one(8 * GIB), [7]);
        assert_eq!(one(8 * GIB - 1000), [6]);
        assert_eq!(one(80 * GIB), [10]);
        assert_eq!(one(GIB), [0]);
        assert_eq!(one(0), [0]);
    }

    #[test]
    fn layers_are_split_in_proportion() {
        let two = |a, b, wanted| split(&pieces(), &[Some(a), Some(b)], wanted);
        assert_eq!(two(80 * GIB, 80 * GIB, GpuLayers::All), [5, 5]);
        assert_eq!(two(5 * GIB, 3 * GIB, GpuLayers::Auto), [4, 2]);
        assert_eq!(two(5 * GIB, 3 * GIB, GpuLayers::Count(3)), [2, 1]);
        // More than fits is tried all the same: it was asked for.
        assert_eq!(two(GIB / 2, GIB / 2, GpuLayers::All), [5, 5]);
    }

    #[test]
    fn counts_are_honoured_and_cut_to_what_there_is() {
        for (wanted, expected) in [
            (GpuLayers::Count(0), 0),
            (GpuLayers::Count(3), 3),
            (GpuLayers::Count(99), 10),
            (GpuLayers::All, 10),
        ] {
            assert_eq!(split(&pieces(), &[Some(8 * GIB)], wanted), [expected]);
        }
        assert_eq!(split(&pieces(), &[], GpuLayers::All), [0; 0]);
        // No word of its memory: all layers.
        assert_eq!(split(&pieces(), &[None], GpuLayers::Auto), [10]);
    }
}
