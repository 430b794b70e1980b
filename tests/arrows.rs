//! Which room may use which: reads the `crate::` paths of the root package and the crates'
//! dependencies, and holds them to the arrows below.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::repository;

/// The rooms of `src/` and the rooms each may use. `gguf` and `quantize` are crates. Whoever
/// adds a room adds a line.
const ROOMS: [(&str, &[&str]); 15] = [
    (
        "cli",
        &[
            "schedule",
            "engine",
            "serve",
            "quantize",
            "text",
            "sampler",
            "kv",
            "models",
            "gguf",
            "bench",
            "constrain",
        ],
    ),
    (
        "bench",
        &["engine", "models", "cpu", "ops", "kv", "gguf", "quantize"],
    ),
    (
        "serve",
        &["schedule", "engine", "text", "sampler", "constrain"],
    ),
    ("constrain", &["sampler", "text"]),
    ("schedule", &["engine", "sampler", "text"]),
    ("engine", &["models", "ops", "cpu", "ggml", "kv", "gguf"]),
    ("models", &["ops", "gguf"]),
    ("cpu", &["ops", "kv", "gguf"]),
    ("ggml", &["ops", "kv", "gguf"]),
    ("ops", &["kv", "gguf"]),
    ("text", &["gguf"]),
    ("kv", &[]),
    ("sampler", &[]),
    // What the binary itself does is parse and dispatch.
    ("main", &["cli", "quantize"]),
    ("lib", &[]),
];

/// The crates of the workspace and those each may depend on.
const CRATES: [(&str, &[&str]); 3] = [
    (".", &["katari-gguf", "katari-quantize"]),
    ("quantize", &["katari-gguf"]),
    ("gguf", &[]),
];

/// Rooms that may contain `unsafe`, and single files beside them.
const UNSAFE: [&str; 4] = [
    "src/cpu/",
    "src/ggml/",
    "src/engine.rs",
    "gguf/src/block/simd/",
];

/// The room that a file of `src/` belongs to.
fn room(path: &Path) -> String {
    let inside = path.strip_prefix(repository("src")).unwrap();
    let first = inside.components().next().unwrap();
    let first = first.as_os_str().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_string()
}

/// A line without comment; strings may lose what follows `//`, which holds no path of ours.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The identifiers that follow each `prefix` in `source`, those of a braced list one by one.
fn named_after(source: &str, prefix: &str) -> BTreeSet<String> {
    let identifier = |s: &str| -> String {
        let end = s.find(|c: char| !c.is_alphanumeric() && c != '_');
        s[..end.unwrap_or(s.len())].to_string()
    };
    let mut found = BTreeSet::new();
    for (at, _) in source.match_indices(prefix) {
        // Not the end of a longer name.
        if source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &source[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if depth == 0 && begins && c.is_alphabetic() => {
                    found.insert(identifier(&list[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// The rooms that `source` uses: after `crate::`, `katari::` (from the binary) and the crates.
fn used(source: &str) -> BTreeSet<String> {
    let source: Vec<&str> = source.lines().map(code).collect();
    let source = source.join("\n");
    let mut rooms = named_after(&source, "crate::");
    rooms.extend(named_after(&source, "katari::"));
    for (krate, room) in [("katari_gguf", "gguf"), ("katari_quantize", "quantize")] {
        if source.contains(krate) {
            rooms.insert(room.into());
        }
    }
    rooms
}

/// What `source` in room `from` uses and may not.
fn faults(from: &str, source: &str) -> Vec<String> {
    let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| *room == from) else {
        return vec![format!("room {from} is not in the plan")];
    };
    let known = |room: &str| {
        ["gguf", "quantize"].contains(&room) || ROOMS.iter().any(|(name, _)| *name == room)
    };
    used(source)
        .into_iter()
        // Macros and types at the crate's root are no rooms.
        .filter(|room| known(room))
        .filter(|room| room != from && !allowed.contains(&room.as_str()))
        .map(|room| format!("{from} -> {room}"))
        .collect()
}

fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn rooms_use_only_what_the_plan_allows() {
    let mut files = Vec::new();
    rust_files(&repository("src"), &mut files);
    assert!(files.len() > 20, "only {} files found", files.len());
    let mut all = Vec::new();
    for path in &files {
        // Tests inside a room may look further.
        if path.ends_with("tests.rs") {
            continue;
        }
        let source = fs::read_to_string(path).unwrap();
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for fault in faults(&room(path), source) {
            all.push(format!("{}: {fault}", path.display()));
        }
    }
    assert!(all.is_empty(), "not in the plan:\n{}", all.join("\n"));
}

#[test]
fn crates_depend_only_on_what_the_plan_allows() {
    for (krate, allowed) in CRATES {
        let manifest = repository(krate).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        let mut section = "";
        for line in manifest.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let depends = section.ends_with("dependencies]") && !section.contains("workspace");
            if depends && name.starts_with("katari") {
                assert!(allowed.contains(&name), "{krate} -> {name}");
            }
        }
    }
}

#[test]
fn unsafe_is_only_where_the_plan_has_it() {
    let mut files = Vec::new();
    for folder in ["src", "gguf/src", "quantize/src"] {
        rust_files(&repository(folder), &mut files);
    }
    for path in files {
        let name = path.strip_prefix(repository("")).unwrap();
        let name = name.to_string_lossy().replace('\\', "/");
        if UNSAFE.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        let source = fs::read_to_string(&path).unwrap();
        for line in source.lines().map(code) {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(!words.clone().any(|w| w == "unsafe"), "{name}: {line}");
        }
    }
}

/// Files that may ask whether ggml is built in: the engine's seam, and the module's declaration.
const GGML_SEAM: [&str; 3] = ["src/engine/devices.rs", "src/engine/stage.rs", "src/lib.rs"];

/// The features of devices that `source` asks for.
fn asks_for_device(source: &str) -> bool {
    let features = ["ggml", "cuda", "vulkan", "metal", "rocm"];
    let source: Vec<&str> = source.lines().map(code).collect();
    let names = source.join("\n");
    let asked = names.split("feature").skip(1).filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix('=')?;
        rest.trim_start().strip_prefix('"')?.split('"').next()
    });
    asked.into_iter().any(|name| features.contains(&name))
}

#[test]
fn only_the_seam_asks_whether_ggml_is_built_in() {
    let mut files = Vec::new();
    rust_files(&repository("src"), &mut files);
    let asking = files.iter().filter(|path| {
        let source = fs::read_to_string(path).unwrap();
        asks_for_device(&source)
    });
    let mut asking: Vec<String> = asking
        .map(|path| {
            let name = path.strip_prefix(repository("")).unwrap();
            name.to_string_lossy().replace('\\', "/")
        })
        .collect();
    asking.sort();
    assert_eq!(asking, GGML_SEAM);
    assert!(asks_for_device("#[cfg(not(feature = \"cuda\"))]"));
    assert!(asks_for_device("if cfg!(any(unix, feature=\"ggml\")) {"));
    assert!(!asks_for_device(
        "#[cfg(feature = \"serve\")] // feature = \"ggml\""
    ));
}

/// The test itself can fail: forbidden lines are found, however they are written.
#[test]
fn forbidden_lines_are_found() {
    let bad = [
        ("kv", "use crate::ops::Batch;", "kv -> ops"),
        ("models", "use crate::cpu::Cpu;", "models -> cpu"),
        ("cpu", "use crate::{ops::Ops, ggml::Graph};", "cpu -> ggml"),
        (
            "models",
            "use crate::{\n    ops::{Ops, Device},\n    engine::Engine,\n};",
            "models -> engine",
        ),
        (
            "sampler",
            "let t: crate::text::Tokenizer;",
            "sampler -> text",
        ),
        ("sampler", "use katari_gguf::Gguf;", "sampler -> gguf"),
        (
            "engine",
            "fn f() { katari_quantize::quantize(); }",
            "engine -> quantize",
        ),
        ("attic", "", "room attic is not in the plan"),
    ];
    for (from, source, fault) in bad {
        assert_eq!(faults(from, source), [fault], "{source}");
    }
    let good = [
        (
            "models",
            "use crate::ops::{Device, Ops};\nuse katari_gguf::Gguf;",
        ),
        ("kv", "// not crate::cpu\nuse crate::kv::KvType;"),
        ("cpu", "use crate::{kv::KvType, ops::{Ops, Rope}};"),
    ];
    for (from, source) in good {
        assert!(faults(from, source).is_empty(), "{source}");
    }
}
