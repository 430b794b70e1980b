//! Who is told how far the work is: a bar on a terminal, plain lines elsewhere, or nobody.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Prints a line to stderr. That nobody reads it any more is no reason to fail, as `eprintln!`
/// would.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Told how far the work is, and asked whether to go on. All of it goes to stderr.
pub trait Progress: Sync {
    /// Work on `total` bytes of weights begins.
    fn start(&self, total: u64) {
        let _ = total;
    }
    /// `bytes` more of the weights are converted.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
    /// Something that the user should know, such as a fallback.
    fn note(&self, message: &str) {
        let _ = message;
    }
    /// The work is done, or has failed.
    fn finish(&self) {}
    /// Whether the user wants it stopped.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {}

/// Tells the user on stderr.
pub struct Terminal<'a> {
    bar: ProgressBar,
    is_terminal: bool,
    started: Instant,
    total: AtomicU64,
    done: AtomicU64,
    interrupted: &'a AtomicBool,
}

/// Plain lines appear for every so many percent.
const PERCENT_A_LINE: u64 = 10;
/// Work that ends sooner gets no plain lines.
const QUIET_SECONDS: f64 = 2.0;

impl<'a> Terminal<'a> {
    /// A bar where stderr is a terminal, else plain lines; stops when `interrupted` is set.
    pub fn new(interrupted: &'a AtomicBool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Terminal {
            bar,
            is_terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            interrupted,
        }
    }
}

impl Progress for Terminal<'_> {
    fn start(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        if !self.is_terminal {
            return;
        }
        self.bar.set_length(total);
        let template =
            "{bar:40} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    fn advance(&self, bytes: u64) {
        let total = self.total.load(Ordering::Relaxed);
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let done = before + bytes;
        if self.is_terminal {
            self.bar.set_position(done);
            return;
        }
        let step = |bytes: u64| bytes.saturating_mul(100) / total.max(1) / PERCENT_A_LINE;
        let elapsed = self.started.elapsed().as_secs_f64();
        if step(done) > step(before) && elapsed > QUIET_SECONDS {
            let left = elapsed / done as f64 * total.saturating_sub(done) as f64;
            say(format_args!(
                "{:3}%  {:.2} of {:.2} GB, {:.0} s, {:.0} s left",
                done.saturating_mul(100) / total.max(1),
                done as f64 / 1e9,
                total as f64 / 1e9,
                elapsed,
                left
            ));
        }
    }

    fn note(&self, message: &str) {
        if self.is_terminal {
            self.bar.suspend(|| say(format_args!("{message}")));
        } else {
            say(format_args!("{message}"));
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn is_cancelled(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
