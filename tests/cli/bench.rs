//! `bench`: what it prints; how fast anything is, is no test's business.

use serde_json::Value;

use super::*;

/// The shortest run that has every kind of test.
const QUICK: [&str; 13] = [
    "-p", "5", "-n", "2", "-d", "0,70", "-b", "3", "-r", "2", "-t2", "--stream", "16",
];

fn bench(more: &[&str]) -> Vec<String> {
    let file = quantized(&repository("demo"), "bench-q8_0", &["--type", "q8_0"]);
    let args = ["bench", &file].into_iter().chain(QUICK);
    args.chain(more.iter().copied()).map(String::from).collect()
}

fn stdout_of(args: &[String]) -> String {
    stdout(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn number(row: &Value, key: &str) -> f64 {
    let value = row[key].as_f64();
    value.unwrap_or_else(|| panic!("no number {key} in {row}"))
}

#[test]
fn bench_prints_an_object_for_each_test() {
    let args = bench(&["--json", "--kv", "q8_0,f16", "--load", "--isa", "scalar"]);
    let rows: Value = serde_json::from_str(&stdout_of(&args)).unwrap();
    let rows = rows.as_array().unwrap();
    let tests: Vec<&str> = rows.iter().map(|r| r["test"].as_str().unwrap()).collect();
    let expected = [
        "load+pp16",
        "pp5",
        "tg2",
        "pp3",
        "tg2x3",
        "pp5@d70",
        "tg2@d70",
        "pp3@d70",
        "tg2x3@d70",
    ];
    assert_eq!(tests, expected);
    for row in rows {
        assert_eq!(row["device"], "cpu");
        assert_eq!(row["isa"], "scalar");
        assert_eq!(row["threads"], 2);
        assert_eq!(row["type"], "q8_0");
        assert_eq!(row["kv"], "q8_0,f16");
        assert_eq!(row["repetitions"], 2);
        for key in [
            "tokens_per_second",
            "seconds",
            "bandwidth_gb_s",
            "bandwidth_share",
            "stream_gb_s",
            "arithmetic_gmac_s",
            "arithmetic_share",
            "kernel_gmac_s",
            "registers_gflop_s",
        ] {
            let value = number(row, key);
            assert!(value > 0.0 && value.is_finite(), "{key}: {value}");
        }
        assert!(number(row, "spread") >= 0.0);
    }
    // Rates follow from the time: 5 tokens in `seconds`.
    let rate = 5.0 / number(&rows[1], "seconds");
    assert!((rate / number(&rows[1], "tokens_per_second") - 1.0).abs() < 1e-9);
}

#[test]
fn bench_prints_tables() {
    let text = stdout_of(&bench(&[]));
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2 + 8, "{text}");
    let columns = |row: &str| row.matches('|').count();
    assert!(rows.iter().all(|row| columns(row) == columns(rows[0])));
    assert!(rows[3].starts_with("| tg2 | "), "{text}");

    // The prompt of three is asked for by -p and by -b.
    let text = stdout_of(&bench(&["--csv", "-p", "5,3,0"]));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 8, "{text}");
    assert!(lines[0].starts_with("test,tokens_per_second,spread,"));
    assert!(lines[2].starts_with("pp3,"));
}

#[test]
fn bench_says_what_is_wrong_with_the_command_line() {
    let fails = |args: &[&str], parts: &[&str]| assert_fails(&run(args), 2, parts);
    fails(&["bench"], &["--shape"]);
    fails(
        &["bench", "--shape", "rinna-gpt-1b", "--load"],
        &["--load", "FILE"],
    );
    let file = demo_f32();
    fails(
        &["bench", &file, "-p", "0", "-n", "0"],
        &["nothing to time", "--load"],
    );
    fails(&["bench", &file, "--ctx", "9"], &["--ctx 9", "128"]);
    fails(&["bench", &file, "--isa", "mmx"], &["mmx", "avx2"]);
    fails(&["bench", "--shape", "gpt-5"], &["gpt-5", "rinna-gpt-1b"]);
}

#[test]
fn an_instruction_set_the_processor_lacks_is_refused() {
    let foreign = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx2"
    };
    let args = ["bench", &demo_f32(), "--isa", foreign];
    assert_fails(&run(&args), 1, &[foreign, "scalar"]);
}
