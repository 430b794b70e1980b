//! What takes a server inside this process: limits of time, and a model that is not there yet.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::state::{Limits, Server};
use super::worker::Worker;
use super::{Guard, connections, router};

/// What a request's head or body may take here.
const SHORT: Duration = Duration::from_millis(300);

/// Calls `with` with the address of a server that never gets a model, from a thread of its own.
fn serving(with: impl FnOnce(SocketAddr) + Send + 'static) {
    let limits = Limits {
        head_time: SHORT,
        body_time: SHORT,
        ..Limits::default()
    };
    let metrics = Arc::new(Metrics::default());
    let (worker, _desk) = Worker::new(1, 1, Arc::clone(&metrics));
    let server = Arc::new(Server::new(worker, metrics, limits, 1));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let done = tokio::task::spawn_blocking(move || with(address));
        let end = async { done.await.unwrap() };
        let router = router(server, Guard::default());
        connections::accept(listener, router, limits, end, Duration::ZERO).await;
    });
}

/// Sends `parts` with a pause before each, and reads until the connection is closed.
fn ask(address: SocketAddr, parts: &[&str], pause: Duration) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(20 * SHORT)).unwrap();
    for part in parts {
        std::thread::sleep(pause);
        if stream.write_all(part.as_bytes()).is_err() {
            break;
        }
    }
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8(reply).unwrap()
}

#[test]
fn before_the_model_is_there_every_protocol_says_503() {
    serving(|address| {
        for (request, part) in [
            (
                "GET /health",
                "\"error\":{\"message\":\"the model is being loaded\"",
            ),
            (
                "GET /v1/models",
                "\"error\":{\"message\":\"the model is being loaded\"",
            ),
            (
                "POST /completion",
                "\"error\":{\"message\":\"the model is being loaded\"",
            ),
            (
                "POST /api/v1/generate",
                "{\"detail\":{\"msg\":\"the model is being loaded\"",
            ),
            (
                "POST /api/generate",
                "{\"error\":\"the model is being loaded\"}",
            ),
        ] {
            let request = format!(
                "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            let reply = ask(address, &[&request], Duration::ZERO);
            assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
            assert!(reply.contains(part), "{reply}");
        }
    });
}

#[test]
fn who_sends_slowly_is_not_waited_for() {
    serving(|address| {
        let start = Instant::now();
        // A header a time, for ever.
        let mut parts = vec!["GET /health HTTP/1.1\r\n"];
        parts.extend(["X-A: b\r\n"; 30]);
        let reply = ask(address, &parts, SHORT / 3);
        assert!(!reply.contains(" 200 "), "{reply}");
        // A byte of the body a time.
        let mut parts = vec!["POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n"];
        parts.extend([" "; 30]);
        let reply = ask(address, &parts, SHORT / 3);
        assert!(reply.contains("HTTP/1.1 408 "), "{reply}");
        assert!(reply.contains("did not come in time"), "{reply}");
        // Nothing at all, before and after a request.
        ask(address, &[], Duration::ZERO);
        let reply = ask(
            address,
            &["GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
            Duration::ZERO,
        );
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(start.elapsed() < 60 * SHORT, "{:?}", start.elapsed());
    });
}
