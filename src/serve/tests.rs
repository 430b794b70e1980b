//! What takes a server inside this process: limits of time, and a model that is not there yet.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use super::state::{Limits, Server};
use super::worker::Worker;
use super::{Guard, Options, ServeError, connections, router, serve};

/// What a request's head or body may take here.
const SHORT: Duration = Duration::from_millis(300);

/// Calls `with` with the address of a server that never gets a model, from a thread of its own.
fn serving(with: impl FnOnce(SocketAddr) + Send + 'static) {
    let limits = Limits {
        head_time: SHORT,
        body_time: SHORT,
        ..Limits::default()
    };
    serving_within(limits, with);
}

fn serving_within(limits: Limits, with: impl FnOnce(SocketAddr) + Send + 'static) {
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

#[test]
fn who_does_not_read_is_not_waited_for() {
    let limits = Limits {
        write_time: SHORT,
        connections: 1,
        ..Limits::default()
    };
    serving_within(limits, |address| {
        // Answers of more bytes than the system holds between two programs of one machine.
        let one = "GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(one.repeat(1000).as_bytes()).unwrap();
        // There is place for one connection: it must have ended.
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let reply = ask(address, &[request], Duration::ZERO);
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply:?}");
        drop(stream);
    });
}

#[test]
fn bodies_take_no_more_together_than_they_may() {
    let limits = Limits {
        max_body: 1000,
        ..Limits::default()
    };
    serving_within(limits, |address| {
        let head = "POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        let almost = format!("{head}Content-Length: 1000\r\n\r\n{}", " ".repeat(999));
        let hold = || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(almost.as_bytes()).unwrap();
            stream
        };
        let mut held: Vec<TcpStream> = (0..16).map(|_| hold()).collect();
        let small = format!("{head}Content-Length: 100\r\n\r\n{}", " ".repeat(100));
        let reply = || ask(address, &[&small], Duration::ZERO);
        let start = Instant::now();
        while !reply().contains("the server is busy") {
            assert!(start.elapsed() < 20 * SHORT);
            // One may have come while the small one was held, and so have found no room.
            held.push(hold());
        }
        drop(held);
        while !reply().contains("the model is being loaded") {
            assert!(start.elapsed() < 40 * SHORT);
        }
    });
}

#[test]
fn it_ends_with_the_thread_that_has_the_engine() {
    let options = Options {
        address: ([127, 0, 0, 1], 0).into(),
        slots: 1,
        queue: 1,
        guard: Guard::default(),
        limits: Limits::default(),
        drain: Duration::ZERO,
    };
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let panics = || -> Result<_, std::io::Error> { panic!("a test's panic") };
        let _ = sender.send(serve(&options, panics));
    });
    let result = ended.recv_timeout(20 * SHORT).expect("it goes on");
    assert!(matches!(result, Err(ServeError::Engine)), "{result:?}");
}
