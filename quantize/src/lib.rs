//! Turns a Hugging Face checkpoint folder into a quantized GGUF file.
//!
//! - [`checkpoint`] opens the folder: configuration, and tensors by positioned reads
//! - [`convert`] one file an architecture: names, layouts, hyper-parameters
//! - [`tokenizer`] the tokenizer's files as metadata
//! - [`describe`] the rest of the metadata: names, license, sampling, chat template
//! - [`plan`] which tensor gets which format
//! - [`pipeline`] reads, converts and writes, to a [`sink`]
//! - [`shapes`] the published models as headers alone, for measuring without their weights
//!
//! ```no_run
//! use clap::Parser;
//! use katari_quantize::{Options, progress::Silent, quantize};
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     options: Options,
//! }
//! let cli = Cli::parse_from(["quantize", "./japanese-gpt-neox-3.6b", "--type", "q4_0"]);
//! let report = quantize(&cli.options, &Silent)?;
//! println!("{}: {} bytes", report.output.display(), report.bytes);
//! # Ok::<(), katari_quantize::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cli;
pub mod convert;
pub mod describe;
mod error;
mod options;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod shapes;
pub mod sink;
pub mod temporary;
pub mod tokenizer;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use checkpoint::Checkpoint;
pub use error::Error;
pub use options::Options;
pub use plan::FileType;
use plan::Planned;
pub use progress::Progress;
use temporary::Temporary;

/// What was written, or with `--dry-run` would be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file.
    pub output: PathBuf,
    /// GGUF's name of the architecture.
    pub architecture: &'static str,
    /// The `--type`.
    #[serde(rename = "type")]
    pub file_type: &'static str,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of weights that it is made from.
    pub source_bytes: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Its tensors in order.
    pub tensors: Vec<Planned>,
}

/// Quantizes the checkpoint of `options`.
///
/// # Errors
/// The first fault of the checkpoint, the options or the system; nothing is left behind then.
pub fn quantize(options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    let started = Instant::now();
    let checkpoint = Checkpoint::open(&options.dir)?;
    let model = convert::convert(&checkpoint)?;
    let request = describe::Request {
        tokenizer: options.tokenizer.as_deref(),
        chat_template: options.chat_template.as_deref(),
        file_type: options.file_type,
    };
    let (metadata, name) = describe::describe(&checkpoint, &model, &request)?;
    let tensors = plan::plan(&checkpoint, &model, options.file_type, options.pure)?;
    let output = output_path(
        options.output.as_deref(),
        &name.file_name(options.file_type),
    );
    let job = pipeline::Job {
        checkpoint: &checkpoint,
        outputs: &model.outputs,
        plan: &tensors,
        metadata: &metadata,
    };
    let bytes = job.file_bytes(&output)?;
    let source_bytes = job.source_bytes();
    if !options.dry_run {
        temporary::refuse_existing(&output, options.force)?;
        for planned in &tensors {
            if let Some(note) = &planned.note {
                progress.note(&format!("{}: {note}", planned.name));
            }
        }
        progress.start(source_bytes);
        let written = write(&job, &output, options, progress);
        progress.finish();
        written?;
    }
    Ok(Report {
        output,
        architecture: model.architecture,
        file_type: options.file_type.name(),
        dry_run: options.dry_run,
        bytes,
        source_bytes,
        seconds: started.elapsed().as_secs_f64(),
        tensors,
    })
}

/// Writes `output` under a temporary name, then renames it.
fn write(
    job: &pipeline::Job<'_>,
    output: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads.map_or(0, usize::from))
        .build()
        .map_err(|e| Error::Usage(format!("cannot start the threads asked for: {e}")))?;
    let temporary = Temporary::create(output)?;
    pipeline::run(job, &pool, temporary.file(), output, progress)?;
    temporary.keep(options.force)
}

/// Where to write: `-o`, with the default name added where it is a folder.
fn output_path(asked: Option<&Path>, default_name: &str) -> PathBuf {
    match asked {
        Some(path) if path.is_dir() => path.join(default_name),
        Some(path) => path.to_path_buf(),
        None => PathBuf::from(default_name),
    }
}
