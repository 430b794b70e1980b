//! `katari devices`: what this machine has to run a model on.

use std::fmt::Write;

use katari::engine::{DeviceInfo, devices, missing};
use serde_json::json;

use super::failure::Failure;
use super::output::{self, bytes};

/// List the devices that a model can run on, and their memory.
///
/// The names are those that --device takes. The CPU is always there; others come with a build
/// with ggml (`--features ggml`, `cuda`, `vulkan`, `metal` or `rocm`) and its driver; why one is
/// missing is said on standard error, where ggml knows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari devices\n  \
    katari devices --json | jq -r .[].name")]
pub struct Args {
    /// Print JSON: an array with an object for each device
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let devices = devices();
    match args.json {
        true => output::json(&devices.iter().map(value).collect::<Vec<_>>())?,
        false => output::stream(&table(&devices))?,
    }
    if let Some(said) = missing() {
        output::note(format_args!("ggml says: {said}"));
    }
    Ok(())
}

fn value(device: &DeviceInfo) -> serde_json::Value {
    json!({
        "name": device.name,
        "description": device.description,
        "gpu": device.is_gpu,
        "memory_free": device.memory.map(|(free, _)| free),
        "memory_total": device.memory.map(|(_, total)| total),
    })
}

fn table(devices: &[DeviceInfo]) -> String {
    let width = devices.iter().map(|d| d.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for device in devices {
        let memory = match device.memory {
            Some((free, total)) => format!("; {} of {} free", bytes(free), bytes(total)),
            None => String::new(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:width$}  {}{memory}",
            device.name, device.description
        );
    }
    out
}
