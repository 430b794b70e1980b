//! `run` and `demo`: what is written, where to, and how it ends.

use super::*;

#[test]
fn greedy_text_is_the_reference_s() {
    let golden = support::json(&repository("tests/golden/demo-greedy.json"));
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
    // Drawing among one token is taking the likeliest.
    let order = ["--order", "top_k", "--top-k", "1", "--max-new-tokens", "1"];
    let penalized = [
        "--repetition-penalty",
        "1",
        "--temperature",
        "0",
        "--max-new-tokens",
        "1",
    ];
    assert_eq!(report(&order)["ids"], report(&penalized)["ids"]);
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
fn a_reader_that_closes_the_pipe_is_no_error() {
    let file = demo_f32();
    let mut command = katari();
    let command = command
        .args(["run", &file, PROMPT, "-n", "400", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = started(|| command.spawn());
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
        let mut command = katari();
        let command = command
            .args(["demo", "--max-new-tokens", "8", "--seed", "4"])
            .env("XDG_CACHE_HOME", cache);
        let output = started(|| command.output());
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
fn a_grammar_or_a_schema_says_what_is_written() {
    let folder = scratch("constrain");
    fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    };
    let grammar = file("list.gbnf", "root ::= (\"猫\" | \"犬\"){2}\n");
    let text = tell(&["--grammar", &grammar, "--seed", "1"]);
    assert_eq!(text.replace(['猫', '犬'], ""), "\n", "{text:?}");
    assert_eq!(text.chars().count(), 3, "{text:?}");
    let schema = file(
        "age.json",
        r#"{"type": "integer", "minimum": 10, "maximum": 99}"#,
    );
    let text = tell(&["--json-schema", &schema, "--seed", "1"]);
    assert!(
        (10..100).contains(&text.trim().parse::<u32>().unwrap()),
        "{text:?}"
    );

    let file_f32 = demo_f32();
    for (flag, text, part) in [
        (
            "--grammar",
            "root ::= nothing",
            "there is no rule named nothing",
        ),
        ("--json-schema", "{", "no JSON"),
        ("--json-schema", "{\"type\": \"unheard\"}", "unheard"),
    ] {
        let path = file("wrong", text);
        assert_fails(
            &run(&["run", &file_f32, PROMPT, flag, &path]),
            2,
            &[&path, part],
        );
    }
}
