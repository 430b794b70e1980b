//! The binary as a user or a program meets it: exit codes, what goes to which stream, and that
//! its verbs agree with the reference.

mod bench;
mod chat;
mod devices;
mod measure;
mod usage;
mod write;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use katari_quantize::FileType;
use serde_json::Value;

use crate::support::{self, CHECKPOINTS, golden, once, repository, scratch, started};

fn katari() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katari"));
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    started(|| katari().args(args).output())
}

#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "katari {args:?}: {}\n{}",
        output.status,
        stderr_of(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let text = stdout(args);
    assert_eq!(text.lines().count(), 1, "one line of JSON: {text:?}");
    serde_json::from_str(&text).unwrap()
}

fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit code is `code`, nothing is on standard output, and standard error is one clear
/// message that says each of `parts`.
#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let stderr = stderr_of(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{stderr:?} does not say {part:?}");
    }
}

/// The checkpoint quantized by the binary itself, once.
fn quantized(checkpoint: &Path, name: &str, more: &[&str]) -> String {
    let path = once(&format!("cli-{name}.gguf"), |path| {
        let mut command = katari();
        let command = command
            .args(["quantize", "--force", "-o"])
            .args([path, checkpoint])
            .args(more);
        let output = started(|| command.output());
        assert!(output.status.success(), "{name}: {}", stderr_of(&output));
    });
    path.to_str().unwrap().to_string()
}

fn model(checkpoint: &str) -> String {
    let path = support::quantized(&golden(checkpoint), FileType::F32);
    path.to_str().unwrap().to_string()
}

fn demo_f32() -> String {
    quantized(&repository("demo"), "demo", &["--type", "f32"])
}

/// The demo as a model that converses, which makes nonsense of it but shows the form.
pub fn demo_chat() -> String {
    let more = ["--type", "q8_0", "--chat-template", "rinna"];
    quantized(&repository("demo"), "demo-chat", &more)
}

fn json_file(model: &str, name: &str) -> Value {
    support::json(&golden(model).join(name))
}

fn ids_of(value: &Value) -> String {
    let ids: Vec<String> = (value.as_array().unwrap().iter())
        .map(Value::to_string)
        .collect();
    ids.join(",")
}

fn floats(value: &Value) -> Vec<f64> {
    (value.as_array().unwrap().iter())
        .map(|x| x.as_f64().unwrap())
        .collect()
}

const PROMPT: &str = "昔々、あるところに";

fn with_stdin(args: &[&str], bytes: &[u8]) -> Output {
    let mut command = katari();
    let command = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = started(|| command.spawn());
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    child.wait_with_output().unwrap()
}
