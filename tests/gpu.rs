//! `gpu/check.sh`: its table is the record of a GPU's check, so it must say what it lacks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{repository, scratch};

/// A bundle whose programs only pretend, unpacked in a folder of its own.
fn bundle(name: &str) -> PathBuf {
    let folder = scratch(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("results")).unwrap();
    fs::copy(repository("gpu/check.sh"), folder.join("check.sh")).unwrap();
    let program = |name: &str, script: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("katari", "echo 'cuda:0  a card'");
    program(
        "beside-llama",
        "[ $1 = --names ] && echo '| shape | type |' && exit\n\
         [ $4 = q8_0 ] && [ -e broken ] && echo 'out of memory' >&2 && exit 1\n\
         echo \"| $2 | $4 | $6: $8 | tg64 | 1.0 |\"",
    );
    fs::write(
        folder.join("results/tests"),
        "61 passed, 0 failed (exit code 0)\n",
    )
    .unwrap();
    folder
}

fn check(bundle: &Path, parts: &[&str]) -> Output {
    let script = Command::new("bash")
        .arg(bundle.join("check.sh"))
        .args(["-s", "one,two", "-t", "q4_0,q8_0"])
        .args(parts)
        .env_remove("BESIDE_OPTIONS")
        .output();
    script.unwrap()
}

/// Holds the table to be refused, and to have a line with all of `words`.
fn refused(bundle: &Path, words: &[&str]) {
    let output = check(bundle, &["table"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{table}");
    let found = (table.lines()).any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "{words:?}: {table}");
    assert!(table.ends_with("Not complete: something above failed or is missing.\n"));
}

#[test]
fn a_table_with_everything_is_accepted() {
    let bundle = bundle("check-whole");
    assert!(check(&bundle, &["bench", "partial"]).status.success());
    let output = check(&bundle, &["table"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    // Two shapes in two types, and the first shape split twice.
    let rows = table.lines().filter(|line| line.contains("| tg64 |"));
    assert_eq!(rows.count(), 6, "{table}");
    assert!(table.contains("| one | q4_0 | cuda:0: 14 |"), "{table}");
    assert!(table.contains("=== cuda:0  a card\n=== tests: 61 passed"));
}

#[test]
fn what_the_table_lacks_is_said_and_refused() {
    let bundle = bundle("check-parts");
    let rows = ["missing", "| one | q4_0 | all layers"];
    refused(&bundle, &rows);
    assert!(check(&bundle, &["bench"]).status.success());
    refused(&bundle, &["missing", "| one | q4_0 | 7 layers"]);
    assert!(check(&bundle, &["partial"]).status.success());
    for tests in [
        "60 passed, 1 failed (exit code 101)\n",
        "did not end (exit code 124)\n",
        "0 passed, 0 failed (exit code 0)\n",
    ] {
        fs::write(bundle.join("results/tests"), tests).unwrap();
        refused(&bundle, &["=== tests: ", tests.trim()]);
    }
    fs::remove_file(bundle.join("results/tests")).unwrap();
    refused(&bundle, &["=== tests: not run"]);
}

#[test]
fn a_shape_that_fails_hides_no_other_and_is_refused() {
    let bundle = bundle("check-failed");
    fs::write(bundle.join("broken"), "").unwrap();
    assert_eq!(check(&bundle, &["bench", "partial"]).status.code(), Some(1));
    refused(&bundle, &["| two | q8_0 |", "failed: out of memory"]);
    refused(&bundle, &["| two | q4_0 |", "| 1.0 |"]);
}
