//! `devices` and `compare`.

use super::*;

#[test]
fn devices_are_listed_for_people_and_programs() {
    let listed = json(&["devices", "--json"]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed[0]["name"], "cpu");
    assert_eq!(listed[0]["gpu"], false);
    let text = stdout(&["devices"]);
    assert_eq!(text.lines().count(), listed.len());
    for (line, device) in text.lines().zip(listed) {
        assert!(line.starts_with(device["name"].as_str().unwrap()), "{line}");
    }
    let ggml = listed.iter().any(|device| device["name"] == "ggml-cpu");
    assert_eq!(ggml, cfg!(feature = "ggml"));
}

/// The scalar kernels and the best ones give the same bits, so this compares two equal devices
/// by way of everything else.
#[test]
fn a_device_compared_with_itself_does_not_differ() {
    let file = model(CHECKPOINTS[0]);
    let args = ["compare", &file, "--ids", "5,6,7", "--device", "cpu"];
    let found = json(&[&args[..], &["--json"]].concat());
    assert!(found["differs"].is_null());
    let operations = found["operations"].as_array().unwrap();
    assert_eq!(operations[0]["operation"], "embed tokens");
    assert!(operations.iter().any(|o| o["operation"] == "attend 1"));
    assert!(operations.iter().all(|o| o["error"] == 0.0));
    let all = stdout(&[&args[..], &["--all"]].concat());
    assert_eq!(all.lines().count(), operations.len());
    assert_eq!(stdout(&args).lines().count(), 1);
}

#[cfg(feature = "ggml")]
#[test]
fn the_first_operation_that_differs_is_named() {
    let file = model(CHECKPOINTS[0]);
    let args = ["compare", &file, "--ids", "5,6,7", "--device", "ggml-cpu"];
    // Orders of sums differ, but not by a hundredth.
    stdout(&[&args[..], &["--tolerance", "0.01"]].concat());
    let output = run(&[&args[..], &["--tolerance", "0", "--threads", "1"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let first = table.lines().next().unwrap();
    assert!(first.ends_with("<- differs"), "{table}");
    let error = stderr_of(&output);
    assert!(error.contains("differs by "), "{error}");
}

#[test]
fn a_device_that_is_not_here_is_an_error() {
    let file = model(CHECKPOINTS[0]);
    let output = run(&["logits", &file, "--ids", "1", "--device", "cuda:99"]);
    assert_fails(&output, 1, &["no device cuda:99 here", "there is cpu"]);
    let output = run(&["logits", &file, "--ids", "1", "--gpu-layers", "most"]);
    assert_fails(&output, 2, &["'most'", "expected a number, auto or all"]);
}
