//! Ollama's protocol.

use serde_json::{Value, json};

use super::{PROMPT, Server};

fn lines(body: &str) -> Vec<Value> {
    body.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_model_is_described() {
    let server = Server::start(&["--name", "demo"]);
    let tags = server.get("/api/tags").json()["models"][0].clone();
    assert_eq!(tags["name"], "demo:latest");
    assert_eq!(tags["digest"].as_str().unwrap().len(), 64);
    assert!(tags["size"].as_u64().unwrap() > 1_000_000);
    for field in ["model", "modified_at", "details"] {
        assert!(!tags[field].is_null(), "{field}");
    }
    // LiteLLM names it `name`, others `model`.
    let show = server.ask("/api/show", &json!({"name": "demo"}));
    assert_eq!(show["capabilities"], json!(["completion"]));
    let family = show["details"]["family"].as_str().unwrap();
    assert!(show["model_info"][format!("{family}.context_length")].is_u64());
    assert_eq!(
        server.get("/api/ps").json()["models"][0]["name"],
        "demo:latest"
    );
    assert!(server.get("/api/version").json()["version"].is_string());
}

#[test]
fn a_text_comes_in_lines_unless_it_is_asked_whole() {
    let server = Server::start(&[]);
    let mut body = json!({
        "model": "demo", "prompt": PROMPT, "raw": true, "keep_alive": 300, "images": [],
        "options": {"num_predict": 15, "seed": 4, "num_ctx": 8192, "temperature": 0.9},
    });
    let reply = server.post("/api/generate", &body);
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("application/x-ndjson")
    );
    let streamed = lines(&reply.body);
    let (last, pieces) = streamed.split_last().unwrap();
    let text: String = pieces
        .iter()
        .map(|p| p["response"].as_str().unwrap())
        .collect();
    assert_eq!(last["done"], true);
    assert!(last["eval_count"].as_u64().is_some_and(|n| n <= 15));
    assert!(last["eval_duration"].as_u64() > Some(1000), "nanoseconds");
    assert!(pieces.iter().all(|piece| piece["done"] == false));
    // There is place for one text.
    body["n"] = json!(3);
    let several = lines(&server.post("/api/generate", &body).body);
    assert_eq!(several.iter().filter(|l| l["done"] == true).count(), 1);
    body["stream"] = json!(false);
    let whole = server.ask("/api/generate", &body);
    assert_eq!(whole["response"], text);
    assert_eq!(whole["done_reason"], last["done_reason"]);
    assert_eq!(
        server.ask("/api/generate", &json!({"model": "demo"}))["done_reason"],
        "load"
    );
}

#[test]
fn a_conversation() {
    let server = Server::start_chat(&[]);
    let mut body = json!({
        "model": "demo", "messages": [{"role": "user", "content": "こんにちは"}],
        "options": {"num_predict": 8, "seed": 1},
    });
    let streamed = lines(&server.post("/api/chat", &body).body);
    let text: String = (streamed.iter())
        .map(|line| line["message"]["content"].as_str().unwrap())
        .collect();
    body["stream"] = json!(false);
    let whole = server.ask("/api/chat", &body);
    assert_eq!(whole["message"]["content"], text);
    assert_eq!(whole["message"]["role"], "assistant");
    // A prompt that is not raw is what a user says.
    let generated = server.ask(
        "/api/generate",
        &json!({
            "prompt": "こんにちは", "stream": false, "options": {"num_predict": 8, "seed": 1},
        }),
    );
    assert_eq!(generated["response"], text);
    let loaded = server.ask("/api/chat", &json!({"model": "demo", "messages": []}));
    assert_eq!(loaded["done_reason"], "load");
}

#[test]
fn errors_are_of_its_shape() {
    let server = Server::start(&[]);
    let reply = server.post("/api/generate", &json!({"prompt": "x", "options": 3}));
    assert_eq!(
        (reply.status, reply.json()),
        (
            400,
            json!({"error": "options: found 3, expected an object"})
        )
    );
    let reply = server.post("/api/pull", &json!({"model": "other"}));
    assert_eq!(reply.status, 404);
    assert!(reply.json()["error"].is_string());
}
