//! `katari compare`: two devices, operation by operation.

use katari::engine::{DeviceChoice, Feed, Step, compare};
use serde_json::json;

use super::evaluate::check_length;
use super::failure::Failure;
use super::ids::{self, Ids};
use super::model::{FileArg, ModelArgs, Purpose};
use super::output::{self, note};

/// Compare two devices operation by operation, and name the first that differs.
///
/// One pass over the ids runs on --device and on --against; every operation's values are held
/// against the other's; --gpu-layers says for both sides how many of the last layers the device
/// runs, and the CPU runs the others. Rounding adds up from layer to layer, and devices round
/// quantized and f16 weights' inputs in ways of their own, so an operation differs only where its
/// error is beyond --tolerance. The exit code is 1 where one does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari compare model.gguf --ids 319,123,1314 --device cuda --against cpu\n  \
    katari compare model.gguf --ids 319,123,1314 --device cuda --against ggml-cpu --all --json")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// Token ids, joined by commas
    #[arg(long, value_name = "IDS")]
    ids: Ids,
    /// Device to compare with
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Cpu)]
    against: DeviceChoice,
    /// Root mean square of the differences, relative to that of the values, from which on an
    /// operation differs
    #[arg(long, value_name = "X", default_value_t = 0.03, value_parser = tolerance)]
    tolerance: f64,
    /// Print every operation, not only the first that differs and the last
    #[arg(long)]
    all: bool,
    /// Print JSON: {"differs": INDEX or null, "operations": [{"operation": "attend 0", "error":
    /// 0.001}, ...]}; an error of null is one of shape, or no number
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let (expected, here) = trace(&args, args.against)?;
    let (found, there) = trace(&args, args.model.device())?;
    if here == there {
        note(format_args!(
            "warning: both sides ran on {}; give another --device or --against",
            here.join(", ")
        ));
    }
    let differences = compare(&expected, &found);
    let differs = differences.iter().find(|d| d.error > args.tolerance);
    let last = differences.last().map(|d| d.index);
    if args.json {
        let operations: Vec<_> = (differences.iter())
            .map(|d| json!({"operation": d.operation, "error": d.error}))
            .collect();
        let differs = differs.map(|d| d.index);
        output::json(&json!({"differs": differs, "operations": operations}))?;
    } else {
        output::print(|out| {
            for d in &differences {
                let is_first = differs.is_some_and(|first| first.index == d.index);
                if args.all || is_first || Some(d.index) == last {
                    let mark = if is_first { "  <- differs" } else { "" };
                    let (i, operation) = (d.index, &d.operation);
                    writeln!(out, "{i:>5}  {operation:20}  {:.2e}{mark}", d.error)?;
                }
            }
            Ok(())
        })?;
    }
    match differs {
        None => Ok(()),
        Some(d) => Err(Failure::with_code(
            1,
            format_args!(
                "operation {} ({}) differs by {:.2e}, more than {}",
                d.index, d.operation, d.error, args.tolerance
            ),
        )),
    }
}

/// A tolerance that something can be beyond.
fn tolerance(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|x| (0.0..f64::INFINITY).contains(x));
    number.ok_or_else(|| "expected a number from 0 on".into())
}

/// What each operation of one pass over the ids gives on `device`, and on which devices it ran.
fn trace(args: &Args, device: DeviceChoice) -> Result<(Vec<Step>, Vec<String>), Failure> {
    let mut model = args
        .model
        .on(device)
        .open(&args.file.file, Purpose::Measure)?;
    let ids = &args.ids.0;
    if ids.is_empty() {
        return Err(Failure::usage("--ids is empty: give at least one token id"));
    }
    ids::check(ids, model.engine.n_vocab()).map_err(Failure::usage)?;
    check_length(&model.engine, ids.len())?;
    let feeds: Vec<Feed> = ids
        .iter()
        .map(|&token| Feed {
            sequence: 0,
            token,
            wants_logits: true,
        })
        .collect();
    let placement = model.engine.placement().iter();
    let devices = placement.map(|part| part.device.clone()).collect();
    Ok((model.engine.session().trace(&feeds)?, devices))
}
