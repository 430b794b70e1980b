//! Malformed, huge and slow requests, and a full queue.

use std::io::{Read, Write};

use serde_json::json;

use super::{PROMPT, Server, read_reply, wait_for};

/// A context that a text does not fill in the time of a test.
const LONG: &str = "50000";

#[test]
fn malformed_requests_are_refused_and_the_server_goes_on() {
    let server = Server::start(&[]);
    for path in [
        "/v1/completions",
        "/completion",
        "/api/v1/generate",
        "/api/generate",
    ] {
        for body in [
            "{",
            "[]",
            "3",
            "\"a\"",
            "{\"prompt\": 1e999}",
            "\u{0}",
            &"[".repeat(100_000),
        ] {
            let reply = server.request("POST", path, &[], body);
            assert_eq!(reply.status, 400, "{path}: {body:.20}: {}", reply.body);
            reply.json();
        }
    }
    for request in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ] {
        let mut stream = server.send(request);
        // Nothing more comes.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply);
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 4"),
            "{reply}"
        );
    }
    assert_eq!(server.get("/health").status, 200);
    assert!(!server.logs().contains("panicked"));
}

#[test]
fn bodies_and_heads_have_a_largest_size() {
    let server = Server::start(&["--max-body", "10000"]);
    let long = json!({"prompt": "あ".repeat(5000)}).to_string();
    for (path, field) in [("/v1/completions", "error"), ("/api/v1/generate", "detail")] {
        let reply = server.request("POST", path, &[], &long);
        assert_eq!(reply.status, 413);
        assert!(!reply.json()[field].is_null());
    }
    // One that lies about its length is cut off at the limit too.
    let chunked = [("Transfer-Encoding", "chunked"), ("Content-Length", "")];
    let mut head = String::from_utf8(server.head("POST", "/completion", &chunked, "")).unwrap();
    head = head.replace("Content-Length: \r\n", "");
    let mut stream = server.send(head.as_bytes());
    for _ in 0..20 {
        if stream
            .write_all(format!("400\r\n{}\r\n", "x".repeat(1024)).as_bytes())
            .is_err()
        {
            break;
        }
    }
    assert_eq!(read_reply(stream).status, 413);
    // A body that cannot be read is not a large one.
    let stream = server.send(format!("{head}zz\r\n").as_bytes());
    assert_eq!(read_reply(stream).status, 400);

    let huge = "x".repeat(1_000_000);
    let request = server.head("GET", "/health", &[("X-Huge", &huge)], "");
    let mut stream = server.send(&[]);
    let _ = stream.write_all(&request);
    let mut reply = String::new();
    let _ = stream.read_to_string(&mut reply);
    assert!(
        reply.is_empty() || reply.starts_with("HTTP/1.1 431"),
        "{reply}"
    );
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_full_queue_is_503_and_dropped_connections_make_room() {
    let server = Server::start(&["--slots", "1", "--queue", "1", "--ctx", LONG]);
    let body = json!({"prompt": PROMPT, "max_tokens": 100_000, "ignore_eos": true, "stream": true});
    let request = server.head("POST", "/v1/completions", &[], &body.to_string());
    let mut writing = server.send(&request);
    writing.read_exact(&mut [0; 1]).unwrap();
    let waiting = server.send(&request);
    wait_for(|| {
        let metrics = server.get("/metrics").body;
        metrics
            .contains("katari_requests_waiting 1\n")
            .then_some(())
    });
    let refused = server.post(
        "/v1/completions",
        &json!({"prompt": PROMPT, "max_tokens": 1}),
    );
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["type"], "unavailable_error");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let refused = server.post("/api/v1/generate", &json!({"prompt": PROMPT}));
    assert_eq!(
        (refused.status, &refused.json()["detail"]["type"]),
        (503, &json!("service_unavailable"))
    );
    // What will never be an answer is not to be asked for again.
    let malformed = server.request("POST", "/v1/completions", &[], "{");
    assert_eq!(malformed.status, 400, "{}", malformed.body);
    drop(writing);
    drop(waiting);
    let reply = wait_for(|| {
        let reply = server.post(
            "/v1/completions",
            &json!({"prompt": PROMPT, "max_tokens": 2}),
        );
        Some(reply).filter(|reply| reply.status != 503)
    });
    assert_eq!(reply.status, 200);
    // Three at once can never be, so who asks for them is not to come again.
    let three = json!({"prompt": PROMPT, "n": 3});
    assert_eq!(server.post("/v1/completions", &three).status, 400);
    // Told after the pass that wrote the last token.
    wait_for(|| {
        let metrics = server.get("/metrics").body;
        metrics
            .contains("katari_requests_running 0\n")
            .then_some(())
    });
}
