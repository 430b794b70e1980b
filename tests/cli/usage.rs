//! Help, wrong command lines and bad files: exit codes and messages.

use super::*;

#[test]
fn every_verb_has_help_with_an_example() {
    let help = stdout(&["--help"]);
    // A verb is the first word of an indented line under "Commands:".
    let listed = help.split("Commands:").nth(1).unwrap();
    let listed = listed.split("Options:").next().unwrap();
    let verbs: Vec<&str> = (listed.lines())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| !word.is_empty() && *word != "help")
        .collect();
    assert!(verbs.len() >= 11, "{verbs:?}");
    for verb in verbs {
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
fn a_context_beyond_memory_is_refused() {
    let file = demo_f32();
    let output = run(&["run", &file, "x", "--ctx", "4000000000"]);
    assert_fails(&output, 2, &["--ctx", "1048576"]);
    // The longest there may be: the system grants it, since memory is taken when it is used, or
    // the error says what would do.
    let output = run(&[
        "run",
        &file,
        "x",
        "--ctx",
        "1048576",
        "--kv",
        "f32",
        "--max-new-tokens",
        "1",
    ]);
    if !output.status.success() {
        assert_fails(&output, 1, &["--ctx", "bytes"]);
    }
}

#[test]
fn a_model_without_a_template_does_not_converse() {
    let output = run(&["run", &demo_f32(), "x", "--chat"]);
    assert_fails(&output, 1, &["tokenizer.chat_template", "--chat-template"]);
}

#[test]
fn a_demo_without_a_place_to_write_says_so() {
    let file = scratch("not-a-folder");
    fs::write(&file, "").unwrap();
    let output = started(|| katari().arg("demo").env("XDG_CACHE_HOME", &file).output());
    assert_fails(&output, 1, &[file.to_str().unwrap()]);
    if cfg!(unix) {
        let output = katari().arg("demo").env_clear().output().unwrap();
        assert_fails(&output, 1, &["XDG_CACHE_HOME"]);
    }
}

#[test]
fn shells_complete_and_manual_pages_explain_every_verb() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&["completions", shell]);
        for word in ["katari", "quantize", "perplexity", "max-new-tokens"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let folder = scratch("man");
    stdout(&["man", folder.to_str().unwrap()]);
    for (page, part) in [
        ("katari.1", "katari\\-quantize(1)"),
        ("katari-run.1", "\\-\\-max\\-new\\-tokens"),
        ("katari-quantize.1", "\\-\\-dry\\-run"),
    ] {
        let text = fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.starts_with(".ie") && text.contains(part), "{page}");
    }
    assert!(!folder.join("katari-man.1").exists());
}
