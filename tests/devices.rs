//! The devices under test: what is true on each of them, and how near it comes to the references.

use std::path::Path;

use katari::engine::{
    DeviceChoice, Engine, EngineOptions, Feed, GpuLayers, SessionError, compare, devices,
};
use katari::kv::KvType;
use katari_gguf::Gguf;

use crate::support::{Tiny, relative_rms, scratch};

/// A device, and how far its results may be from the references', in units of what the CPU
/// backend may be off where a field does not say otherwise.
pub struct Backend {
    /// As `--device` takes it.
    pub device: &'static str,
    /// Whether a row's logits are the same to the bit whatever travels with it.
    pub repeatable: bool,
    /// A logit, and a mean negative log-likelihood, of f32 weights.
    pub f32: f32,
    /// The same of f16 weights.
    pub f16: f32,
    /// How far logits may be that differ by what a device rounds on the way, relative RMS:
    /// other company in the batch, other cells of the cache.
    pub noise: f64,
    /// The same of models and caches in f32.
    pub f32_noise: f64,
}

impl Backend {
    /// Options that choose it. One thread: tests already run beside each other.
    pub fn options(&self) -> EngineOptions {
        let device: DeviceChoice = self.device.parse().unwrap();
        EngineOptions {
            device,
            threads: Some(1),
            ..EngineOptions::default()
        }
    }
}

impl Backend {
    /// Whether logits are those that the same work gave elsewhere in a batch, or with the cache
    /// in other cells.
    pub fn same(&self, found: &[f32], expected: &[f32]) -> bool {
        match self.repeatable {
            true => found == expected,
            false => relative_rms(found, expected) <= self.noise,
        }
    }
}

/// Our own backend.
pub const CPU: Backend = Backend {
    device: "cpu",
    repeatable: true,
    f32: 1.0,
    f16: 1.0,
    noise: 0.0,
    f32_noise: 0.0,
};

/// ggml's CPU device. In f32 it is as exact as ours. What it multiplies with f16 it rounds to f16
/// (11 bits) first, and it adds values of an f16 cache in f16: logits of f16 weights were up to
/// 4.9e-3 off (33 times the unit), mean log-likelihoods 4e-5 (twice), and rows 1.2e-3 apart that
/// were computed in other company.
#[cfg(feature = "ggml")]
pub const GGML_CPU: Backend = Backend {
    device: "ggml-cpu",
    repeatable: false,
    f32: 1.0,
    f16: 50.0,
    noise: 3e-3,
    f32_noise: 1e-5,
};

/// The first CUDA device. Its matrix products take f32 as TF32 (10 bits) and f16 as it is, so
/// twice what ggml's CPU device may be off in f16; no GPU was there to measure it on.
#[cfg(feature = "ggml")]
pub const CUDA: Backend = Backend {
    device: "cuda:0",
    repeatable: false,
    f32: 100.0,
    f16: 100.0,
    noise: 6e-3,
    f32_noise: 6e-3,
};

/// Makes a test of each function on each device: `cpu::name`, and with ggml built in
/// `ggml_cpu::name`, and `cuda::name`, which is ignored unless asked for.
macro_rules! on_every_device {
    ($($name:ident),* $(,)?) => {
        mod cpu {
            $(#[test] fn $name() { super::$name(&crate::devices::CPU) })*
        }
        #[cfg(feature = "ggml")]
        mod ggml_cpu {
            $(#[test] fn $name() { super::$name(&crate::devices::GGML_CPU) })*
        }
        #[cfg(feature = "ggml")]
        mod cuda {
            $(#[test] #[ignore = "needs an NVIDIA GPU"] fn $name() {
                super::$name(&crate::devices::CUDA)
            })*
        }
    };
}
pub(crate) use on_every_device;

on_every_device!(
    layers_split_between_the_cpu_and_a_device_give_what_the_cpu_gives,
    operations_traced_are_those_of_the_cpu,
);

/// Opens a model in f32.
fn open(backend: &Backend, tiny: &Tiny, gpu_layers: GpuLayers) -> Engine {
    let options = EngineOptions {
        kv: (KvType::F32, KvType::F32),
        gpu_layers,
        ..backend.options()
    };
    Engine::open(&tiny.file(), &options).unwrap()
}

/// A prompt of which the last token wants logits, and the second, too.
fn prompt() -> Vec<Feed> {
    let tokens = (0..20).map(|i| (i * 7 + 3) % Tiny::N_VOCAB as u32);
    let feeds = tokens.enumerate().map(|(i, token)| Feed {
        sequence: 0,
        token,
        wants_logits: i == 1 || i == 19,
    });
    feeds.collect()
}

/// Logits of the prompt, and of one more token.
fn logits(engine: &mut Engine) -> Result<Vec<f32>, SessionError> {
    let mut logits = engine
        .evaluate(&prompt())?
        .rows()
        .collect::<Vec<_>>()
        .concat();
    let feed = Feed {
        sequence: 0,
        token: 5,
        wants_logits: true,
    };
    logits.extend(engine.evaluate(&[feed])?.rows().flatten());
    Ok(logits)
}

fn layers_split_between_the_cpu_and_a_device_give_what_the_cpu_gives(backend: &Backend) {
    for architecture in ["gptj", "gptneox", "gptneox-japanese", "gpt2"] {
        let tiny = Tiny::new(architecture);
        let expected = logits(&mut open(&CPU, &tiny, GpuLayers::Auto)).unwrap();
        for n in 0..=tiny.n_layer {
            let mut engine = open(backend, &tiny, GpuLayers::Count(n));
            let offloaded = engine.placement().iter().filter(|part| part.offloaded);
            let layers: usize = offloaded.map(|part| part.layers.len()).sum();
            assert_eq!(layers, if backend.device == "cpu" { 0 } else { n });
            let found = logits(&mut engine).unwrap();
            let error = relative_rms(&found, &expected);
            let tolerance = backend.f32_noise.max(f64::from(f32::EPSILON));
            assert!(error <= tolerance, "{architecture}, {n} layers: {error}");
            // A saved sequence holds the cells of both devices.
            let saved = engine.export(0).unwrap();
            let mut other = open(backend, &tiny, GpuLayers::Count(n));
            other.import(0, &saved).unwrap();
            assert_eq!(other.export(0).unwrap(), saved);
        }
    }
}

fn operations_traced_are_those_of_the_cpu(backend: &Backend) {
    for architecture in ["gptj", "gptneox", "gptneox-japanese", "gpt2"] {
        let tiny = Tiny::new(architecture);
        let expected = open(&CPU, &tiny, GpuLayers::All).session().trace(&prompt());
        let expected = expected.unwrap();
        assert!(expected.len() > 10 * tiny.n_layer);
        // Whole, and split over two devices: the same operations by the same names.
        for (gpu_layers, n_devices) in [(GpuLayers::All, 1), (GpuLayers::Count(1), 2)] {
            let options = EngineOptions {
                kv: (KvType::F32, KvType::F32),
                gpu_layers,
                n_devices,
                ..backend.options()
            };
            let mut other = Engine::open(&tiny.file(), &options).unwrap();
            assert_eq!(other.placement().len(), n_devices);
            let found = other.session().trace(&prompt()).unwrap();
            for difference in compare(&expected, &found) {
                let tolerance = backend.f32_noise.max(f64::from(f32::EPSILON));
                assert!(
                    difference.error <= tolerance,
                    "{architecture} on {n_devices}: {difference:?}"
                );
            }
            assert_eq!(compare(&expected, &found).len(), expected.len());
            // The last one gives the logits, and nothing stays behind in the sequence.
            assert!(other.session().is_empty(0));
            let logits = other.evaluate(&prompt()).unwrap();
            let logits = logits.rows().collect::<Vec<_>>().concat();
            assert!(backend.same(&found.last().unwrap().values, &logits));
        }
    }
}

#[cfg(feature = "ggml")]
#[test]
fn what_does_not_fit_is_refused_before_weights_are_copied() {
    // Many layers, so that a long context needs more bytes than a process can address.
    let tiny = Tiny {
        n_layer: 1024,
        n_embd: 16,
        ..Tiny::new("gptj")
    };
    let options = EngineOptions {
        n_ctx: Some(i32::MAX as usize),
        kv: (KvType::F32, KvType::F32),
        ..GGML_CPU.options()
    };
    let file = katari::engine::ModelFile::open(&tiny.file()).unwrap();
    let mut copied = 0;
    let engine = Engine::with_progress(file, &options, &mut |done, _| copied = done);
    let Err(error) = engine else {
        panic!("there is no such memory");
    };
    let error = error.to_string();
    assert!(error.contains("ggml-cpu: the KV cache of "), "{error}");
    assert_eq!(copied, 0);
}

/// A weight of the second layer that is wrong on one side alone: the first operation that differs
/// is the one that reads it.
#[test]
fn the_operation_with_the_fault_is_the_first_that_differs() {
    let tiny = Tiny::new("gptneox");
    let faulty = scratch("faulty-layer.gguf");
    let mut bytes = std::fs::read(tiny.file()).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let weight = gguf.tensor("blk.1.attn_output.weight").unwrap();
    let at = (gguf.data_start() + weight.offset) as usize;
    bytes[at..at + 4].copy_from_slice(&9f32.to_le_bytes());
    std::fs::write(&faulty, bytes).unwrap();

    let trace = |file: &Path| {
        let mut engine = Engine::open(file, &CPU.options()).unwrap();
        engine.session().trace(&prompt()).unwrap()
    };
    let (expected, found) = (trace(&tiny.file()), trace(&faulty));
    let differences = compare(&expected, &found);
    let first = differences.iter().find(|d| d.error > 0.0).unwrap().index;
    assert_eq!(expected[first - 1].operation, "attend 1");
    assert_eq!(expected[first].operation, "linear 1 of 1");
}

#[test]
fn the_cpu_is_a_device() {
    let names: Vec<String> = devices().into_iter().map(|device| device.name).collect();
    assert_eq!(names[0], "cpu");
    assert_eq!(
        names.contains(&"ggml-cpu".to_string()),
        cfg!(feature = "ggml")
    );
}

#[test]
fn a_device_that_is_not_there_is_named_beside_those_that_are() {
    let options = EngineOptions {
        device: "cuda:99".parse().unwrap(),
        ..EngineOptions::default()
    };
    let Err(error) = Engine::open(&Tiny::new("gptj").file(), &options) else {
        panic!("there are no hundred GPUs");
    };
    let error = error.to_string();
    assert!(
        error.contains("no device cuda:99 here (there is cpu"),
        "{error}"
    );
}
