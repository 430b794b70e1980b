//! llama.cpp's own endpoints.

use serde_json::json;

use super::{PROMPT, Server};

#[test]
fn text_to_tokens_and_back() {
    let server = Server::start(&[]);
    let text = "吾輩は猫である。\n名前はまだ無い。";
    let ids = server.ask("/tokenize", &json!({"content": text}))["tokens"].clone();
    assert_eq!(
        server.ask("/detokenize", &json!({"tokens": ids}))["content"],
        text
    );
    let pieces = server.ask("/tokenize", &json!({"content": text, "with_pieces": true}));
    assert_eq!(pieces["tokens"][0]["id"], ids[0]);
    let joined =
        (pieces["tokens"].as_array().unwrap().iter()).map(|token| token["piece"].as_str().unwrap());
    assert_eq!(joined.collect::<String>().replace("<NL>", "\n"), text);
    // What takes much memory a token is refused, and so is a body of very many values.
    let long = json!({"content": "あ".repeat(400_000), "with_pieces": true});
    let reply = server.post("/tokenize", &long);
    assert_eq!(reply.status, 400);
    let reply = server.post("/completion", &json!({"prompt": vec![0; 300_000]}));
    assert_eq!(reply.status, 400);
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("JSON values"), "{message}");
    let reply = server.post(
        "/tokenize",
        &json!({"content": text, "with_pieces": "often"}),
    );
    assert_eq!(reply.status, 400);
    let reply = server.post("/detokenize", &json!({"tokens": "猫"}));
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["code"], 400);
}

#[test]
fn props_and_slots_show_the_model() {
    let server = Server::start(&["--slots", "2", "--ctx", "100"]);
    let props = server.get("/props").json();
    assert_eq!(props["chat_template"], "");
    assert_eq!(props["total_slots"], 2);
    assert_eq!(props["default_generation_settings"]["n_ctx"], 100);
    let slots = server.get("/slots").json();
    assert_eq!(slots.as_array().unwrap().len(), 2);
    assert_eq!(slots[0]["is_processing"], false);
}

#[test]
fn a_completion_tells_how_it_ended_and_how_fast_it_went() {
    let server = Server::start(&[]);
    let body = json!({"prompt": PROMPT, "n_predict": 8, "seed": 5, "ignore_eos": true});
    let whole = server.ask("/completion", &body);
    assert_eq!(whole["stop_type"], "limit");
    assert_eq!(whole["tokens_predicted"], 8);
    assert_eq!(whole["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(whole["generation_settings"]["seed"], 5);
    assert_eq!(whole["timings"]["predicted_n"], 8);
    assert!(whole["timings"]["predicted_ms"].as_f64().unwrap() > 0.0);

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    streamed["n_probs"] = json!(2);
    let events = server.post("/completion", &streamed).events();
    let pieces = events.iter().filter_map(|e| e["content"].as_str());
    assert_eq!(
        pieces.collect::<String>(),
        whole["content"].as_str().unwrap()
    );
    let last = events.last().unwrap();
    assert_eq!(
        (&last["stop"], &last["stop_type"]),
        (&json!(true), &json!("limit"))
    );
    let first = &events[0]["completion_probabilities"][0];
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 2);

    // The second time the prompt is in the cache.
    let again = server.ask("/completion", &body);
    assert_eq!(again["content"], whole["content"]);
    assert!(again["timings"]["cache_n"].as_u64() > Some(0), "{again}");
}

/// A character that the vocabulary lacks is bytes, and each of them is a token.
#[test]
fn tokens_without_text_of_their_own_are_told() {
    let server = Server::start(&[]);
    let ids = server.ask("/tokenize", &json!({"content": "🦀"}))["tokens"].clone();
    let byte = ids.as_array().unwrap().iter().rev().nth(3).unwrap();
    let body = json!({
        "prompt": PROMPT, "n_predict": 1, "n_probs": 1, "logit_bias": [[byte, 100]],
    });
    let whole = server.ask("/completion", &body);
    assert_eq!(whole["tokens"], json!([byte]));
    let likely = &whole["completion_probabilities"][0];
    assert_eq!((&likely["id"], &likely["bytes"]), (byte, &json!([0xf0])));
}

/// 0 means all tokens, but to llama.cpp.
#[test]
fn a_range_of_0_is_that_of_the_protocol_it_comes_from() {
    let server = Server::start(&[]);
    let window = |field: &str, more: &str| {
        let mut body = json!({"prompt": PROMPT, "n_predict": 0, field: 0});
        if !more.is_empty() {
            body[more] = json!(0);
        }
        server.ask("/completion", &body)["generation_settings"]["repeat_last_n"].clone()
    };
    assert_eq!(window("repeat_last_n", ""), 0);
    assert_eq!(window("rep_pen_range", ""), -1);
    assert_eq!(window("repetition_penalty_range", "repeat_last_n"), -1);
}

/// As names, and as llama.cpp's letters.
#[test]
fn the_order_of_steps_can_be_asked_for() {
    let server = Server::start(&[]);
    let steps = |samplers: serde_json::Value| {
        let body = json!({"prompt": PROMPT, "n_predict": 0, "samplers": samplers});
        server.ask("/completion", &body)["generation_settings"]["samplers"].clone()
    };
    let named = steps(json!([
        "min_p",
        "temperature",
        "xtc",
        "top_n_sigma",
        "top_k"
    ]));
    assert_eq!(steps(json!("mtxsk")), named);
    assert_ne!(steps(json!("ktm")), named);
    assert_eq!(steps(json!("top_k")), steps(json!(["top_k"])));
}

#[test]
fn a_prompt_beyond_the_context_loses_its_beginning() {
    let server = Server::start(&["--ctx", "32"]);
    let body = json!({"prompt": PROMPT.repeat(20), "n_predict": 4, "ignore_eos": true});
    let answer = server.ask("/completion", &body);
    assert_eq!(answer["truncated"], true);
    assert_eq!(answer["tokens_evaluated"], 28);
    assert_eq!(answer["tokens_predicted"], 4);
    // More than there is room for ends at the context's end.
    let body = json!({"prompt": PROMPT, "n_predict": 100_000, "ignore_eos": true});
    let answer = server.ask("/completion", &body);
    let tokens = |name: &str| answer[name].as_u64().unwrap();
    assert_eq!(tokens("tokens_evaluated") + tokens("tokens_predicted"), 33);
    assert_eq!(answer["stop_type"], "limit");
}

#[test]
fn no_tokens_may_be_asked_for() {
    let server = Server::start(&[]);
    let answer = server.ask("/completion", &json!({"prompt": PROMPT, "n_predict": 0}));
    assert_eq!(answer["content"], "");
}
