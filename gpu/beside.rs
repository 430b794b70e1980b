//! Katari's speed beside that of llama.cpp: the same file, device, layers and types, one after
//! the other in one process, on the same ggml. Weights are random, of a published model's shape.
//!
//! Prints a line of a Markdown table for each test; `--names` prints its head.

mod llama;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use katari::bench::{Bench, Measured, Test, Work, median, synthetic};
use katari::engine::{DeviceChoice, Engine, EngineOptions, GpuLayers, ModelFile, memory_rate};
use katari_gguf::{TensorSpec, Writer, keys};
use katari_quantize::FileType;
use katari_quantize::shapes::Shape;
use llama::{Llama, Wanted};

/// Architectures that llama.cpp runs, too.
const SHARED: [&str; 2] = ["gptneox", "gpt2"];

/// Tokens of a pass at most.
const BATCH: usize = 512;
/// Tokens that precede a timed prompt, and a timed decode.
const WARM_PREFILL: usize = 32;
const WARM_DECODE: usize = 2;

#[derive(Debug, Parser)]
#[command(about = "Time katari beside llama.cpp on one device")]
struct Args {
    /// The model's shape
    #[arg(long, value_enum, required_unless_present = "names")]
    shape: Option<Shape>,
    /// Type of its weights
    #[arg(
        long = "type",
        value_enum,
        ignore_case = true,
        default_value = "q4_k_m"
    )]
    file_type: FileType,
    /// The device, as `katari devices` names it
    #[arg(long, default_value = "cuda:0")]
    device: DeviceChoice,
    /// How many of the last layers it runs: a number or all
    #[arg(long, default_value = "all")]
    gpu_layers: GpuLayers,
    /// Threads of the CPU [default: one for each physical core]
    #[arg(short = 't', long)]
    threads: Option<usize>,
    /// Tokens of the prompt
    #[arg(short = 'p', default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode
    #[arg(short = 'n', default_value_t = 64)]
    decode: usize,
    /// Tokens of context before them
    #[arg(short = 'd', value_delimiter = ',', default_value = "0,512")]
    depths: Vec<usize>,
    /// How often each test is timed
    #[arg(short = 'r', default_value_t = 5)]
    repetitions: usize,
    /// Folder for the file that both read [default: the system's for temporary files]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print the table's head and nothing else
    #[arg(long)]
    names: bool,
}

impl Args {
    fn tests(&self) -> Vec<Test> {
        let of = |&depth: &usize| {
            let prefill = Test::Prefill {
                tokens: self.prompt,
                depth,
            };
            let decode = Test::Decode {
                tokens: self.decode,
                depth,
                sequences: 1,
            };
            [prefill, decode]
        };
        self.depths.iter().flat_map(of).collect()
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(shape) = args.shape else {
        println!(
            "| shape | type | device | test | katari, tokens/s | llama.cpp, tokens/s | ratio | \
             GB/s | of the memory's | operations | llama.cpp's |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
        return Ok(());
    };
    let tests = args.tests();
    let options = EngineOptions {
        device: args.device,
        gpu_layers: args.gpu_layers,
        threads: args.threads,
        n_ctx: tests.iter().map(|test| test.context()).max(),
        n_batch: BATCH,
        ..EngineOptions::default()
    };
    let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let file = tempfile::NamedTempFile::with_prefix_in("beside-", &folder)?;
    save(shape, args.file_type, file.path())
        .with_context(|| format!("cannot write a file into {}", folder.display()))?;

    let ours = katari(file.path(), &options, &tests, args.repetitions)?;
    let theirs = match SHARED.contains(&ours.architecture) {
        true => llama(file.path(), &options, &ours, &tests, args.repetitions)?,
        false => tests.iter().map(|_| None).collect(),
    };
    for ((test, row), theirs) in tests.iter().zip(&ours.rows).zip(&theirs) {
        let bandwidth = row.measured.read.bytes() / row.measured.median();
        let (share, operations) = match test {
            Test::Prefill { .. } => (None, None),
            Test::Decode { .. } => (
                ours.memory_rate.map(|rate| bandwidth / rate),
                row.operations,
            ),
        };
        let rate = |seconds: &[f64]| test.tokens() as f64 / median(seconds);
        let (mine, their) = (
            row.measured.tokens_per_second(),
            theirs.as_ref().map(|t| rate(&t.seconds)),
        );
        let cell = |value: Option<String>| value.unwrap_or_default();
        println!(
            "| {} | {} | {} | {test} | {mine:.1} | {} | {} | {} | {} | {} | {} |",
            shape.name(),
            args.file_type.name(),
            ours.devices,
            cell(their.map(|t| format!("{t:.1}"))),
            cell(their.map(|t| format!("{:.2}", mine / t))),
            cell(share.map(|_| format!("{:.0}", bandwidth / 1e9))),
            cell(share.zip(ours.memory_rate).map(|(share, rate)| format!(
                "{:.0} % of {:.0}",
                share * 100.0,
                rate / 1e9
            ))),
            cell(operations.map(|n| n.to_string())),
            cell(
                theirs
                    .as_ref()
                    .and_then(|t| t.operations)
                    .filter(|_| operations.is_some())
                    .map(|n| n.to_string())
            ),
        );
    }
    Ok(())
}

/// Writes a model of random weights to `path`, with what llama.cpp asks for where a file has no
/// tokenizer.
fn save(shape: Shape, file_type: FileType, path: &Path) -> Result<()> {
    let model = synthetic::model(shape, file_type, |_, _| ())?;
    let gguf = model.gguf();
    let (architecture, hyper) = model.architecture()?;
    let mut metadata = gguf.metadata.clone();
    metadata.set(keys::tokenizer::MODEL, "no_vocab");
    let vocabulary = format!("{}.vocab_size", architecture.name());
    metadata.set(&vocabulary, u32::try_from(hyper.n_vocab)?);
    let specs: Vec<TensorSpec> = (gguf.tensors.iter())
        .map(|tensor| TensorSpec {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            format: tensor.format,
        })
        .collect();
    let mut writer = Writer::new(BufWriter::new(File::create(path)?), &metadata, &specs)?;
    for tensor in &gguf.tensors {
        writer.write(gguf.data(model.bytes(), tensor))?;
    }
    writer.finish()?;
    Ok(())
}

/// What one test took here.
struct Row {
    measured: Measured,
    /// Operations of its last pass, where the devices count them.
    operations: Option<usize>,
}

/// What all tests took here.
struct Ours {
    architecture: &'static str,
    /// What runs where.
    devices: String,
    /// Layers that the device runs, and all there are.
    layers: (usize, usize),
    /// Bytes a second of the device's memory, where it runs all layers.
    memory_rate: Option<f64>,
    rows: Vec<Row>,
}

fn katari(
    path: &Path,
    options: &EngineOptions,
    tests: &[Test],
    repetitions: usize,
) -> Result<Ours> {
    let mut engine = Engine::new(ModelFile::open(path)?, options)?;
    let placement = engine.placement().to_vec();
    let named = placement.iter().map(|part| match placement.len() {
        1 => part.device.clone(),
        _ => format!("{}: {}", part.device, part.layers.len()),
    });
    let offloaded = placement.iter().filter(|part| part.offloaded);
    let work = Work::new(engine.gguf(), engine.hyper(), options.kv);
    let mut rows = Vec::new();
    for &test in tests {
        let mut bench = Bench::new(&mut engine, work.clone(), BATCH, &|| true);
        let measured = bench.run(test, repetitions, |_| ())?;
        let operations = Some(engine.session().operations()).filter(|&n| n > 0);
        rows.push(Row {
            measured,
            operations,
        });
    }
    let memory_rate = match placement.as_slice() {
        // Without it the rows say nothing of a share, and why is on standard error.
        [whole] if whole.offloaded => memory_rate(&whole.device, options.threads())
            .inspect_err(|cause| eprintln!("{cause}"))
            .ok(),
        _ => None,
    };
    Ok(Ours {
        architecture: engine.architecture().name(),
        devices: named.collect::<Vec<_>>().join(", "),
        layers: (
            offloaded.map(|part| part.layers.len()).sum(),
            engine.hyper().n_layer,
        ),
        memory_rate,
        rows,
    })
}

/// What one test took llama.cpp.
struct Theirs {
    seconds: Vec<f64>,
    /// Operations of a pass of one token.
    operations: Option<usize>,
}

fn llama(
    path: &Path,
    options: &EngineOptions,
    ours: &Ours,
    tests: &[Test],
    repetitions: usize,
) -> Result<Vec<Option<Theirs>>> {
    let device = options.device.to_string();
    let gpu = match options.device {
        DeviceChoice::Cpu => None,
        _ => Some(device.as_str()).filter(|name| *name != "ggml-cpu" && ours.layers.0 > 0),
    };
    let options = llama::Options {
        gpu,
        gpu_layers: ours.layers.0,
        threads: options.threads(),
        n_ctx: options.n_ctx.unwrap_or(BATCH),
        n_batch: BATCH,
        kv: llama_cpp_sys_2::GGML_TYPE_F16,
        flash: true,
    };
    let failed = |message: String| anyhow!("{message}");
    let mut counting = Llama::counting(path, &options).map_err(failed)?;
    counting.operations();
    counting.evaluate(&[1], Wanted::Last).map_err(failed)?;
    let operations = counting.operations();
    drop(counting);

    let mut llama = Llama::open(path, &options).map_err(failed)?;
    let mut rows = Vec::new();
    for &test in tests {
        let (tokens, depth) = match test {
            Test::Prefill { tokens, depth } | Test::Decode { tokens, depth, .. } => (tokens, depth),
        };
        let mut pass = |from: usize, n: usize, of: usize| -> Result<f64> {
            llama.truncate(from);
            let ids: Vec<u32> = (0..n as u32).map(|i| (i * 7919 + 1) % 30_000).collect();
            let start = Instant::now();
            for ids in ids.chunks(of) {
                let logits = llama.evaluate(ids, Wanted::Last).map_err(failed)?;
                std::hint::black_box(logits);
            }
            Ok(start.elapsed().as_secs_f64())
        };
        pass(0, depth, BATCH)?;
        let (of, warm) = match test {
            Test::Prefill { .. } => (BATCH, WARM_PREFILL),
            Test::Decode { .. } => (1, WARM_DECODE),
        };
        pass(depth, warm.min(tokens), of)?;
        let seconds = (0..repetitions.max(1)).map(|_| pass(depth, tokens, of));
        rows.push(Some(Theirs {
            seconds: seconds.collect::<Result<_>>()?,
            operations,
        }));
    }
    Ok(rows)
}
