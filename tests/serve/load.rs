//! Many at once: every answer is byte for byte what the request gives alone.

use serde_json::{Value, json};
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{Server, read_reply, wait_for};

/// Texts asked for at once; every third is dropped midway.
const STREAMS: usize = 12;

/// Different prompts, some with a common beginning, and different settings.
fn request(i: usize) -> Value {
    let prompts = [
        "昔々、あるところに",
        "昔々、おじいさんと",
        "吾輩は猫である。",
        "雨が降っていた。\n",
    ];
    json!({
        "prompt": prompts[i % prompts.len()].repeat(1 + i % 5), "seed": i, "max_tokens": 20 + 3 * i,
        "temperature": 0.7 + 0.1 * (i % 4) as f64, "top_p": 0.95, "repetition_penalty": 1.1,
        "ignore_eos": i.is_multiple_of(2), "stream": true,
    })
}

fn text(reply: &super::Reply) -> String {
    let events = reply.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    (events.iter())
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect()
}

#[test]
fn answers_under_load_are_those_given_alone() {
    let server = Server::start(&["--slots", "3", "--queue", "64"]);
    let under_load: Vec<Option<String>> = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|i| {
                let body = request(i).to_string();
                let bytes = server.head("POST", "/v1/completions", &[], &body);
                let mut stream = server.send(&bytes);
                scope.spawn(move || {
                    if i.is_multiple_of(3) {
                        // Some before their first token, some after it.
                        let mut some = vec![0; 300 * (i / 3 % 3)];
                        stream.read_exact(&mut some).unwrap();
                        return None;
                    }
                    Some(text(&read_reply(stream)))
                })
            })
            .collect();
        streams.into_iter().map(|s| s.join().unwrap()).collect()
    });
    let fresh = Server::start(&["--slots", "1"]);
    for (i, found) in under_load.iter().enumerate() {
        if let Some(found) = found {
            let alone = text(&fresh.post("/v1/completions", &request(i)));
            assert_eq!(found, &alone, "text {i}");
        }
    }
    // No slot is left behind.
    wait_for(|| {
        let slots = server.get("/slots").json();
        let idle = |slot: &Value| slot["is_processing"] == false;
        slots.as_array().unwrap().iter().all(idle).then_some(())
    });
}

/// Kilobytes of memory that the server has, on Linux.
fn resident(server: &Server) -> Option<u64> {
    let path = format!("/proc/{}/status", server.child.id());
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// 64 clients for five minutes, or as many seconds as `KATARI_LOAD_SECONDS` says; a third of the
/// connections is dropped midway, and the queue is too short for all.
#[test]
#[ignore = "takes five minutes: cargo test --test integration serve::load -- --ignored --nocapture"]
fn sixty_four_clients_for_five_minutes() {
    let seconds = std::env::var("KATARI_LOAD_SECONDS").ok();
    let seconds = seconds.map_or(300, |s| s.parse().unwrap());
    let fresh = Server::start(&["--slots", "1"]);
    let alone: Vec<String> = (0..24)
        .map(|i| text(&fresh.post("/v1/completions", &request(i))))
        .collect();
    drop(fresh);

    let server = Server::start(&["--slots", "8", "--queue", "48"]);
    let (end, count) = (std::time::Instant::now(), AtomicUsize::new(0));
    let [whole, dropped, refused] = [const { AtomicUsize::new(0) }; 3];
    let early = AtomicU64::new(0);
    // Kilobytes after each tenth of the time.
    let mut course = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                while end.elapsed().as_secs() < seconds {
                    let n = count.fetch_add(1, Relaxed);
                    if n == 1000 {
                        early.store(resident(&server).unwrap_or(0), Relaxed);
                    }
                    let i = n % alone.len();
                    let body = request(i).to_string();
                    let mut stream =
                        server.send(&server.head("POST", "/v1/completions", &[], &body));
                    if n.is_multiple_of(3) {
                        let mut some = vec![0; 300 * (n / 3 % 4)];
                        let _ = stream.read_exact(&mut some);
                        dropped.fetch_add(1, Relaxed);
                        continue;
                    }
                    let reply = read_reply(stream);
                    if reply.status == 503 {
                        refused.fetch_add(1, Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        continue;
                    }
                    assert_eq!(reply.status, 200, "{}", reply.body);
                    assert_eq!(text(&reply), alone[i], "text {i}");
                    whole.fetch_add(1, Relaxed);
                }
            });
        }
        for _ in 0..10 {
            std::thread::sleep(std::time::Duration::from_secs(seconds) / 10);
            course.push(resident(&server).unwrap_or(0));
        }
    });
    wait_for(|| {
        let slots = server.get("/slots").json();
        let idle = |slot: &Value| slot["is_processing"] == false;
        slots.as_array().unwrap().iter().all(idle).then_some(())
    });
    let (early, late) = (early.into_inner(), resident(&server).unwrap_or(0));
    println!(
        "{whole:?} texts as they are alone, {dropped:?} dropped, {refused:?} refused; \
         {early} kB after 1000 requests, then {course:?}, {late} kB at the end"
    );
    assert!(whole.into_inner() > 100 && refused.into_inner() > 0);
    // What an allocator keeps is no leak; a text left behind by each request would be far more.
    assert!(
        early == 0 || late < early + (16 << 10),
        "{early} kB, then {late} kB"
    );
}
