//! Constrained texts over each protocol, by each field that asks for one.

use serde_json::{Value, json};

use super::{PROMPT, Server};

/// Anything that satisfies it ends soon.
fn schema() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["answer", "n"],
        "properties": {"answer": {"enum": ["はい", "いいえ"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    })
}

#[track_caller]
fn check(text: &str) {
    let found: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
    assert!(["はい", "いいえ"].contains(&found["answer"].as_str().unwrap()));
    assert!(found["n"].as_u64().unwrap() < 100, "{found}");
    assert_eq!(found.as_object().unwrap().len(), 2);
}

/// `base` with the fields of `more`.
fn with(base: &Value, more: Value) -> Value {
    let mut body = base.clone();
    let more = more.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(more);
    body
}

#[test]
fn every_protocol_has_a_way_to_ask() {
    let server = Server::start_chat(&[]);
    let messages = json!([{"role": "user", "content": PROMPT}]);
    let form = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema()}});
    let grammar = r#"root ::= "{\"answer\": \"" ("はい" | "いいえ") "\", \"n\": " [0-9] "}""#;
    // Neither a wish for length nor a ban of the end changes what the text is.
    let base = json!({"prompt": PROMPT, "max_tokens": 200, "min_tokens": 100, "ignore_eos": true});
    let chat = json!({"messages": messages, "max_tokens": 200});
    let ollama = json!({"prompt": PROMPT, "messages": messages, "stream": false});
    let cases = [
        (
            "/v1/completions",
            &base,
            json!({"response_format": form}),
            "/choices/0/text",
        ),
        (
            "/v1/completions",
            &base,
            json!({"grammar": grammar}),
            "/choices/0/text",
        ),
        (
            "/v1/chat/completions",
            &chat,
            json!({"response_format": form}),
            "/choices/0/message/content",
        ),
        (
            "/completion",
            &base,
            json!({"json_schema": schema()}),
            "/content",
        ),
        (
            "/completion",
            &base,
            json!({"json_schema": schema().to_string()}),
            "/content",
        ),
        (
            "/completion",
            &base,
            json!({"grammar": grammar, "json_schema": {}}),
            "/content",
        ),
        (
            "/api/v1/generate",
            &base,
            json!({"grammar": grammar}),
            "/results/0/text",
        ),
        (
            "/api/v1/generate",
            &base,
            json!({"grammar_string": grammar}),
            "/results/0/text",
        ),
        (
            "/api/generate",
            &ollama,
            json!({"format": schema()}),
            "/response",
        ),
        (
            "/api/chat",
            &ollama,
            json!({"format": schema()}),
            "/message/content",
        ),
    ];
    for (path, base, more, place) in cases {
        for seed in 0..3 {
            let body = with(
                &with(base, more.clone()),
                json!({"seed": seed, "options": {"seed": seed}}),
            );
            let answer = server.ask(path, &body);
            let text = answer
                .pointer(place)
                .unwrap_or_else(|| panic!("{path}: {answer}"));
            check(text.as_str().unwrap());
        }
    }
    let answer = server.ask(
        "/v1/completions",
        &with(&base, json!({"response_format": form})),
    );
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // Any JSON: as far as it came, it is some.
    for (path, more) in [
        (
            "/v1/completions",
            json!({"response_format": {"type": "json_object"}}),
        ),
        ("/api/generate", json!({"format": "json"})),
    ] {
        let answer = server.ask(path, &with(&with(&base, more), json!({"stream": false})));
        let text = answer
            .pointer("/choices/0/text")
            .unwrap_or(&answer["response"]);
        assert!(text.as_str().unwrap().starts_with('{'), "{answer}");
    }
}

#[test]
fn several_and_streamed_texts_are_constrained_each() {
    let server = Server::start(&["--slots", "3"]);
    let body = json!({"prompt": [PROMPT, "猫"], "n": 4, "json_schema": schema(), "seed": 3});
    let whole = server.ask("/v1/completions", &body);
    let texts: Vec<&str> = (whole["choices"].as_array().unwrap().iter())
        .map(|choice| choice["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 8);
    texts.iter().for_each(|text| check(text));
    let reply = server.post("/v1/completions", &with(&body, json!({"stream": true})));
    let mut streamed = vec![String::new(); 8];
    for event in reply.events() {
        if let Some(choice) = event["choices"].get(0) {
            let i = choice["index"].as_u64().unwrap() as usize;
            streamed[i] += choice["text"].as_str().unwrap();
        }
    }
    assert_eq!(streamed, texts);
}

#[test]
fn a_rule_that_is_none_is_refused_in_the_protocol_s_shape() {
    let server = Server::start_chat(&[]);
    let base = json!({
        "prompt": PROMPT, "messages": [{"role": "user", "content": PROMPT}], "stream": true,
    });
    let grammar = || json!({"grammar": "root ::= (\"a\""});
    for (path, more, place, part) in [
        (
            "/v1/completions",
            grammar(),
            "/error/message",
            "grammar: line 1 of the grammar: found the end, expected ')'",
        ),
        (
            "/v1/chat/completions",
            json!({"response_format": {"type": "xml"}}),
            "/error/message",
            "response_format: found {\"type\":\"xml\"}, expected",
        ),
        (
            "/completion",
            grammar(),
            "/error/message",
            "line 1 of the grammar",
        ),
        (
            "/completion",
            json!({"json_schema": {"type": "unheard"}}),
            "/error/message",
            "json_schema: ",
        ),
        (
            "/completion",
            json!({"json_schema": {"type": "object"}, "grammar": "root ::= \"a\""}),
            "/error/message",
            "not several",
        ),
        (
            "/api/v1/generate",
            json!({"grammar_string": 3}),
            "/detail/msg",
            "grammar_string: found 3, expected a grammar in GBNF",
        ),
        (
            "/api/extra/generate/stream",
            grammar(),
            "/detail/msg",
            "line 1 of the grammar",
        ),
        (
            "/api/generate",
            json!({"format": "yaml"}),
            "/error",
            "format: found \"yaml\", expected a JSON schema",
        ),
        (
            "/api/chat",
            json!({"format": {"type": 7}}),
            "/error",
            "format: ",
        ),
    ] {
        let reply = server.post(path, &with(&base, more));
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        let body = reply.json();
        let message = body.pointer(place).and_then(Value::as_str);
        let message = message.unwrap_or_else(|| panic!("{path}: {body}"));
        assert!(message.contains(part), "{path}: {message}");
    }
    assert!(!server.logs().contains("panic"));
}
