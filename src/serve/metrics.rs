//! Figures of a running server, in the text format that Prometheus reads (exposition format
//! 0.0.4).

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Upper bounds of the buckets of batch sizes, in tokens.
const TOKENS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// How often values fell into each bucket.
#[derive(Debug)]
pub struct Histogram {
    bounds: [f64; 10],
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    counts: [u64; 10],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: [f64; 10]) -> Self {
        Histogram {
            bounds,
            seen: Mutex::default(),
        }
    }

    /// Counts `value`.
    pub fn observe(&self, value: f64) {
        // What a panicking thread left is figures all the same.
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        for (count, bound) in seen.counts.iter_mut().zip(self.bounds) {
            *count += u64::from(value <= bound);
        }
        seen.count += 1;
        seen.sum += value;
    }

    /// Counts a time.
    pub fn observe_time(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    fn write(&self, out: &mut String, name: &str) {
        let seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        for (bound, count) in self.bounds.iter().zip(seen.counts) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", seen.count);
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", seen.sum, seen.count);
    }
}

/// From one line a figure, `name: kind = "help";`, makes the field and its lines.
macro_rules! metrics {
    ($($name:ident: $kind:ident = $help:literal;)*) => {
        /// Everything that is counted.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $help] pub $name: AtomicU64,)*
            /// From a request's coming to its last token.
            pub request_seconds: Histogram,
            /// From a request's coming to its first token.
            pub first_token_seconds: Histogram,
            /// Tokens of each forward pass.
            pub batch_tokens: Histogram,
        }

        impl Default for Metrics {
            fn default() -> Self {
                Metrics {
                    $($name: AtomicU64::new(0),)*
                    request_seconds: Histogram::new(SECONDS),
                    first_token_seconds: Histogram::new(SECONDS),
                    batch_tokens: Histogram::new(TOKENS),
                }
            }
        }

        impl Metrics {
            /// All of it as text.
            pub fn render(&self) -> String {
                let mut out = String::new();
                $({
                    let name = concat!("katari_", stringify!($name));
                    let kind = stringify!($kind);
                    let value = self.$name.load(Relaxed);
                    let _ = writeln!(out, "# HELP {name} {}", $help);
                    let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
                })*
                for (name, help, histogram) in [
                    ("request_seconds", "Time from a request's coming to its last token.", &self.request_seconds),
                    ("first_token_seconds", "Time from a request's coming to its first token.", &self.first_token_seconds),
                    ("batch_tokens", "Tokens of each forward pass.", &self.batch_tokens),
                ] {
                    let _ = writeln!(out, "# HELP katari_{name} {help}");
                    let _ = writeln!(out, "# TYPE katari_{name} histogram");
                    histogram.write(&mut out, &format!("katari_{name}"));
                }
                out
            }
        }
    };
}

metrics! {
    requests_total: counter = "Texts that were asked for.";
    requests_refused_total: counter = "Requests that were answered with an error.";
    requests_cancelled_total: counter = "Texts that were not written to their end.";
    requests_failed_total: counter = "Texts that ended because the engine failed.";
    prompt_tokens_total: counter = "Tokens of prompts of which any was read.";
    prompt_cached_tokens_total: counter = "Tokens of prompts that the cache held already.";
    generated_tokens_total: counter = "Tokens written.";
    requests_waiting: gauge = "Texts that wait for a slot.";
    requests_running: gauge = "Texts that are being written.";
}

/// Adds `n` to a counter.
pub fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}

/// Sets a gauge.
pub fn set(gauge: &AtomicU64, n: usize) {
    gauge.store(n as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let metrics = Metrics::default();
        metrics.batch_tokens.observe(1.0);
        metrics.batch_tokens.observe(3.0);
        metrics.batch_tokens.observe(1000.0);
        let text = metrics.render();
        for line in [
            "katari_batch_tokens_bucket{le=\"1\"} 1",
            "katari_batch_tokens_bucket{le=\"4\"} 2",
            "katari_batch_tokens_bucket{le=\"512\"} 2",
            "katari_batch_tokens_bucket{le=\"+Inf\"} 3",
            "katari_batch_tokens_sum 1004",
            "katari_requests_waiting 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }
}
