//! OpenAI's protocol.

use serde_json::{Value, json};

use super::{PROMPT, Server};

fn request(more: Value) -> Value {
    let mut body = json!({"model": "undefined", "prompt": PROMPT, "max_tokens": 12, "seed": 7});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn models_are_listed() {
    let server = Server::start(&["--name", "katari-demo"]);
    for path in ["/v1/models", "/models"] {
        assert_eq!(server.get(path).json()["data"][0]["id"], "katari-demo");
    }
    assert_eq!(
        server.get("/v1/models/katari-demo").json()["object"],
        "model"
    );
    let reply = server.get("/v1/models/other");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["type"], "not_found_error");
    let reply = server.get("/v1/models/%ff");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["type"], "not_found_error");
}

#[test]
fn a_completion_whole_and_in_pieces_is_one_text() {
    let server = Server::start(&[]);
    let whole = server.ask("/v1/completions", &request(json!({})));
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(!text.is_empty());
    assert_eq!(whole["object"], "text_completion");
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );

    let body = request(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let reply = server.post("/v1/completions", &body);
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("text/event-stream")
    );
    let events = reply.events();
    let pieces = events
        .iter()
        .filter_map(|e| e["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let [.., last_choice, with_usage, done] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(
        last_choice["choices"][0]["finish_reason"],
        whole["choices"][0]["finish_reason"]
    );
    assert_eq!(with_usage["choices"], json!([]));
    assert_eq!(
        with_usage["usage"]["completion_tokens"],
        usage["completion_tokens"]
    );
    assert_eq!(done, "[DONE]");
}

#[test]
fn limits_and_stops_are_told_apart_and_stop_strings_never_leak() {
    let server = Server::start(&[]);
    let greedy = json!({"temperature": 0, "ignore_eos": true, "max_tokens": 30});
    let whole = server.ask("/v1/completions", &request(greedy.clone()));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 30);
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..][..3].iter().collect();
    let expected = &text[..text.find(&stop).unwrap()];
    let mut body = request(greedy);
    body["stop"] = json!([stop]);
    let stopped = server.ask("/v1/completions", &body);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(stopped["choices"][0]["text"], expected);
    body["stream"] = json!(true);
    let events = server.post("/v1/completions", &body).events();
    let pieces = events
        .iter()
        .filter_map(|e| e["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), expected);
}

#[test]
fn several_texts_and_prompts_are_choices_in_order() {
    let server = Server::start(&["--slots", "4"]);
    let both = server.ask("/v1/completions", &request(json!({"n": 2})));
    let second_alone = server.ask("/v1/completions", &request(json!({"seed": 8})));
    let first_alone = server.ask("/v1/completions", &request(json!({})));
    assert_eq!(
        both["choices"][0]["text"],
        first_alone["choices"][0]["text"]
    );
    assert_eq!(
        both["choices"][1]["text"],
        second_alone["choices"][0]["text"]
    );
    assert_ne!(both["choices"][0]["text"], both["choices"][1]["text"]);
    // A prompt counts once, and so does what of it was there already.
    let cached = |answer: &Value| {
        let cached = &answer["usage"]["prompt_tokens_details"]["cached_tokens"];
        cached.as_u64().unwrap()
    };
    let prompt_tokens = both["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(cached(&both), 0);
    assert_eq!(cached(&first_alone), prompt_tokens - 1);
    let four = server.ask("/v1/completions", &request(json!({"n": 4})));
    assert_eq!(cached(&four), prompt_tokens - 1);

    // As LangChain sends it, and as token ids.
    let ids = server.ask("/tokenize", &json!({"content": PROMPT}))["tokens"].clone();
    let prompts = request(json!({"prompt": [PROMPT, ids], "echo": true}));
    let choices = server.ask("/v1/completions", &prompts)["choices"].clone();
    assert_eq!(choices[0]["text"], choices[1]["text"]);
    let text = first_alone["choices"][0]["text"].as_str().unwrap();
    assert_eq!(choices[0]["text"], format!("{PROMPT}{text}"));
}

#[test]
fn logprobs_are_those_of_the_logits_verb() {
    let server = Server::start(&[]);
    let body = request(json!({"temperature": 0, "max_tokens": 1, "logprobs": 3}));
    let logprobs = server.ask("/v1/completions", &body)["choices"][0]["logprobs"].clone();
    let top = logprobs["top_logprobs"][0].as_object().unwrap();
    assert_eq!(top.len(), 3);
    let token = logprobs["tokens"][0].as_str().unwrap();
    assert_eq!(top[token], logprobs["token_logprobs"][0]);
    let drawn = logprobs["token_logprobs"][0].as_f64().unwrap();
    assert!(top.values().all(|p| p.as_f64().unwrap() <= drawn));

    let native = json!({"prompt": PROMPT, "temperature": 0, "n_predict": 1, "n_probs": 20});
    let probabilities = server.ask("/completion", &native)["completion_probabilities"].clone();
    let top = probabilities[0]["top_logprobs"].as_array().unwrap();
    let sum: f64 = top
        .iter()
        .map(|t| t["logprob"].as_f64().unwrap().exp())
        .sum();
    assert!(sum > 0.1 && sum <= 1.0, "{sum}");
    assert_eq!(probabilities[0]["logprob"], logprobs["token_logprobs"][0]);

    // The softmax of what `katari logits` prints.
    let model = crate::support::quantized(
        &crate::support::repository("demo"),
        katari_quantize::FileType::Q8_0,
    );
    let tokenized = server.ask(
        "/tokenize",
        &json!({"content": PROMPT, "add_special": true}),
    );
    let ids: Vec<u32> = serde_json::from_value(tokenized["tokens"].clone()).unwrap();
    let options = katari::engine::EngineOptions {
        threads: Some(1),
        ..Default::default()
    };
    let mut engine = katari::engine::Engine::open(&model, &options).unwrap();
    let last = ids.len() - 1;
    let feeds: Vec<_> = (ids.iter().enumerate())
        .map(|(i, &token)| katari::engine::Feed {
            sequence: 0,
            token,
            wants_logits: i == last,
        })
        .collect();
    let logits = engine.evaluate(&feeds).unwrap();
    let row: Vec<f64> = logits
        .row(0)
        .unwrap()
        .iter()
        .map(|&x| f64::from(x))
        .collect();
    let id = probabilities[0]["id"].as_u64().unwrap() as usize;
    // Surplus rows of the embedding are not tokens, but weigh next to nothing here.
    let expected = row[id] - row.iter().map(|x| x.exp()).sum::<f64>().ln();
    assert!(
        (drawn - expected).abs() < 1e-3,
        "{drawn}, expected {expected}"
    );
}

#[test]
fn logit_bias_bans_and_forces() {
    let server = Server::start(&[]);
    let native = json!({"prompt": PROMPT, "temperature": 0, "n_predict": 1, "n_probs": 2});
    let top =
        server.ask("/completion", &native)["completion_probabilities"][0]["top_logprobs"].clone();
    let (first, second) = (&top[0]["id"], &top[1]["id"]);
    let bias = json!({first.to_string(): -100});
    let body =
        request(json!({"temperature": 0, "max_tokens": 1, "logit_bias": bias, "logprobs": 1}));
    let text = server.ask("/v1/completions", &body)["choices"][0]["text"].clone();
    assert_eq!(text, top[1]["token"]);
    let banned =
        json!({"prompt": PROMPT, "temperature": 0, "n_predict": 1, "logit_bias": [[first, false]]});
    assert_eq!(server.ask("/completion", &banned)["tokens"][0], *second);
}

#[test]
fn a_chat_whole_and_in_pieces_is_one_text() {
    let server = Server::start_chat(&[]);
    let content = json!([{"type": "text", "text": "こんにちは"}]);
    let mut body = json!({
        "messages": [{"role": "user", "content": content}], "max_tokens": 10, "seed": 3,
        "logprobs": true, "top_logprobs": 2, "tools": [], "response_format": {"type": "text"},
    });
    let whole = server.ask("/v1/chat/completions", &body);
    assert_eq!(whole["object"], "chat.completion");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let likely = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(likely[0]["top_logprobs"].as_array().unwrap().len(), 2);
    body["stream"] = json!(true);
    let events = server.post("/chat/completions", &body).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    let pieces = events
        .iter()
        .filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert_eq!(
        pieces.collect::<String>(),
        message["content"].as_str().unwrap()
    );
    // The prompt was the template's.
    let prompt = server.ask("/apply-template", &json!({"messages": body["messages"]}));
    assert_eq!(prompt["prompt"], "ユーザー: こんにちは<NL>システム: ");
}

#[test]
fn a_conversation_beyond_the_context_loses_its_beginning() {
    let server = Server::start_chat(&["--ctx", "64"]);
    let mut messages = Vec::new();
    for i in 0..20 {
        messages.push(json!({"role": "user", "content": format!("{i}番目の質問です。")}));
        messages.push(json!({"role": "assistant", "content": "はい、そうです。"}));
    }
    messages.push(json!({"role": "user", "content": "最後"}));
    let body = json!({"messages": messages, "max_tokens": 5});
    let answer = server.ask("/v1/chat/completions", &body);
    let tokens = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!((10..=59).contains(&tokens), "{tokens}");
}

#[test]
fn a_model_without_template_says_so() {
    let server = Server::start(&[]);
    let body = json!({"messages": [{"role": "user", "content": "?"}]});
    let reply = server.post("/v1/chat/completions", &body);
    assert_eq!(reply.status, 400);
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("no chat template"), "{message}");
}

#[test]
fn what_clients_send_passes_and_what_cannot_be_is_refused() {
    let server = Server::start(&[]);
    // Much more than there is, fields nobody knows, and three spellings at once.
    server.ask(
        "/v1/completions",
        &request(json!({
            "max_tokens": 3, "temperature": 1e30, "top_p": 7, "top_k": -1, "min_p": -3,
            "typical_p": 1, "rep_pen": 1.1, "repetition_penalty": 1.2, "repeat_penalty": 0,
            "nonsense": {"deep": [1, 2]}, "stop": null, "logit_bias": {}, "format": "", "tools": [],
            "seed": -1, "truncation_length": 8192, "sampler_order": [6, 0, 1, 3, 4, 2, 5],
            "samplers": ["top_k", "unheard_of", "temperature"], "grammar": "", "logprobs": null,
        })),
    );
    for (field, value) in [
        ("temperature", json!("hot")),
        ("max_tokens", json!([])),
        ("prompt", json!({"a": 1})),
        ("prompt", json!([[1, -2]])),
        ("prompt", json!([4_000_000_000u32])),
        ("n", json!(1000)),
        ("stop", json!([1])),
        ("logit_bias", json!({"999999": 1})),
    ] {
        let reply = server.post("/v1/completions", &request(json!({field: value})));
        if (field, &value) == ("max_tokens", &json!([])) {
            // As good as none.
            assert_eq!(reply.status, 200);
            continue;
        }
        assert_eq!(reply.status, 400, "{field}: {value}: {}", reply.body);
        let error = reply.json()["error"].clone();
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(field), "{message}");
    }
}
