//! Opening a model: the flags that mean the same on every verb that runs one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
pub use katari::engine::ModelFile;
use katari::engine::{
    DeviceChoice, DeviceInfo, Engine, EngineOptions, GpuLayers, Isa, Placement, devices,
};
use katari::kv::KvType;
use katari::text::{ChatTemplate, Tokenizer};
use katari_gguf::keys::tokenizer::CHAT_TEMPLATE;

use super::output::{bytes, note};
use super::progress::Progress;

/// Where and how a model runs.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Device")]
pub struct ModelArgs {
    /// Threads to compute with [default: one for each physical core]
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Device to run on: cpu, or with ggml built in also ggml-cpu, cuda, cuda:1 and others that
    /// `katari devices` lists; auto takes the GPUs there are, or else cpu
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceChoice,

    /// How many of the last layers a GPU runs: a number, all, or auto for what fits its memory;
    /// the others run on the CPU
    #[arg(long, value_name = "N", default_value_t)]
    gpu_layers: GpuLayers,

    /// Instruction set of the CPU kernels, to compare them: scalar, avx2, avx2-vnni,
    /// avx512-vnni, neon, neon-dotprod or neon-i8mm [default: the best there is]
    #[arg(long, value_name = "NAME")]
    isa: Option<Isa>,

    /// Type of the KV cache, f32, f16, q8_0 or q4_0: one, or one for keys and one for values
    #[arg(long, value_name = "TYPE[,TYPE]")]
    kv: Option<KvTypes>,

    /// Context length in tokens [default: what the model was trained with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    ctx: Option<u32>,
}

/// Types of the cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvTypes(pub KvType, pub KvType);

impl Default for KvTypes {
    fn default() -> Self {
        let EngineOptions {
            kv: (keys, values), ..
        } = EngineOptions::default();
        Self(keys, values)
    }
}

impl fmt::Display for KvTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.0, self.1)
    }
}

impl FromStr for KvTypes {
    type Err = katari::kv::UnknownKvType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (keys, values) = text.split_once(',').unwrap_or((text, text));
        Ok(Self(keys.trim().parse()?, values.trim().parse()?))
    }
}

/// What a verb caches keys and values in unless `--kv` says otherwise.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// Writing: f16, half the memory.
    Write,
    /// Measuring: f32, nothing rounded.
    Measure,
}

impl ModelArgs {
    /// What the flags say of the engine.
    pub fn options(&self, purpose: Purpose) -> EngineOptions {
        let kv = match purpose {
            Purpose::Write => KvType::F16,
            Purpose::Measure => KvType::F32,
        };
        let KvTypes(keys, values) = self.kv.unwrap_or(KvTypes(kv, kv));
        EngineOptions {
            device: self.device,
            gpu_layers: self.gpu_layers,
            threads: self.threads.map(usize::from),
            isa: self.isa,
            n_ctx: self.ctx.map(|n| n as usize),
            kv: (keys, values),
            ..EngineOptions::default()
        }
    }

    /// The device that was chosen.
    pub fn device(&self) -> DeviceChoice {
        self.device
    }

    /// The same flags for another device.
    pub fn on(&self, device: DeviceChoice) -> ModelArgs {
        ModelArgs {
            device,
            ..self.clone()
        }
    }

    /// Opens the model in `file`.
    pub fn open(&self, file: &Path, purpose: Purpose) -> Result<Model> {
        let model = open(file, &self.options(purpose))?;
        if let Some(warning) = model.ctx_warning() {
            note(format_args!("warning: {warning}"));
        }
        Ok(model)
    }
}

/// Opens the model in `file`, and its tokenizer.
pub fn open(file: &Path, options: &EngineOptions) -> Result<Model> {
    let start = Instant::now();
    let engine = load(ModelFile::open(file)?, options)?;
    let tokenizer = tokenizer(engine.file())?;
    Ok(Model {
        engine,
        tokenizer,
        load_time: start.elapsed(),
    })
}

/// Loads `file`, shows how far that is where weights are copied to a device, and says which
/// layers run where unless all run on the CPU.
pub fn load(file: ModelFile, options: &EngineOptions) -> Result<Engine> {
    let mut bar: Option<Progress> = None;
    let engine = Engine::with_progress(file, options, &mut |done, total| {
        bar.get_or_insert_with(|| Progress::new("loading weights (bytes)", total))
            .at(done, "");
    })?;
    drop(bar);
    if engine.placement().iter().any(|part| part.offloaded) {
        for part in engine.placement() {
            note(placement(part, engine.hyper().n_layer));
        }
    } else if options.device != DeviceChoice::Cpu {
        let gpus: Vec<_> = devices().into_iter().filter(|d| d.is_gpu).collect();
        if let Some(why) = not_offloaded(options.gpu_layers, &gpus) {
            note(why);
        }
    }
    Ok(engine)
}

/// Why no layer runs on a GPU, where that may not be what was meant; `gpus` are those there are.
fn not_offloaded(wanted: GpuLayers, gpus: &[DeviceInfo]) -> Option<String> {
    if wanted == GpuLayers::Count(0) {
        return None;
    }
    if gpus.is_empty() {
        return (wanted != GpuLayers::Auto).then(|| {
            format!(
                "warning: --gpu-layers {wanted} has no effect, as there is no GPU here that this \
                 build can use; `katari devices` lists what there is"
            )
        });
    }
    let free = gpus.iter().map(|gpu| match gpu.memory {
        Some((free, _)) => format!("{} ({} free)", gpu.name, bytes(free)),
        None => gpu.name.clone(),
    });
    let free: Vec<String> = free.collect();
    Some(format!(
        "warning: all layers run on the CPU: with the head and the scratch none fits {}; give a \
         smaller --ctx or --kv q8_0, or free some memory",
        free.join(" or ")
    ))
}

/// `cuda:0: layers 13 to 36 of 36 and the head; 1.9 GiB of weights, ...`.
fn placement(part: &Placement, n_layer: usize) -> String {
    let layers = format!(
        "layers {} to {} of {n_layer}",
        part.layers.start + 1,
        part.layers.end
    );
    let head = if part.head { " and the head" } else { "" };
    let (weights, kv) = (bytes(part.weights), bytes(part.kv));
    let free = match part.free {
        Some(free) => format!(", {} were free", bytes(free)),
        None => String::new(),
    };
    format!(
        "{}: {layers}{head}; {weights} of weights, {kv} of keys and values, about {} of scratch{free}",
        part.device,
        bytes(part.scratch),
    )
}

/// A model ready to run.
pub struct Model {
    pub engine: Engine,
    pub tokenizer: Tokenizer,
    /// What opening it took.
    pub load_time: Duration,
}

impl Model {
    /// What to be warned of where `--ctx` is more than the model was trained with.
    pub fn ctx_warning(&self) -> Option<String> {
        let (n_ctx, trained) = (self.engine.n_ctx(), self.engine.n_ctx_train());
        (n_ctx > trained).then(|| {
            format!(
                "--ctx {n_ctx} is more than the {trained} tokens the model was trained with; \
                 its text gets worse beyond them"
            )
        })
    }

    /// The source of the chat template that the file has, and the template.
    pub fn template(&self) -> Result<Option<(&str, ChatTemplate)>> {
        let Some(source) = self.engine.gguf().metadata.opt::<&str>(CHAT_TEMPLATE)? else {
            return Ok(None);
        };
        let piece = |id: Option<u32>| id.map_or("", |id| self.tokenizer.piece(id));
        let template = ChatTemplate::new(source)
            .with_context(|| format!("metadata key '{CHAT_TEMPLATE}'"))?
            .with("bos_token", piece(self.tokenizer.bos()))
            .with("eos_token", piece(self.tokenizer.eos()));
        Ok(Some((source, template)))
    }
}

/// The tokenizer that `file` holds.
pub fn tokenizer(file: &ModelFile) -> Result<Tokenizer> {
    Tokenizer::from_metadata(&file.gguf().metadata)
        .with_context(|| file.path().display().to_string())
}

/// A GGUF file given on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArg {
    /// The model, a GGUF file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// The text in the file at `path`, which must be UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    utf8(bytes, &path.display().to_string())
}

/// `bytes` as text; `name` says where they are from.
pub fn utf8(bytes: Vec<u8>, name: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        anyhow::anyhow!(
            "{name}: the text is not UTF-8 from byte {} on; convert it first",
            error.utf8_error().valid_up_to()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_no_gpu_takes_are_a_warning_unless_nobody_asked() {
        let card = DeviceInfo {
            name: "cuda:0".into(),
            description: "a card".into(),
            is_gpu: true,
            memory: Some((300 << 20, 4 << 30)),
        };
        assert_eq!(not_offloaded(GpuLayers::Auto, &[]), None);
        assert_eq!(not_offloaded(GpuLayers::Count(0), &[]), None);
        assert_eq!(
            not_offloaded(GpuLayers::Count(0), std::slice::from_ref(&card)),
            None
        );
        let said = |wanted, gpus: &[DeviceInfo]| not_offloaded(wanted, gpus).unwrap();
        let none = said(GpuLayers::Count(8), &[]);
        assert!(none.contains("--gpu-layers 8 has no effect"), "{none}");
        assert!(said(GpuLayers::All, &[]).contains("--gpu-layers all"));
        let full = said(GpuLayers::Auto, &[card]);
        assert!(full.contains("none fits cuda:0 (300.0 MiB free)"), "{full}");
    }
}
