//! The binary as a user or a program meets it: exit codes, what goes to which stream, and that
//! its verbs agree with the reference.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{self, golden, once, repository, scratch};

/// How far a logit of an f32 file may be from the reference's, absolute: another order of
/// summation in f32 over at most a few hundred terms a dot product. (As for the engine.)
const LOGIT_TOLERANCE: f64 = 2e-3;
/// The same for a mean negative log-likelihood, which averages such differences.
const NLL_TOLERANCE: f64 = 1e-3;

/// Golden checkpoints in the repository.
const MODELS: [&str; 5] = [
    "gpt2-plain",
    "gpt2-rinna",
    "gptj-genji",
    "neox-pythia",
    "neox-rinna",
];

fn katari() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katari"));
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    katari().args(args).output().unwrap()
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
        let output = katari()
            .args(["quantize", "--force", "-o"])
            .args([path, checkpoint])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", stderr_of(&output));
    });
    path.to_str().unwrap().to_string()
}

fn model(name: &str) -> String {
    quantized(&golden(name), name, &["--type", "f32"])
}

fn demo_f32() -> String {
    quantized(&repository("demo"), "demo", &["--type", "f32"])
}

/// The demo as a model that converses, which makes nonsense of it but shows the form.
fn demo_chat() -> String {
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

#[test]
fn every_verb_has_help_with_an_example() {
    let help = stdout(&["--help"]);
    for verb in [
        "quantize",
        "run",
        "demo",
        "inspect",
        "tokenize",
        "logits",
        "perplexity",
    ] {
        assert!(help.contains(verb), "{help}");
        let help = stdout(&[verb, "--help"]);
        assert!(
            help.contains("Example") && help.contains(&format!("katari {verb}")),
            "{help}"
        );
    }
}

#[test]
fn version_is_the_package_s() {
    assert_eq!(
        stdout(&["--version"]),
        format!("katari {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let file = demo_f32();
    let f = file.as_str();
    let cases: &[&[&str]] = &[
        &["nonsense"],
        &["run"],
        &["run", f, "x", "--no-such-flag"],
        &["run", f, "x", "--file", "y"],
        &["run", f, "x", "--threads", "0"],
        &["run", f, "x", "--device", "abacus"],
        &["run", f, "x", "--kv", "q3_0"],
        &["run", f, "x", "--kv", "f16,f16,f16"],
        &["run", f, "x", "--ctx", "0"],
        &["run", f, "x", "--max-new-tokens", "0"],
        &["run", f, "x", "--max-new-tokens", "-1"],
        &["run", f, "x", "--temperature", "-1"],
        &["run", f, "x", "--temperature", "NaN"],
        &["run", f, "x", "--top-p", "1.5"],
        &["run", f, "x", "--repetition-penalty", "0"],
        &["run", f, "x", "--logit-bias", "5"],
        &["run", f, "x", "--logit-bias", "5=NaN"],
        &["run", f, "x", "--logit-bias", "999999=1"],
        &["run", f, "x", "--order", "top_k,top_q"],
        &["run", f, "x", "--order", "top_k,top_k"],
        &["run", f, "x", "--stop", ""],
        &[
            "run",
            f,
            "x",
            "--min-new-tokens",
            "20",
            "--max-new-tokens",
            "10",
        ],
        &["run", f, "x", "--echo", "--chat"],
        &["run", f, "x", "--keep", "5"],
        &["run", f, "昔々、あるところに", "--ctx", "3"],
        &["run", f, "昔々、あるところに", "--max-length", "3"],
        &["tokenize", f],
        &["tokenize", f, "--decode"],
        &["tokenize", f, "--decode", "--ids", "1,x"],
        &["tokenize", f, "--decode", "--ids", "999999"],
        &["tokenize", f, "text", "--decode", "--ids", "1"],
        &["logits", f],
        &["logits", f, "--ids", ""],
        &["logits", f, "--ids", "1,-2"],
        &["logits", f, "--ids", "999999"],
        &["logits", f, "--ids", "1", "--top", "0"],
        &["logits", f, "--ids", "1,2,3", "--ctx", "2"],
        &["perplexity", f],
        &["perplexity", f, "text.txt", "--ids-file", "ids.json"],
        &["perplexity", f, "text.txt", "--window", "0"],
        &["inspect", f, "--kv", "f8"],
    ];
    for args in cases {
        let output = run(args);
        let stderr = stderr_of(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        assert!(stderr.contains("error: "), "{args:?}: {stderr}");
    }
}

#[test]
fn files_that_are_no_models_exit_with_1_and_are_named() {
    let good = fs::read(model("neox-rinna")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = scratch(&format!("cli-bad-{name}"));
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    };
    let missing = scratch("missing.gguf").to_str().unwrap().to_string();
    let mut bad = vec![
        missing,
        golden("gpt2-plain").to_str().unwrap().to_string(),
        file("empty.gguf", b""),
        file("text.gguf", "昔々、あるところに".as_bytes()),
        file("magic-only.gguf", b"GGUF"),
    ];
    for part in [10, 100, good.len() / 3, good.len() / 2, good.len() - 1] {
        bad.push(file(&format!("cut-{part}.gguf"), &good[..part]));
    }
    for path in &bad {
        for args in [
            &["run", path, "x"][..],
            &["inspect", path],
            &["tokenize", path, "x"],
            &["logits", path, "--ids", "1"],
        ] {
            assert_fails(&run(args), 1, &[path]);
        }
    }
}

#[test]
fn tokenize_agrees_with_the_reference() {
    for name in MODELS {
        let file = model(name);
        for case in json_file(name, "golden.json").as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let found = json(&["tokenize", &file, "--json", "--", text]);
            assert_eq!(found["ids"], case["ids"], "{name}: {text:?}");
            let pieces = found["pieces"].as_array().unwrap().len();
            assert_eq!(pieces, found["ids"].as_array().unwrap().len());

            let ids = ids_of(&case["ids"]);
            let decoded = stdout(&["tokenize", &file, "--decode", "--ids", &ids]);
            assert_eq!(
                decoded,
                format!("{}\n", case["decoded"].as_str().unwrap()),
                "{name}"
            );
        }
    }
}

#[test]
fn logits_agree_with_the_reference() {
    for name in MODELS {
        let file = model(name);
        for case in json_file(name, "golden.json").as_array().unwrap() {
            let ids = ids_of(&case["ids"]);
            if ids.is_empty() {
                continue;
            }
            let all = json(&["logits", &file, "--ids", &ids, "--json", "--all"]);
            let rows = all["logits"].as_array().unwrap();
            let last = floats(rows.last().unwrap());
            let expected = floats(&case["last_logits"]);
            assert_eq!(last.len(), expected.len(), "{name}");
            let greatest = |difference: f64, (a, b): (&f64, &f64)| difference.max((a - b).abs());
            let difference = last.iter().zip(&expected).fold(0.0, greatest);
            assert!(difference <= LOGIT_TOLERANCE, "{name}: {difference}");
            for (row, sum) in rows.iter().zip(floats(&case["logits_sum"])) {
                let found: f64 = floats(row).iter().sum();
                let tolerance = LOGIT_TOLERANCE * expected.len() as f64;
                assert!((found - sum).abs() < tolerance, "{name}: {found}, {sum}");
            }
            let one = json(&["logits", &file, "--ids", &ids, "--json", "--threads", "1"]);
            assert_eq!(&one["logits"], rows.last().unwrap(), "{name}");
        }
    }
}

#[test]
fn logits_shows_the_greatest() {
    let file = model("gpt2-plain");
    let row = floats(&json(&["logits", &file, "--ids", "5,6", "--json"])["logits"]);
    let found = json(&["logits", &file, "--ids", "5,6", "--json", "--top", "3"]);
    let top = found["top"].as_array().unwrap();
    let greatest = row.iter().copied().fold(f64::MIN, f64::max);
    assert_eq!(top.len(), 3);
    assert_eq!(top[0]["logit"].as_f64().unwrap(), greatest);
    assert_eq!(row[top[0]["id"].as_u64().unwrap() as usize], greatest);
    let lines = stdout(&["logits", &file, "--ids", "5,6", "--top", "3"]);
    assert_eq!(lines.lines().count(), 3, "{lines}");
}

#[test]
fn perplexity_agrees_with_the_reference() {
    for name in MODELS {
        let golden = json_file(name, "nll.json");
        let ids_file = scratch(&format!("{name}-ids.json"));
        fs::write(&ids_file, golden["tokens"].to_string()).unwrap();
        let window = golden["window"].to_string();
        let found = json(&[
            "perplexity",
            &model(name),
            "--ids-file",
            ids_file.to_str().unwrap(),
            "--window",
            &window,
            "--json",
        ]);
        let (nll, expected) = (
            found["nll"].as_f64().unwrap(),
            golden["mean_nll"].as_f64().unwrap(),
        );
        assert!(
            (nll - expected).abs() < NLL_TOLERANCE,
            "{name}: {nll}, {expected}"
        );
        assert!((found["ppl"].as_f64().unwrap() / nll.exp() - 1.0).abs() < 1e-9);
        let window = golden["window"].as_u64().unwrap();
        let tokens = golden["tokens"].as_array().unwrap().len() as u64;
        assert_eq!(
            found["tokens"].as_u64().unwrap(),
            (tokens - 1) / window * window
        );
    }
}

#[test]
fn perplexity_says_what_a_short_text_lacks() {
    let text = scratch("short.txt");
    fs::write(&text, "吾輩は猫である。").unwrap();
    let text = text.to_str().unwrap();
    let output = run(&["perplexity", &demo_f32(), text, "--window", "100"]);
    assert_fails(&output, 1, &["101", "--window"]);
    let score = json(&["perplexity", &demo_f32(), text, "--window", "2", "--json"]);
    assert!(score["nll"].as_f64().unwrap() > 0.0);
}

#[test]
fn greedy_text_is_the_reference_s() {
    let golden: Value = serde_json::from_str(include_str!("golden/demo-greedy.json")).unwrap();
    let prompt = golden["prompt"].as_str().unwrap();
    let written = json(&[
        "run",
        &demo_f32(),
        prompt,
        "--temperature",
        "0",
        "--repetition-penalty",
        "1",
        "--kv",
        "f32",
        "--max-new-tokens",
        &golden["greedy"].as_array().unwrap().len().to_string(),
        "--json",
    ]);
    assert_eq!(written["ids"], golden["greedy"]);
    let text = format!("{prompt}{}", written["text"].as_str().unwrap());
    assert_eq!(text, golden["text"].as_str().unwrap());
    assert_eq!(written["finish"], "length");
    assert_eq!(written["prompt"], prompt);
    for key in ["seed", "prompt_tokens", "generated_tokens"] {
        assert!(written[key].is_u64(), "{key}: {written}");
    }
    for key in ["load_seconds", "prompt_seconds", "generation_seconds"] {
        assert!(written[key].is_f64(), "{key}: {written}");
    }
}

const PROMPT: &str = "昔々、あるところに";

/// `run` on the demo with few tokens and more arguments.
fn tell(more: &[&str]) -> String {
    let file = demo_f32();
    let mut args = vec!["run", &file, PROMPT, "--max-new-tokens", "12"];
    args.extend(more);
    stdout(&args)
}

#[test]
fn same_seed_same_text() {
    let text = tell(&["--seed", "7"]);
    assert_eq!(text, tell(&["--seed", "7"]));
    assert_eq!(text, tell(&["--seed", "7", "--threads", "1"]));
    assert_ne!(text, tell(&["--seed", "8"]));
}

/// The demo's card: temperature 0.8, top_p 0.9, repetition penalty 1.1, 200 new tokens.
#[test]
fn what_is_not_given_is_as_the_file_s_card_has_it() {
    let file = demo_f32();
    let args = [
        "run",
        &file,
        PROMPT,
        "--json",
        "--seed",
        "2",
        "--ignore-eos",
    ];
    let by_card = json(&args);
    assert_eq!(by_card["generated_tokens"], 200);
    let settings = [
        ["--temperature", "0.8"],
        ["--top-p", "0.9"],
        ["--repetition-penalty", "1.1"],
    ];
    let beginning = |settings: &[[&str; 2]]| {
        let more = [&args, &["-n", "60"][..], &settings.concat()].concat();
        json(&more)["ids"].clone()
    };
    let written = Value::from(by_card["ids"].as_array().unwrap()[..60].to_vec());
    assert_eq!(beginning(&settings), written);
    for setting in settings {
        assert_ne!(beginning(&[[setting[0], "1"]]), written, "{setting:?}");
    }
}

#[test]
fn standard_output_is_the_text_and_a_line_break() {
    let file = demo_f32();
    let args = ["run", &file, PROMPT, "-n", "12", "--seed", "7"];
    let output = run(&args);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let report = json(&[&args[..], &["--json"]].concat());
    assert_eq!(text, format!("{}\n", report["text"].as_str().unwrap()));
    let summary = stderr_of(&output);
    for part in ["loaded in", "prompt", "generated", "tokens/s", "seed 7"] {
        assert!(summary.contains(part), "{summary}");
    }
    assert_eq!(tell(&["--seed", "7", "--echo"]), format!("{PROMPT}{text}"));
}

#[test]
fn the_prompt_may_be_a_file_or_standard_input() {
    let text = tell(&["--seed", "3"]);
    let path = scratch("prompt.txt");
    fs::write(&path, format!("{PROMPT}\n")).unwrap();
    let file = demo_f32();
    let settings = ["--seed", "3", "--max-new-tokens", "12"];
    let from_file = [
        &["run", &file, "--file", path.to_str().unwrap()][..],
        &settings,
    ]
    .concat();
    assert_eq!(stdout(&from_file), text);

    let from_stdin = [&["run", file.as_str()][..], &settings].concat();
    let output = with_stdin(&from_stdin, format!("{PROMPT}\n").as_bytes());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text);

    let output = with_stdin(&from_stdin, b"\xe6\x98");
    assert_fails(&output, 1, &["standard input", "UTF-8"]);
}

fn with_stdin(args: &[&str], bytes: &[u8]) -> Output {
    let mut child = katari()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn an_empty_prompt_begins_a_text() {
    let file = demo_f32();
    let report = json(&["run", &file, "", "-n", "3", "--json"]);
    assert_eq!(report["prompt_tokens"], 1);
}

#[test]
fn limits_stops_and_bans_hold() {
    let file = demo_f32();
    let report = |more: &[&str]| {
        json(&[&["run", &file, PROMPT, "--json", "--seed", "5"][..], more].concat())
    };
    let length = report(&["--max-length", "10", "--ignore-eos"]);
    let total =
        |r: &Value| r["prompt_tokens"].as_u64().unwrap() + r["generated_tokens"].as_u64().unwrap();
    assert_eq!(
        (total(&length), &length["finish"]),
        (10, &Value::from("length"))
    );

    let plain = report(&["--max-new-tokens", "30", "--ignore-eos"]);
    let text = plain["text"].as_str().unwrap();
    let stop: String = text.chars().skip(6).take(2).collect();
    let stopped = report(&["--max-new-tokens", "30", "--ignore-eos", "--stop", &stop]);
    assert_eq!(stopped["finish"], "stop");
    assert_eq!(stopped["stop"], stop.as_str());
    assert_eq!(stopped["text"], text.split(&stop).next().unwrap());

    // What the likeliest token spells is banned, so another one is taken.
    let greedy = report(&["--temperature", "0", "--max-new-tokens", "1"]);
    let word = greedy["text"].as_str().unwrap();
    let other = report(&["--temperature", "0", "--max-new-tokens", "1", "--ban", word]);
    assert_ne!(greedy["ids"], other["ids"]);
    let biased = format!("{}=-100", greedy["ids"][0]);
    let other = report(&[
        "--temperature",
        "0",
        "--max-new-tokens",
        "1",
        "--logit-bias",
        &biased,
    ]);
    assert_ne!(greedy["ids"], other["ids"]);
}

#[test]
fn a_text_goes_on_beyond_the_context_where_it_may_shift() {
    let file = demo_f32();
    let args = [
        "run",
        &file,
        PROMPT,
        "--json",
        "--seed",
        "5",
        "--ignore-eos",
        "--ctx",
        "24",
        "-n",
        "60",
    ];
    let full = json(&args);
    assert_eq!(full["finish"], "context");
    assert_eq!(
        full["prompt_tokens"].as_u64().unwrap() + full["generated_tokens"].as_u64().unwrap(),
        25
    );
    let shifted = json(&[&args[..], &["--shift", "--keep", "4"]].concat());
    assert_eq!(shifted["finish"], "length");
    assert_eq!(shifted["generated_tokens"], 60);
}

#[test]
fn a_longer_context_than_trained_is_warned_of() {
    let file = demo_f32();
    let output = run(&["run", &file, PROMPT, "-n", "1", "--ctx", "4096"]);
    assert!(output.status.success());
    assert!(
        stderr_of(&output).contains("warning: --ctx 4096"),
        "{}",
        stderr_of(&output)
    );
}

#[test]
fn a_conversation_goes_on_line_by_line() {
    let file = demo_chat();
    let args = ["run", &file, "--chat", "-n", "8", "--seed", "1", "--json"];
    let output = with_stdin(&args, "こんにちは\n\n元気？\n".as_bytes());
    assert!(output.status.success(), "{}", stderr_of(&output));
    let answers: Vec<Value> = (output.stdout.split(|b| *b == b'\n'))
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["prompt"], "こんにちは");
    assert_eq!(answers[1]["prompt"], "元気？");
    // The second turn has the first one before it, most of which the cache holds already.
    let n = |i: usize, key: &str| answers[i][key].as_u64().unwrap();
    assert!(n(1, "prompt_tokens") > n(0, "prompt_tokens"));
    assert!(n(1, "cached_tokens") >= n(0, "prompt_tokens"));

    let text_args = &args[..args.len() - 1];
    let output = with_stdin(text_args, "こんにちは\n".as_bytes());
    let answer = format!("{}\n", answers[0]["text"].as_str().unwrap());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), answer);
}

#[test]
fn a_conversation_longer_than_the_context_loses_its_beginning() {
    let file = demo_chat();
    let args = [
        "run",
        &file,
        "--chat",
        "-n",
        "20",
        "--ctx",
        "64",
        "--ignore-eos",
    ];
    let output = with_stdin(&args, "こんにちは\n".repeat(4).as_bytes());
    assert!(output.status.success(), "{}", stderr_of(&output));
    assert!(
        stderr_of(&output).contains("left out"),
        "{}",
        stderr_of(&output)
    );
}

#[test]
fn a_model_without_a_template_does_not_converse() {
    let output = run(&["run", &demo_f32(), "x", "--chat"]);
    assert_fails(&output, 1, &["tokenizer.chat_template", "--chat-template"]);
}

#[test]
fn inspect_shows_what_the_file_holds() {
    let file = demo_f32();
    let found = json(&[
        "inspect", &file, "--json", "--ctx", "100", "--kv", "q8_0,f16",
    ]);
    assert_eq!(found["metadata"]["general.architecture"], "gptneox");
    assert_eq!(found["metadata"]["general.sampling.temp"], 0.8);
    assert_eq!(
        found["bytes"].as_u64().unwrap(),
        fs::metadata(&file).unwrap().len()
    );
    assert_eq!(found["metadata"]["tokenizer.ggml.tokens"]["length"], 6000);
    assert!(found["metadata"]["tokenizer.ggml.tokens"]["first"].is_array());
    let tensors = found["tensors"].as_array().unwrap();
    let embedding = tensors
        .iter()
        .find(|t| t["name"] == "token_embd.weight")
        .unwrap();
    assert_eq!(embedding["shape"], serde_json::json!([6000, 256]));
    assert_eq!(embedding["bytes"], 6000 * 256 * 4);
    // 6 layers of 100 cells of 256: q8_0 keys of 34 bytes a 32, f16 values.
    assert_eq!(found["memory"]["ctx"], 100);
    assert_eq!(
        found["memory"]["kv_cache"],
        6 * 100 * (256 / 32 * 34 + 256 * 2)
    );
    let full = json(&["inspect", &file, "--json", "--full"]);
    let tokens = full["metadata"]["tokenizer.ggml.tokens"]
        .as_array()
        .unwrap();
    assert_eq!(tokens.len(), 6000);

    let text = stdout(&["inspect", &file]);
    for part in [
        "general.architecture = gptneox",
        "token_embd.weight",
        "[6000, 256]",
        "KV cache",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(text.lines().all(|line| line.len() < 2000));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    let file = demo_f32();
    let mut child = katari()
        .args(["run", &file, PROMPT, "-n", "400", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr_of(&output));
    assert_eq!(stderr_of(&output), "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_and_reports() {
    let file = demo_f32();
    let mut child = katari()
        .args([
            "run",
            &file,
            PROMPT,
            "-n",
            "1000000",
            "--ignore-eos",
            "--shift",
            "--seed",
            "9",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = vec![0];
    out.read_exact(&mut text).unwrap();
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(text).expect("whole characters");
    assert!(text.ends_with('\n'));
    assert!(
        stderr_of(&output).contains("seed 9"),
        "{}",
        stderr_of(&output)
    );
}

#[test]
fn the_demo_is_quantized_once_and_again_where_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path();
    let demo = || {
        let output = katari()
            .args(["demo", "--max-new-tokens", "8", "--seed", "4"])
            .env("XDG_CACHE_HOME", cache)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        let story = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(story.starts_with(PROMPT) && story.chars().count() > PROMPT.chars().count());
        (story, stderr_of(&output))
    };
    let (story, said) = demo();
    assert!(
        said.contains("katari quantize") && said.contains("katari run"),
        "{said}"
    );
    let (again, said) = demo();
    assert!(said.contains("Quantized before"), "{said}");
    assert_eq!(story, again);

    let file = cache.join("katari/demo/katari-demo-q4_k_m.gguf");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let (again, said) = demo();
    assert!(said.contains("katari quantize"), "{said}");
    assert_eq!(story, again);
    assert_eq!(fs::read(&file).unwrap(), bytes);
}

#[test]
fn a_demo_without_a_place_to_write_says_so() {
    let file = scratch("not-a-folder");
    fs::write(&file, "").unwrap();
    let output = katari()
        .arg("demo")
        .env("XDG_CACHE_HOME", &file)
        .output()
        .unwrap();
    assert_fails(&output, 1, &[file.to_str().unwrap()]);
    if cfg!(unix) {
        let output = katari().arg("demo").env_clear().output().unwrap();
        assert_fails(&output, 1, &["XDG_CACHE_HOME"]);
    }
}
