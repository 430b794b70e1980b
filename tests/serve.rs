//! The server as its clients meet it: raw HTTP to a process of its own, with the demo model.

mod constrain;
mod guard;
mod kobold;
mod limits;
mod llama;
mod load;
mod ollama;
mod openai;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use katari_quantize::FileType;
use serde_json::{Value, json};

use crate::cli::demo_chat;
use crate::support::{quantized, repository, started};

const PROMPT: &str = "昔々、あるところに";

/// No answer of the demo model takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `look` finds, once it does.
#[track_caller]
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nothing came in {PATIENCE:?}");
}

/// A running server; ended when dropped.
struct Server {
    child: Child,
    address: String,
    logs: Option<std::thread::JoinHandle<String>>,
}

impl Server {
    /// The demo model, a base model.
    fn start(args: &[&str]) -> Server {
        let path = quantized(&repository("demo"), FileType::Q8_0);
        Server::of(path.to_str().unwrap(), args)
    }

    /// The demo model with a chat template.
    fn start_chat(args: &[&str]) -> Server {
        Server::of(&demo_chat(), args)
    }

    /// Waits until the model is loaded.
    fn of(model: &str, args: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_katari"));
        let command = command
            .args(["serve", model, "--port", "0", "--threads", "1"])
            .args(args)
            .env_remove("KATARI_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = started(|| command.spawn());
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut address, mut loaded) = (None, false);
        let mut line = String::new();
        while address.is_none() || !loaded {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the server ended");
            loaded |= line.contains("model loaded");
            if let Some((_, found)) = line.split_once("http://") {
                let end = found.find(|c: char| c != ':' && c != '.' && !c.is_ascii_digit());
                address = Some(found[..end.unwrap_or(found.len())].to_string());
            }
        }
        let logs = std::thread::spawn(move || {
            let mut logs = String::new();
            let _ = stderr.read_to_string(&mut logs);
            logs
        });
        Server {
            child,
            address: address.unwrap(),
            logs: Some(logs),
        }
    }

    /// A connection on which `request` was sent.
    fn send(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        stream
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        read_reply(self.send(&self.head(method, path, headers, body)))
    }

    /// The bytes of a request; a header that is given replaces that of the same name.
    fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        let length = body.len().to_string();
        for (name, value) in [("Host", self.address.as_str()), ("Content-Length", &length)] {
            if !headers.iter().any(|(n, _)| *n == name) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        let json = [("Content-Type", "application/json")];
        self.request("POST", path, &json, &body.to_string())
    }

    /// The answer to `body`, which must succeed.
    #[track_caller]
    fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        reply.json()
    }

    /// Ends it, and gives what it logged after it was ready.
    fn logs(mut self) -> String {
        self.child.kill().unwrap();
        self.logs.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The JSON values of server-sent events; the word `[DONE]` is a string.
    #[track_caller]
    fn events(&self) -> Vec<Value> {
        let events = self.body.split("\n\n").filter(|event| !event.is_empty());
        events
            .map(|event| {
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                let data = data.unwrap_or_else(|| panic!("no data: {event:?}"));
                serde_json::from_str(data).unwrap_or_else(|_| json!(data))
            })
            .collect()
    }
}

/// Reads an answer to the end of the connection.
#[track_caller]
fn read_reply(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A server that refuses a body closes before it has read all of it.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let says = |header: &str| head.to_ascii_lowercase().contains(header);
    let chunks = match says("transfer-encoding: chunked") {
        true => dechunked(body),
        false => vec![body],
    };
    if says("content-type: application/x-ndjson") {
        // SillyTavern takes each chunk of Ollama's streams for one value.
        for chunk in &chunks {
            assert_eq!(chunk.find('\n'), Some(chunk.len() - 1), "{chunk}");
        }
    }
    Reply {
        status,
        head: head.to_string(),
        body: chunks.concat(),
    }
}

/// The chunks of a chunked body (RFC 9112, 7.1): each must be whole characters.
fn dechunked(mut body: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        chunks.push(&rest[..size]);
        body = &rest[size + 2..];
    }
    chunks
}

#[test]
fn it_says_when_it_is_ready_and_what_is_not_there() {
    let server = Server::start(&[]);
    let reply = server.get("/health");
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, "{\"status\":\"ok\"}")
    );
    let reply = server.get("/nothing/../here");
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["type"], "not_found_error");
    let reply = server.get("/v1/completions");
    assert_eq!(reply.status, 405, "{}", reply.body);
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
}

#[test]
fn the_page_is_in_the_binary_and_loads_nothing_from_elsewhere() {
    let server = Server::start(&[]);
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let reply = server.get(path);
        assert!(reply.header("content-type").unwrap().starts_with(kind));
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let without_namespace = reply.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_namespace.contains("://"), "{path}");
    }
}

#[test]
fn metrics_count_what_was_written() {
    let server = Server::start(&[]);
    server.ask(
        "/completion",
        &json!({"prompt": PROMPT, "n_predict": 5, "ignore_eos": true}),
    );
    let text = server.get("/metrics").body;
    for line in [
        "katari_requests_total 1",
        "katari_generated_tokens_total 5",
        "katari_request_seconds_count 1",
        "katari_requests_waiting 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
    }
}

#[test]
fn a_model_that_cannot_be_loaded_ends_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_katari"));
    let command = command.args(["serve", "absent.gguf", "--port", "0"]);
    let output = started(|| command.output());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: absent.gguf: "), "{stderr}");
}

#[cfg(unix)]
#[test]
fn told_to_end_it_lets_a_text_come_to_its_end() {
    let mut server = Server::start(&["--drain", "20"]);
    let body = json!({"prompt": PROMPT, "n_predict": 200, "ignore_eos": true, "stream": true});
    let request = server.head("POST", "/completion", &[], &body.to_string());
    let mut stream = server.send(&request);
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    let pid = server.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"stop\":true"), "{rest}");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// The document and the router are made of one list; what the document says is asked here.
#[test]
fn the_document_names_every_endpoint_and_every_field() {
    let server = Server::start_chat(&[]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/",
        "/openapi.json",
        "/v1/completions",
        "/completion",
        "/api/chat",
        "/health",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    for (path, methods) in paths {
        let there = path.replace("{id}", "absent");
        for method in ["GET", "POST", "PUT"] {
            // Without a body, or with one that asks for little.
            let body = json!({"messages": [{"role": "user", "content": "猫"}], "tokens": [1],
                "prompt": "猫", "max_tokens": 1, "num_predict": 1});
            let body = if method == "GET" {
                String::new()
            } else {
                body.to_string()
            };
            let status = server.request(method, &there, &[], &body).status;
            let named = methods.get(method.to_ascii_lowercase()).is_some();
            let expected = match (named, path.contains("{id}")) {
                (true, false) => 200,
                (true, true) => 404,
                (false, _) => 405,
            };
            assert_eq!(status, expected, "{method} {path}");
        }
    }
    // There is no other way to add a route.
    for entry in std::fs::read_dir(repository("src/serve")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with("endpoints.rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            assert!(!source.contains(".route("), "{}", path.display());
        }
    }
    let fields = &document["components"]["schemas"]["Writing"]["properties"];
    assert_eq!(fields["temperature"]["type"], json!(["number", "null"]));
    assert_eq!(fields["xtc_probability"], fields["rep_pen"]);
}
