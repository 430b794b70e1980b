//! `katari inspect`: what a GGUF file holds, and the memory it needs.

use std::fmt::Write;

use katari::engine::{EngineError, EngineOptions, Memory, ModelFile};
use katari_gguf::{Array, Gguf, TensorInfo, Value};
use serde::Serialize;
use serde_json::json;

use super::failure::Failure;
use super::model::{FileArg, KvTypes};
use super::output::{self, bytes, thousands};

/// Elements of an array that are shown unless --full asks for all.
const SHOWN_ELEMENTS: usize = 8;
/// Characters of a string that are shown unless --full asks for all.
const SHOWN_CHARS: usize = 300;

/// Show what a GGUF file holds, and the memory it needs.
///
/// Metadata, tensors, formats and their sizes. Of long arrays and strings only the beginning is shown. Any GGUF file can be looked at; the
/// memory is that of a model this program runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari inspect model.gguf --ctx 2048 --kv q8_0\n  \
    katari inspect model.gguf --json --full")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// Context length to reckon the memory for [default: what the model was trained with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    ctx: Option<u32>,
    /// Type of the KV cache to reckon with, f32, f16, q8_0 or q4_0: one, or one for keys and
    /// one for values
    #[arg(long, value_name = "TYPE[,TYPE]", default_value_t)]
    kv: KvTypes,
    /// Show arrays and strings whole
    #[arg(long)]
    full: bool,
    /// Print JSON; long arrays as {"length": n, "first": [...]} unless --full
    #[arg(long)]
    json: bool,
}

/// The memory that running the file needs, in bytes.
#[derive(Debug, Serialize)]
struct Need {
    ctx: usize,
    kv: [&'static str; 2],
    weights: u64,
    kv_cache: u64,
    scratch: u64,
    total: u64,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let model = ModelFile::open(&args.file.file)?;
    let need = need(&model, &args);
    // Any GGUF may be looked at, but a context that the model cannot have is a mistake.
    if let Err(error @ EngineError::Option { .. }) = need {
        return Err(Failure::usage(error));
    }
    let shown = Shown { full: args.full };
    match args.json {
        true => output::json(&shown.json(&model, need)),
        false => output::stream(&shown.text(&model, need)),
    }
}

fn need(model: &ModelFile, args: &Args) -> Result<Need, EngineError> {
    let KvTypes(keys, values) = args.kv;
    let options = EngineOptions {
        n_ctx: args.ctx.map(|n| n as usize),
        kv: (keys, values),
        ..EngineOptions::default()
    };
    let (_, hyper) = model.architecture()?;
    let memory: Memory = model.memory(&options)?;
    Ok(Need {
        ctx: options.n_ctx.unwrap_or(hyper.n_ctx),
        kv: [keys.name(), values.name()],
        weights: memory.weights,
        kv_cache: memory.kv,
        scratch: memory.scratch,
        total: memory.total(),
    })
}

/// `[rows, cols]`: GGUF lists the contiguous dimension first.
fn shape(tensor: &TensorInfo) -> Vec<u64> {
    tensor.dims.iter().rev().copied().collect()
}

/// Tensors, values and bytes of each format, in order of first appearance.
fn by_format(gguf: &Gguf) -> Vec<(&'static str, usize, u64, u64)> {
    let mut formats: Vec<(&'static str, usize, u64, u64)> = Vec::new();
    for tensor in &gguf.tensors {
        let name = tensor.format.name();
        let i = formats.iter().position(|f| f.0 == name).unwrap_or_else(|| {
            formats.push((name, 0, 0, 0));
            formats.len() - 1
        });
        let format = &mut formats[i];
        format.1 += 1;
        format.2 += tensor.n_values();
        format.3 += tensor.bytes;
    }
    formats
}

/// The shortest number that an f32 is the nearest to: 0.8, not 0.800000011920929.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// How much of long values is shown.
struct Shown {
    full: bool,
}

impl Shown {
    fn json(&self, model: &ModelFile, need: Result<Need, EngineError>) -> serde_json::Value {
        let gguf = model.gguf();
        let metadata: serde_json::Map<_, _> = (gguf.metadata.iter())
            .map(|(key, value)| (key.to_string(), self.value(value)))
            .collect();
        let tensors: Vec<_> = (gguf.tensors.iter())
            .map(|tensor| {
                json!({
                    "name": tensor.name,
                    "shape": shape(tensor),
                    "format": tensor.format.name(),
                    "bytes": tensor.bytes,
                    "offset": gguf.span(tensor).start,
                })
            })
            .collect();
        let formats: Vec<_> = (by_format(gguf).into_iter())
            .map(|(format, tensors, values, bytes)| {
                json!({"format": format, "tensors": tensors, "values": values, "bytes": bytes})
            })
            .collect();
        let mut value = json!({
            "file": model.path().display().to_string(),
            "bytes": model.bytes().len(),
            "gguf_version": gguf.version,
            "alignment": gguf.alignment,
            "parameters": gguf.tensors.iter().map(TensorInfo::n_values).sum::<u64>(),
            "metadata": metadata,
            "tensors": tensors,
            "formats": formats,
        });
        match need {
            Ok(need) => value["memory"] = json!(need),
            Err(error) => value["not_runnable"] = json!(error.to_string()),
        }
        value
    }

    fn value(&self, value: &Value) -> serde_json::Value {
        match value {
            Value::U8(v) => json!(v),
            Value::I8(v) => json!(v),
            Value::U16(v) => json!(v),
            Value::I16(v) => json!(v),
            Value::U32(v) => json!(v),
            Value::I32(v) => json!(v),
            Value::U64(v) => json!(v),
            Value::I64(v) => json!(v),
            Value::F32(v) => json!(shortest(*v)),
            Value::F64(v) => json!(v),
            Value::Bool(v) => json!(v),
            Value::String(v) => json!(v),
            Value::Array(array) => self.array(array),
        }
    }

    fn array(&self, array: &Array) -> serde_json::Value {
        match array {
            Array::U8(v) => self.elements(v, |v| json!(v)),
            Array::I8(v) => self.elements(v, |v| json!(v)),
            Array::U16(v) => self.elements(v, |v| json!(v)),
            Array::I16(v) => self.elements(v, |v| json!(v)),
            Array::U32(v) => self.elements(v, |v| json!(v)),
            Array::I32(v) => self.elements(v, |v| json!(v)),
            Array::U64(v) => self.elements(v, |v| json!(v)),
            Array::I64(v) => self.elements(v, |v| json!(v)),
            Array::F32(v) => self.elements(v, |v| json!(shortest(*v))),
            Array::F64(v) => self.elements(v, |v| json!(v)),
            Array::Bool(v) => self.elements(v, |v| json!(v)),
            Array::String(v) => self.elements(v, |v| json!(v)),
            Array::Nested(v) => self.elements(v, |v| self.array(v)),
        }
    }

    fn elements<T>(
        &self,
        elements: &[T],
        json: impl Fn(&T) -> serde_json::Value,
    ) -> serde_json::Value {
        if self.full || elements.len() <= SHOWN_ELEMENTS {
            return elements.iter().map(json).collect();
        }
        let first: Vec<_> = elements.iter().take(SHOWN_ELEMENTS).map(json).collect();
        json!({"length": elements.len(), "first": first})
    }

    fn text(&self, model: &ModelFile, need: Result<Need, EngineError>) -> String {
        let gguf = model.gguf();
        let mut out = String::new();
        // Writing to a string cannot fail, so the results below say nothing.
        let _ = writeln!(
            out,
            "{}: GGUF version {}, {}, {} metadata entries, {} tensors\n\nMetadata",
            model.path().display(),
            gguf.version,
            bytes(model.bytes().len() as u64),
            gguf.metadata.len(),
            gguf.tensors.len()
        );
        for (key, value) in gguf.metadata.iter() {
            let _ = writeln!(out, "  {key} = {}", self.line(value));
        }
        let _ = writeln!(out, "\nTensors");
        let width = gguf.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
        for tensor in &gguf.tensors {
            let _ = writeln!(
                out,
                "  {:width$}  {:6}  {:>10}  {:?}",
                tensor.name,
                tensor.format.name(),
                bytes(tensor.bytes),
                shape(tensor)
            );
        }
        let _ = writeln!(out, "\nFormats");
        for (format, tensors, values, size) in by_format(gguf) {
            let _ = writeln!(
                out,
                "  {format:6}  {tensors:>4} tensors  {:>15} values  {:>10}",
                thousands(values),
                bytes(size)
            );
        }
        let _ = match need {
            Ok(need) => writeln!(
                out,
                "\nMemory with a context of {} tokens and a KV cache of {} keys and {} values\n  \
                 weights   {:>10}\n  KV cache  {:>10}\n  scratch   {:>10}\n  total     {:>10}",
                need.ctx,
                need.kv[0],
                need.kv[1],
                bytes(need.weights),
                bytes(need.kv_cache),
                bytes(need.scratch),
                bytes(need.total)
            ),
            Err(error) => writeln!(out, "\nThis program cannot run it: {error}"),
        };
        out
    }

    /// A value on one line: strings quoted where they would break it.
    fn line(&self, value: &Value) -> String {
        let text = match self.value(value) {
            serde_json::Value::String(text) if !text.contains(char::is_control) => text,
            serde_json::Value::Object(array) => {
                return format!("{} elements: {} ...", array["length"], array["first"]);
            }
            other => other.to_string(),
        };
        match text.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) if !self.full => {
                format!("{} ... ({} bytes)", &text[..end], text.len())
            }
            _ => text,
        }
    }
}
