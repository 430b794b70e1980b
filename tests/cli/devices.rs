//! `devices` and `compare`.

use super::*;

#[test]
fn devices_are_listed_for_people_and_programs() {
    let listed = json(&["devices", "--json"]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed[0]["name"], "cpu");
    assert_eq!(listed[0]["gpu"], false);
    if cfg!(target_os = "linux") {
        let bytes = |key: &str| listed[0][key].as_u64().unwrap();
        let (free, total) = (bytes("memory_free"), bytes("memory_total"));
        assert!(0 < free && free < total, "{free} of {total}");
    }
    let text = stdout(&["devices"]);
    assert_eq!(text.lines().count(), listed.len());
    for (line, device) in text.lines().zip(listed) {
        assert!(line.starts_with(device["name"].as_str().unwrap()), "{line}");
    }
    let ggml = listed.iter().any(|device| device["name"] == "ggml-cpu");
    assert_eq!(ggml, cfg!(feature = "ggml"));
}

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
    // Which proves nothing, unless it was meant.
    let said = stderr_of(&run(&args));
    assert!(
        said.contains("both sides ran on cpu; give another --device"),
        "{said}"
    );
}

#[cfg(feature = "ggml")]
#[test]
fn the_first_operation_that_differs_is_named() {
    let file = model(CHECKPOINTS[0]);
    let args = ["compare", &file, "--ids", "5,6,7", "--device", "ggml-cpu"];
    assert!(!stderr_of(&run(&args)).contains("both sides"));
    // Orders of sums differ, but not by a hundredth.
    stdout(&[&args[..], &["--tolerance", "0.01"]].concat());
    let output = run(&[&args[..], &["--tolerance", "0", "--threads", "1"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    let first = table.lines().next().unwrap();
    assert!(first.ends_with("<- differs"), "{table}");
    let error = stderr_of(&output);
    assert!(error.contains("differs by "), "{error}");
    // No number is larger than these.
    for tolerance in ["--tolerance=nan", "--tolerance=inf", "--tolerance=-1"] {
        let output = run(&[&args[..], &[tolerance]].concat());
        assert_fails(&output, 2, &["expected a number from 0 on"]);
    }
    // Layers on both: the same operations.
    let split = [&args[..], &["--gpu-layers", "1", "--all"]].concat();
    let whole = stdout(&[&args[..], &["--all"]].concat());
    let names = |table: &str| -> Vec<String> {
        let names = table.lines().map(|line| line.rsplit_once("  ").unwrap().0);
        names.map(str::to_string).collect()
    };
    assert_eq!(names(&stdout(&split)), names(&whole));
}

#[test]
fn a_device_that_is_not_here_is_an_error() {
    let file = model(CHECKPOINTS[0]);
    let output = run(&["logits", &file, "--ids", "1", "--device", "cuda:99"]);
    assert_fails(&output, 1, &["no device cuda:99 here", "there is cpu"]);
    let args = ["logits", &file, "--ids", "1", "--gpu-layers"];
    let found = json(&["devices", "--json"]);
    if !found.as_array().unwrap().iter().any(|d| d["gpu"] == true) {
        let said = stderr_of(&run(&[&args[..], &["7"]].concat()));
        assert!(said.contains("--gpu-layers 7 has no effect"), "{said}");
        assert_eq!(stderr_of(&run(&[&args[..], &["0"]].concat())), "");
    }
    let output = run(&[&args[..], &["most"]].concat());
    assert_fails(&output, 2, &["'most'", "expected a number, auto or all"]);
}

#[cfg(feature = "ggml")]
#[test]
fn bench_holds_a_device_against_its_own_memory() {
    let file = model(CHECKPOINTS[0]);
    let args = ["bench", &file, "--device", "ggml-cpu", "-t1"];
    let quick = ["-p", "4", "-n", "2", "-r", "1", "--stream", "1"];
    let args = [&args[..], &quick[..]].concat();
    let rows = json(&[&args[..], &["--json"]].concat());
    for row in rows.as_array().unwrap() {
        assert_eq!(row["device"], "ggml-cpu");
        assert!(row["stream_gb_s"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["bandwidth_share"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["kernel_gmac_s"].is_null(), "{row}");
        assert!(row["registers_gflop_s"].is_null(), "{row}");
    }
    let text = stdout(&args);
    assert!(
        !text.contains("registers") && !text.contains("NaN"),
        "{text}"
    );
    // No one limit where layers are on both.
    let split = json(&[&args[..], &["--gpu-layers", "1", "--json"]].concat());
    assert!(split[0]["stream_gb_s"].is_null(), "{split}");
    assert_eq!(split[0]["device"], "cpu: 1, ggml-cpu: 1");
    assert!(split[0]["tokens_per_second"].as_f64().unwrap() > 0.0);
}

/// `--device` and `--gpu-layers` say the same on every verb that runs a model.
#[cfg(feature = "ggml")]
#[test]
fn every_verb_that_runs_a_model_runs_it_on_the_device() {
    let file = model(CHECKPOINTS[0]);
    let device = ["--device", "ggml-cpu", "--gpu-layers", "1", "-t1"];
    let ids = scratch("device-ids.json");
    fs::write(&ids, "[5, 6, 7, 8, 9]").unwrap();
    let ids = ids.to_str().unwrap();
    for verb in [
        &["run", &file, "a", "-n", "2"][..],
        &["logits", &file, "--ids", "5,6"],
        &["perplexity", &file, "--ids-file", ids, "--window", "4"],
        &[
            "bench", &file, "-p", "2", "-n", "0", "-r", "1", "--stream", "1",
        ],
    ] {
        let output = run(&[verb, &device[..]].concat());
        let said = stderr_of(&output);
        assert!(output.status.success(), "{verb:?}: {said}");
        for part in ["cpu: layers 1 to ", "ggml-cpu: layers "] {
            let found = said.lines().any(|line| line.starts_with(part));
            assert!(found, "{verb:?}: no '{part}' in {said}");
        }
        let nowhere = run(&[verb, &["--device", "cuda:99"]].concat());
        assert_fails(&nowhere, 1, &["no device cuda:99 here"]);
    }
}
