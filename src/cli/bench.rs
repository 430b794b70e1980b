//! `katari bench`: how fast a model runs, and how near that is to what the machine can do.

mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use katari::bench::{
    Ahead, Bench, BenchError, Limits, Measured, Read, Stream, Test, Work, memory, synthetic,
};
use katari::engine::{Engine, EngineOptions, Feed, Isa, ModelFile, memory_rate};
use katari_gguf::{Format, keys};
use katari_quantize::FileType;
use katari_quantize::shapes::Shape;

use super::failure::Failure;
use super::interrupt::Watch;
use super::model::{ModelArgs, Purpose, load, tokenizer};
use super::output::note;
use super::progress::Progress;
use report::{Report, Row};

/// Tokens of the prompt that --load times the first token after.
const LOAD_PROMPT: usize = 16;

/// Measure how fast a model runs, and how near that is to what the machine can do.
///
/// Only forward passes are timed: no text, no sampling. A test is a prompt of P tokens (pp128) or
/// N tokens one after another (tg32), each after D tokens of context (tg32@d1800); with --batch S
/// also S sequences that decode together (tg32x8), and a prompt of S tokens beside it. After a
/// short pass of its kind to warm up (at most 32 tokens of a prompt, 2 of a decode) each test is
/// timed several times; shown are the median and half the range.
///
/// The limits are measured in the same run on as many threads: the bandwidth is held against
/// reading memory and nothing else (a sum over 2 GiB unless --stream says otherwise) just before
/// and just after each repetition, the arithmetic against the kernels on a tile that stays in each
/// core's cache. Shown is the median of the repetitions' shares. Where another device runs all
/// layers, its own memory is what the bandwidth is held against (the faster of a sum and a copy
/// over 256 MiB, or over a quarter of what the model leaves free, which must be 512 MiB), and the
/// arithmetic against nothing; with layers on both there is no one limit, and none is shown.
/// Bandwidth counts the bytes of the weights and of the keys and values that a pass reads;
/// arithmetic counts the products with weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari bench model.gguf -p 128,512 -n 32 -d 0,1800 -t 2\n  \
    katari bench --shape rinna-neox-3.6b --type q4_k_m --isa avx2 --kv q8_0 --json")]
pub struct Args {
    /// The model, a GGUF file
    #[arg(value_name = "FILE", conflicts_with = "shape")]
    file: Option<PathBuf>,
    /// A published model's shape with random weights in memory, in place of a file
    #[arg(long, value_name = "SHAPE", value_enum)]
    shape: Option<Shape>,
    /// Type of the shape's weights, as of `katari quantize`
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_enum,
        ignore_case = true,
        default_value = "q4_k_m",
        conflicts_with = "file"
    )]
    file_type: FileType,
    /// Tokens of the prompts to time, joined by commas; 0 for none
    #[arg(
        short = 'p',
        long = "prompt",
        value_name = "P,..",
        value_delimiter = ',',
        default_value = "128"
    )]
    prompts: Vec<u16>,
    /// Tokens to decode one after another; 0 for none
    #[arg(
        short = 'n',
        long = "decode",
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "32"
    )]
    decodes: Vec<u16>,
    /// Tokens of context before them
    #[arg(
        short = 'd',
        long = "depth",
        value_name = "D,..",
        value_delimiter = ',',
        default_value = "0"
    )]
    depths: Vec<u16>,
    /// Sequences that decode together
    #[arg(
        short = 'b',
        long = "batch",
        value_name = "S,..",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=256)
    )]
    batches: Vec<u16>,
    /// Time opening FILE up to the first token after a prompt of 16, too
    #[arg(long)]
    load: bool,
    /// How often each test is timed
    #[arg(
        short = 'r',
        long,
        value_name = "R",
        default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    repetitions: u16,
    /// MiB of memory to take the stream rate over; less for a machine that has not so much
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 2048,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    stream: u32,
    /// Print JSON: an array with an object for each test
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV, a line for each test below a line of names
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let tests = args.tests();
    if tests.is_empty() && !args.load {
        return Err(Failure::usage(
            "nothing to time: -p, -n and -b are 0 or absent; give one of them, or --load",
        ));
    }
    let source = args.source()?;
    let watch = Watch::start();
    let mut options = args.model.options(Purpose::Write);
    options.isa = Some(options.isa.unwrap_or_else(Isa::best));
    options.threads = Some(options.threads());
    let limits = Limits::new(options.threads(), options.isa)?;
    let needed = tests.iter().map(|test| test.context()).max();
    let needed = needed.unwrap_or(LOAD_PROMPT).max(LOAD_PROMPT);
    if let Some(n_ctx) = options.n_ctx.filter(|&n_ctx| n_ctx < needed) {
        return Err(Failure::usage(format_args!(
            "--ctx {n_ctx} is too short for a test of {needed} tokens"
        )));
    }
    options.n_ctx = options.n_ctx.or(Some(needed));
    options.n_sequences = tests.iter().map(|t| t.sequences()).max().unwrap_or(1);

    let mut run = Run {
        options,
        limits,
        watch,
        repetitions: usize::from(args.repetitions),
        stream: stream_memory(args.stream)?,
        multiply_rates: Vec::new(),
        device_rate: None,
        progress: Progress::new(
            "runs",
            u64::from(args.repetitions) * (tests.len() as u64 + u64::from(args.load)),
        ),
        done: 0,
    };
    let mut rows = Vec::new();
    let mut loaded = None;
    if let (Source::File(path), true) = (source, args.load) {
        loaded = Some(run.load(path)?);
    }
    let (file, name) = source.open(args.file_type)?;
    let (_, hyper) = file.architecture()?;
    let work = Work::new(file.gguf(), &hyper, run.options.kv);
    let mut engine = load(file, &run.options)?;
    let file = engine.file();
    let mut report = Report::new(
        name,
        type_name(file),
        file,
        &run.options,
        engine.placement(),
    );
    if !run.is_elsewhere(&engine) {
        report.registers = run.limits.registers();
        run.measure_kernels(&work);
    }
    rows.extend(loaded.map(|row| run.row(row)));
    for test in tests {
        let row = run.test(&mut engine, &work, test)?;
        rows.push(run.row(row));
    }
    drop(run.progress);
    report.print(&rows, args.json, args.csv)
}

/// What is measured.
#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Path),
    Shape(Shape),
}

impl Source<'_> {
    /// The model, and what the results call it.
    fn open(self, file_type: FileType) -> Result<(ModelFile, String), Failure> {
        match self {
            Source::File(path) => Ok((ModelFile::open(path)?, path.display().to_string())),
            Source::Shape(shape) => {
                let mut progress = None;
                let file = synthetic::model(shape, file_type, |done, total| {
                    (progress.get_or_insert_with(|| Progress::new("bytes of weights", total)))
                        .at(done, "");
                });
                Ok((file?, shape.name().to_string()))
            }
        }
    }
}

impl Args {
    fn source(&self) -> Result<Source<'_>, Failure> {
        match (&self.file, self.shape) {
            (Some(path), _) => Ok(Source::File(path)),
            (None, Some(_)) if self.load => Err(Failure::usage(
                "--load times opening a FILE, which --shape has none of; give FILE",
            )),
            (None, Some(shape)) => Ok(Source::Shape(shape)),
            (None, None) => Err(Failure::usage(
                "nothing to measure: give FILE, or a model's shape with --shape",
            )),
        }
    }

    /// Every test that the flags name, once, depth by depth.
    fn tests(&self) -> Vec<Test> {
        let mut tests: Vec<Test> = Vec::new();
        let numbers = |list: &[u16]| -> Vec<usize> {
            let numbers = list.iter().filter(|&&n| n > 0);
            numbers.map(|&n| usize::from(n)).collect()
        };
        let (prompts, decodes) = (numbers(&self.prompts), numbers(&self.decodes));
        for depth in self.depths.iter().map(|&d| usize::from(d)) {
            let prefill = |&tokens: &usize| Test::Prefill { tokens, depth };
            let decode = |tokens, sequences| Test::Decode {
                tokens,
                depth,
                sequences,
            };
            tests.extend(prompts.iter().map(prefill));
            tests.extend(decodes.iter().map(|&tokens| decode(tokens, 1)));
            for sequences in numbers(&self.batches) {
                tests.push(prefill(&sequences));
                tests.extend(decodes.iter().map(|&tokens| decode(tokens, sequences)));
            }
        }
        let mut once = Vec::with_capacity(tests.len());
        for test in tests {
            if !once.contains(&test) {
                once.push(test);
            }
        }
        once
    }
}

/// The `--type` that the file says it is of, or the format of most of its bytes.
fn type_name(file: &ModelFile) -> String {
    let id = file.gguf().metadata.opt(keys::general::FILE_TYPE);
    if let Some(file_type) = id.ok().flatten().and_then(FileType::from_id) {
        return file_type.name().to_string();
    }
    let bytes = |format: Format| -> u64 {
        let tensors = file.gguf().tensors.iter();
        tensors
            .filter(|t| t.format == format)
            .map(|t| t.bytes)
            .sum()
    };
    let most = Format::ALL.iter().max_by_key(|&&format| bytes(format));
    most.map_or(String::new(), |format| format.to_string())
}

/// What a row is made of, beside the rates of the kernels.
struct Timed {
    test: String,
    measured: Measured,
    /// Bytes a second that can be read, before the first repetition and after each: the rate may
    /// change from one second to the next where a machine is shared.
    streams: Vec<f64>,
    /// Memory at its end, without what the stream rate takes; the peak is the test's own.
    memory: Option<memory::Resident>,
}

/// What the tests of a run share.
struct Run {
    options: EngineOptions,
    limits: Limits,
    watch: Watch,
    repetitions: usize,
    /// What the stream rate is taken over.
    stream: Stream,
    /// Multiply-accumulates a second of the kernels of each format.
    multiply_rates: Vec<(Format, f64)>,
    /// Bytes a second of the memory that the model lies in, once it is known that it is not the
    /// CPU's: a device's own, or no number where the layers are split or it cannot be measured.
    device_rate: Option<f64>,
    progress: Progress,
    done: u64,
}

impl Run {
    fn measure_kernels(&mut self, work: &Work) {
        let formats = work.formats().into_iter();
        self.multiply_rates = formats.map(|f| (f, self.limits.multiply(f))).collect();
    }

    fn row(&self, timed: Timed) -> Row {
        let rate = |format| {
            let mut rates = self.multiply_rates.iter();
            rates.find(|r| r.0 == format).map_or(f64::NAN, |r| r.1)
        };
        Row::new(&timed, rate)
    }

    /// Whether layers run elsewhere than on the CPU; the memory of the device that runs all of
    /// them is measured then, once.
    fn is_elsewhere(&mut self, engine: &Engine) -> bool {
        let placement = engine.placement();
        if self.device_rate.is_none() && placement.iter().any(|part| part.offloaded) {
            let measure = |device: &str| {
                memory_rate(device, self.options.threads()).unwrap_or_else(|cause| {
                    note(format_args!(
                        "no limit to hold the bandwidth against: {cause}"
                    ));
                    f64::NAN
                })
            };
            self.device_rate = Some(match placement {
                [whole] => measure(&whole.device),
                _ => f64::NAN,
            });
        }
        self.device_rate.is_some()
    }

    /// Takes the rate at which memory is read now, after `done` repetitions.
    fn between(&mut self, test: &str, done: usize, streams: &mut Vec<f64>) {
        if done > 0 {
            self.done += 1;
            self.progress.at(self.done, test);
        }
        if let Some(rate) = self.device_rate {
            streams.push(rate);
            return;
        }
        let passes = [Ahead::Processor, Ahead::Program];
        let rates = passes.map(|ahead| self.limits.stream(&self.stream, ahead));
        streams.push(rates.into_iter().fold(0.0, f64::max));
    }

    /// What the process takes for the model.
    fn memory(&self) -> Option<memory::Resident> {
        Some(memory::resident()?.without(size_of_val(self.stream.values())))
    }

    fn test(&mut self, engine: &mut Engine, work: &Work, test: Test) -> Result<Timed, Failure> {
        memory::reset_peak();
        let mut streams = Vec::new();
        let name = test.to_string();
        let n_batch = self.options.n_batch;
        let interrupted = self.watch.flag();
        let go_on = || !interrupted.load(std::sync::atomic::Ordering::Relaxed);
        let mut bench = Bench::new(engine, work.clone(), n_batch, &go_on);
        let repetitions = self.repetitions;
        let measured = bench.run(test, repetitions, |done| {
            self.between(&name, done, &mut streams)
        });
        let measured = measured.map_err(|error| match error {
            BenchError::Interrupted => Failure::interrupted(),
            other => Failure::from(other),
        })?;
        Ok(Timed {
            test: name,
            measured,
            streams,
            memory: self.memory(),
        })
    }

    /// Opens the file anew each time and evaluates a short prompt.
    fn load(&mut self, path: &Path) -> Result<Timed, Failure> {
        memory::reset_peak();
        let name = format!("load+pp{LOAD_PROMPT}");
        let (mut seconds, mut streams) = (Vec::new(), Vec::new());
        let mut memory = None;
        let mut read: Option<Read> = None;
        // The first run brings the file into the page cache.
        for i in 0..=self.repetitions {
            if self.watch.requested() {
                return Err(Failure::interrupted());
            }
            let start = Instant::now();
            let mut engine = Engine::open(path, &self.options)?;
            let tokenizer = tokenizer(engine.file())?;
            let ids = 0..engine.n_vocab().min(tokenizer.n_tokens()) as u32;
            let feeds: Vec<Feed> = (ids.cycle().step_by(7).take(LOAD_PROMPT))
                .zip(1..)
                .map(|(token, n)| Feed {
                    sequence: 0,
                    token,
                    wants_logits: n == LOAD_PROMPT,
                })
                .collect();
            engine.evaluate(&feeds)?;
            if i > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
            memory = self.memory();
            read.get_or_insert_with(|| {
                let prompt = Test::Prefill {
                    tokens: LOAD_PROMPT,
                    depth: 0,
                };
                Work::new(engine.gguf(), engine.hyper(), self.options.kv).of(prompt, LOAD_PROMPT)
            });
            self.is_elsewhere(&engine);
            drop(engine);
            self.between(&name, i, &mut streams);
        }
        Ok(Timed {
            test: name,
            measured: Measured {
                seconds,
                tokens: LOAD_PROMPT,
                read: read.unwrap_or_default(),
            },
            streams,
            memory,
        })
    }
}

/// Memory to take the stream rate over.
fn stream_memory(mebibytes: u32) -> Result<Stream, Failure> {
    Stream::reserve((mebibytes as usize) << 20).map_err(|cause| {
        Failure::usage(format_args!(
            "--stream {mebibytes}: the system does not grant so many MiB ({cause}); give fewer"
        ))
    })
}
