//! Who may ask.

use serde_json::json;

use super::{PROMPT, Server};
use crate::support::scratch;

#[test]
fn other_hosts_and_origins_are_refused_in_each_protocol() {
    let server = Server::start(&["--cors", "https://lite.koboldai.net"]);
    for path in ["/v1/models", "/health", "/api/v1/model", "/api/tags", "/"] {
        let reply = server.request("GET", path, &[("Host", "evil.example")], "");
        assert_eq!(reply.status, 403, "{path}");
        let reply = server.request("GET", path, &[("Origin", "https://evil.example")], "");
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    let rebound = server.request("GET", "/api/v1/model", &[("Host", "evil.example")], "");
    assert!(rebound.json()["detail"]["msg"].is_string());
    for origin in ["http://localhost:8000", "https://lite.koboldai.net"] {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
        ];
        let preflight = server.request("OPTIONS", "/api/v1/generate", &headers, "");
        assert_eq!(preflight.status, 204);
        assert_eq!(
            preflight.header("access-control-allow-origin"),
            Some(origin)
        );
        let reply = server.request("GET", "/api/v1/model", &headers, "");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
    }
}

#[test]
fn a_key_is_asked_for_everywhere_but_for_health() {
    let file = scratch("serve-key");
    std::fs::write(&file, "密 secret\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap()]);
    assert_eq!(server.get("/health").status, 200);
    for path in [
        "/v1/models",
        "/props",
        "/api/v1/model",
        "/api/tags",
        "/metrics",
        "/nothing",
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    let right = [("Authorization", "Bearer 密 secret")];
    assert_eq!(server.request("GET", "/v1/models", &right, "").status, 200);
    assert_eq!(server.get("/api/extra/version").status, 401);
    let version = server.request("GET", "/api/extra/version", &right, "");
    assert_eq!(version.json()["protected"], true);
    std::fs::write(&file, "secret\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap()]);
    for (name, value, status) in [
        ("Authorization", "Bearer secret", 200),
        ("X-Api-Key", "secret", 200),
        // SillyTavern's, where no key is set.
        ("Authorization", "Bearer ", 401),
        ("Authorization", "Bearer secret2", 401),
    ] {
        let reply = server.request("GET", "/v1/models", &[(name, value)], "");
        assert_eq!(reply.status, status, "{name}: {value}");
    }
    let logs = server.logs();
    assert!(
        logs.contains("status=401") && !logs.contains("secret"),
        "{logs}"
    );
}

#[test]
fn no_text_of_a_request_is_logged() {
    let server = Server::start(&["--log-json"]);
    let mut body = json!({"prompt": PROMPT, "n_predict": 3, "temperature": 0, "ignore_eos": true});
    let answer = server.ask("/completion", &body);
    // One that is stopped by what it wrote the first time.
    body["stop"] = answer["content"].clone();
    let stopped = server.ask("/completion", &body);
    assert_eq!(stopped["stopping_word"], answer["content"]);
    let logs = server.logs();
    assert!(
        logs.lines()
            .any(|line| line.contains("\"path\":\"/completion\"")),
        "{logs}"
    );
    assert!(!logs.contains(PROMPT), "{logs}");
    assert!(logs.contains("\"finish\":\"stop\""), "{logs}");
    assert!(!logs.contains(body["stop"].as_str().unwrap()), "{logs}");
}

#[cfg(target_os = "linux")]
#[test]
fn every_address_of_this_machine_alone_is_a_name_of_it() {
    let server = Server::start(&["--host", "127.0.0.2"]);
    let own = [("Host", server.address.as_str())];
    assert_eq!(server.request("GET", "/v1/models", &own, "").status, 200);
    let other = [("Host", "127.0.0.3:80")];
    assert_eq!(server.request("GET", "/v1/models", &other, "").status, 403);
}
