//! KoboldAI's protocol and KoboldCpp's.

use std::io::Read;

use serde_json::json;

use super::{PROMPT, Server, read_reply, wait_for};

#[test]
fn what_lite_asks_before_it_writes() {
    let server = Server::start(&["--name", "demo", "--ctx", "100"]);
    let get = |path: &str| server.get(path).json();
    assert_eq!(get("/api/v1/model")["result"], "katari/demo");
    assert_eq!(get("/api/v1/info/version")["result"], "1.2.5");
    assert_eq!(get("/api/v1/config/max_context_length")["value"], 100);
    assert_eq!(get("/api/extra/true_max_context_length")["value"], 100);
    assert_eq!(get("/api/extra/version")["result"], "KoboldCpp");
    assert_eq!(get("/api/extra/preloadstory"), json!({}));
    assert_eq!(get("/api/extra/perf")["idle"], 1);
    let count = server.ask("/api/extra/tokencount", &json!({"prompt": PROMPT}));
    assert_eq!(
        count["value"].as_u64().unwrap() as usize,
        count["ids"].as_array().unwrap().len()
    );
}

#[test]
fn a_text_whole_and_in_pieces_is_one_text() {
    let server = Server::start(&[]);
    // Lite's defaults are more than the model holds.
    let body = json!({
        "prompt": PROMPT, "max_context_length": 12288, "max_length": 20, "sampler_seed": 9,
        "rep_pen": 1.07, "rep_pen_range": 360, "rep_pen_slope": 0.7, "temperature": 0.75,
        "top_p": 0.92, "top_k": 100, "top_a": 0, "typical": 1, "tfs": 1, "n": 1, "quiet": true,
        "sampler_order": [6, 0, 1, 3, 4, 2, 5], "genkey": "KCPP1", "memory": "物語。\n",
        "trim_stop": true, "stop_sequence": ["<END>"], "use_default_badwordsids": true,
    });
    let whole = server.ask("/api/v1/generate", &body);
    assert_eq!(whole["results"][0]["finish_reason"], "length");
    let text = whole["results"][0]["text"].as_str().unwrap();
    assert!(!text.is_empty());

    let reply = server.post("/api/extra/generate/stream", &body);
    assert!(
        reply.body.starts_with("event: message\ndata: {"),
        "{}",
        reply.body
    );
    let events = reply.events();
    let pieces = events.iter().filter_map(|e| e["token"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    assert_eq!(events.last().unwrap()["finish_reason"], "length");
    // Nothing is left to look at.
    let check = server.ask("/api/extra/generate/check", &json!({"genkey": "KCPP1"}));
    assert_eq!(check["results"][0]["text"], "");
}

#[test]
fn banned_phrases_are_in_no_answer() {
    let server = Server::start(&[]);
    let ask = |more: serde_json::Value| {
        let mut body = json!({
            "prompt": PROMPT, "max_length": 40, "temperature": 0, "ban_eos_token": true,
        });
        let fields = body.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let whole = server.ask("/api/v1/generate", &body);
        let text = whole["results"][0]["text"].as_str().unwrap().to_string();
        let events = server.post("/api/extra/generate/stream", &body).events();
        let pieces = events.iter().filter_map(|e| e["token"].as_str());
        assert_eq!(pieces.collect::<String>(), text);
        assert_eq!(whole["results"][0]["completion_tokens"], 40);
        text
    };
    let free = ask(json!({}));
    let letters: Vec<char> = free.chars().collect();
    let phrase: String = letters[5..8].iter().collect();
    for field in ["banned_strings", "banned_phrases", "banned_tokens"] {
        let text = ask(json!({field: [phrase, "never written"]}));
        assert!(!text.contains(&phrase), "{field}: {phrase}: {text}");
        assert!(text.starts_with(letters[0]), "{text}");
    }
}

#[test]
fn penalties_and_smoothing_of_its_own_count() {
    let server = Server::start(&[]);
    let ask = |more: serde_json::Value| {
        let mut body = json!({
            "prompt": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。吾輩は",
            "max_length": 30, "sampler_seed": 5, "temperature": 1, "rep_pen": 3,
            "rep_pen_range": 40, "ban_eos_token": true,
        });
        let fields = body.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        server.ask("/api/v1/generate", &body)["results"][0]["text"].to_string()
    };
    let plain = ask(json!({}));
    assert_eq!(
        plain,
        ask(json!({"rep_pen_slope": 1, "smoothing_factor": 0}))
    );
    // Out of koboldcpp's range.
    assert_eq!(plain, ask(json!({"rep_pen_slope": 0})));
    assert_ne!(plain, ask(json!({"rep_pen_slope": 0.1})));
    let smooth = ask(json!({"smoothing_factor": 3}));
    assert_ne!(plain, smooth);
    assert_ne!(
        smooth,
        ask(json!({"smoothing_factor": 3, "smoothing_curve": 3}))
    );
}

#[test]
fn a_text_can_be_looked_at_and_aborted_from_elsewhere() {
    let server = Server::start(&["--slots", "2", "--ctx", "50000"]);
    let body = json!({
        "prompt": PROMPT, "max_length": 100_000, "ban_eos_token": true, "genkey": "mine",
    });
    let request = server.head("POST", "/api/v1/generate", &[], &body.to_string());
    let waiting = server.send(&request);
    let look = || {
        let check = server.ask("/api/extra/generate/check", &json!({"genkey": "mine"}));
        check["results"][0]["text"].as_str().unwrap().to_string()
    };
    wait_for(|| Some(look()).filter(|text| !text.is_empty()));
    assert_eq!(
        server.ask("/api/extra/abort", &json!({"genkey": "other"}))["success"],
        false
    );
    assert_eq!(
        server.ask("/api/extra/abort", &json!({"genkey": "mine"}))["success"],
        true
    );
    let reply = read_reply(waiting);
    assert!(
        !reply.json()["results"][0]["text"]
            .as_str()
            .unwrap()
            .is_empty()
    );

    // SillyTavern aborts without a body.
    let request = server.head("POST", "/api/extra/generate/stream", &[], &body.to_string());
    let mut stream = server.send(&request);
    stream.read_exact(&mut [0; 300]).unwrap();
    server.request("POST", "/api/extra/abort", &[], "");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
}

#[test]
fn errors_are_of_its_shape() {
    let server = Server::start(&[]);
    let reply = server.post("/api/v1/generate", &json!({"prompt": 1}));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["detail"]["type"], "bad_input");
    let reply = server.post(
        "/api/v1/generate",
        &json!({"prompt": "x", "max_length": "many"}),
    );
    assert!(
        reply.json()["detail"]["msg"]
            .as_str()
            .unwrap()
            .starts_with("max_length: ")
    );
}
