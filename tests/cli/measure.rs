//! `tokenize`, `logits`, `perplexity` and `inspect` against the reference and the files.

use super::*;

/// How far a logit of an f32 file may be from the reference's, absolute: another order of
/// summation in f32 over at most a few hundred terms a dot product. (As for the engine.)
const LOGIT_TOLERANCE: f64 = 2e-3;
/// The same for a mean negative log-likelihood, which averages such differences.
const NLL_TOLERANCE: f64 = 1e-3;

#[test]
fn tokenize_agrees_with_the_reference() {
    for name in CHECKPOINTS {
        let file = model(name);
        for case in json_file(name, "golden.json").as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let found = json(&["tokenize", &file, "--json", "--", text]);
            assert_eq!(found["ids"], case["ids"], "{name}: {text:?}");
            let pieces = found["pieces"].as_array().unwrap().len();
            assert_eq!(pieces, found["ids"].as_array().unwrap().len());

            let ids = ids_of(&case["ids"]);
            let decoded = stdout(&["tokenize", &file, "--decode", "--ids", &ids]);
            // The reference decodes bytes one at a time, and so some characters to U+FFFD.
            let expected = case["decoded"].as_str().unwrap();
            if !expected.contains('\u{fffd}') {
                assert_eq!(decoded, format!("{expected}\n"), "{name}");
            }
        }
    }
}

#[test]
fn logits_agree_with_the_reference() {
    for name in CHECKPOINTS {
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
    for name in CHECKPOINTS {
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
