//! Measuring a model's speed: tests, what each of them has to read and to multiply, and models of
//! real size without real weights.
//!
//! - [`Bench`] runs a [`Test`] on an engine: forward passes alone, no text and no sampling
//! - [`Work`] counts what a pass reads and multiplies, which makes a time into a share of a limit
//! - [`synthetic`] makes a published model's shape in memory
//! - [`memory`] says what the process takes

pub mod memory;
pub mod synthetic;
mod work;

use std::fmt;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use crate::cpu::{Ahead, Limits, Stream};
use crate::engine::{Engine, Feed, SessionError};
pub use work::{Read, Work};

/// Tokens that a context is really computed for; a deeper one repeats their keys and values, on
/// which attention works no less.
const COMPUTED_DEPTH: usize = 64;

/// Tokens of the pass that precedes a prefill, and of the decode that precedes a decode: weights
/// come into memory, and buffers to their size.
const WARM_PREFILL: usize = 32;
const WARM_DECODE: usize = 2;

/// One thing to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// A prompt of `tokens` after `depth` tokens of context; the last position's logits.
    Prefill {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens before it.
        depth: usize,
    },
    /// `tokens` single tokens in each of `sequences`, which start `depth` tokens long; the
    /// logits of every one.
    Decode {
        /// Tokens of each sequence.
        tokens: usize,
        /// Tokens before them.
        depth: usize,
        /// How many sequences travel in a pass.
        sequences: usize,
    },
}

impl Test {
    /// Tokens that it evaluates.
    pub fn tokens(self) -> usize {
        match self {
            Test::Prefill { tokens, .. } => tokens,
            Test::Decode {
                tokens, sequences, ..
            } => tokens * sequences,
        }
    }

    /// How long its sequences get.
    pub fn context(self) -> usize {
        match self {
            Test::Prefill { tokens, depth } | Test::Decode { tokens, depth, .. } => tokens + depth,
        }
    }

    /// How many sequences it has.
    pub fn sequences(self) -> usize {
        match self {
            Test::Prefill { .. } => 1,
            Test::Decode { sequences, .. } => sequences,
        }
    }

    fn depth(self) -> usize {
        match self {
            Test::Prefill { depth, .. } | Test::Decode { depth, .. } => depth,
        }
    }
}

/// `pp128`, `tg32`, `tg32x8` with eight sequences, `tg32@d1800` at a depth.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Prefill { tokens, .. } => write!(f, "pp{tokens}")?,
            Test::Decode {
                tokens,
                sequences: 1,
                ..
            } => write!(f, "tg{tokens}")?,
            Test::Decode {
                tokens, sequences, ..
            } => write!(f, "tg{tokens}x{sequences}")?,
        }
        match self.depth() {
            0 => Ok(()),
            depth => write!(f, "@d{depth}"),
        }
    }
}

/// What a test took.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Seconds of each repetition, in order.
    pub seconds: Vec<f64>,
    /// Tokens evaluated in one repetition.
    pub tokens: usize,
    /// What one repetition read.
    pub read: Read,
}

impl Measured {
    /// Seconds of the middle repetition.
    pub fn median(&self) -> f64 {
        median(&self.seconds)
    }

    /// Tokens a second, in the middle repetition.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.median()
    }

    /// Tokens a second of the slowest and the fastest repetition.
    pub fn range(&self) -> (f64, f64) {
        let rate = |seconds: f64| self.tokens as f64 / seconds;
        let seconds = || self.seconds.iter().copied();
        let slowest = seconds().reduce(f64::max).unwrap_or(f64::NAN);
        let fastest = seconds().reduce(f64::min).unwrap_or(f64::NAN);
        (rate(slowest), rate(fastest))
    }
}

/// The middle value, or the mean of the middle two; NaN where there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let middle = &values[n.saturating_sub(1) / 2..(n / 2 + 1).min(n)];
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// Why a measurement did not end.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A pass failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Whoever asked for it does not want it any more.
    #[error("interrupted")]
    Interrupted,
}

/// Runs tests on an engine.
pub struct Bench<'a> {
    engine: &'a mut Engine,
    work: Work,
    n_batch: usize,
    go_on: &'a dyn Fn() -> bool,
    random: ChaCha8Rng,
}

impl<'a> Bench<'a> {
    /// Tests of `engine`, whose passes take `n_batch` tokens at most. `go_on` is asked before
    /// each pass.
    pub fn new(
        engine: &'a mut Engine,
        work: Work,
        n_batch: usize,
        go_on: &'a dyn Fn() -> bool,
    ) -> Self {
        Bench {
            engine,
            work,
            n_batch: n_batch.max(1),
            go_on,
            random: ChaCha8Rng::seed_from_u64(1),
        }
    }

    /// Runs `test` `repetitions` times, after a short pass of its kind that warms up: at most 32
    /// tokens of a prompt, 2 of a decode. Calls `between` before the first repetition and after
    /// each with how many are done; its time does not count.
    ///
    /// # Errors
    /// Where the engine has too few sequences or too short a context, or a device fails.
    pub fn run(
        &mut self,
        test: Test,
        repetitions: usize,
        mut between: impl FnMut(usize),
    ) -> Result<Measured, BenchError> {
        let depth = test.depth();
        for sequence in 0..test.sequences() as u32 {
            self.fill(sequence, depth)?;
        }
        self.warm_up(test)?;
        let mut seconds = Vec::with_capacity(repetitions);
        between(0);
        for done in 1..=repetitions.max(1) {
            self.cut(test)?;
            let start = Instant::now();
            self.once(test)?;
            seconds.push(start.elapsed().as_secs_f64());
            between(done);
        }
        for sequence in 0..test.sequences() as u32 {
            self.engine.session().truncate(sequence, 0)?;
        }
        Ok(Measured {
            seconds,
            tokens: test.tokens(),
            read: self.work.of(test, self.n_batch),
        })
    }

    fn warm_up(&mut self, test: Test) -> Result<(), BenchError> {
        self.once(match test {
            Test::Prefill { tokens, depth } => Test::Prefill {
                tokens: tokens.min(WARM_PREFILL),
                depth,
            },
            Test::Decode {
                tokens,
                depth,
                sequences,
            } => Test::Decode {
                tokens: tokens.min(WARM_DECODE),
                depth,
                sequences,
            },
        })
    }

    /// Takes what a run of `test` appended out again.
    fn cut(&mut self, test: Test) -> Result<(), BenchError> {
        for sequence in 0..test.sequences() as u32 {
            self.engine.session().truncate(sequence, test.depth())?;
        }
        Ok(())
    }

    fn once(&mut self, test: Test) -> Result<(), BenchError> {
        match test {
            Test::Prefill { tokens, .. } => self.prefill(0, tokens),
            Test::Decode {
                tokens, sequences, ..
            } => {
                let mut feeds = Vec::with_capacity(sequences);
                for _ in 0..tokens {
                    feeds.clear();
                    feeds.extend((0..sequences as u32).map(|sequence| Feed {
                        sequence,
                        token: self.random.random_range(0..self.engine.n_vocab() as u32),
                        wants_logits: true,
                    }));
                    self.evaluate(&feeds)?;
                }
                Ok(())
            }
        }
    }

    /// Appends `tokens` random tokens to `sequence`, with the logits of the last.
    fn prefill(&mut self, sequence: u32, tokens: usize) -> Result<(), BenchError> {
        let n_vocab = self.engine.n_vocab() as u32;
        let mut feeds = Vec::with_capacity(self.n_batch.min(tokens));
        let mut done = 0;
        while done < tokens {
            let n = self.n_batch.min(tokens - done);
            done += n;
            feeds.clear();
            feeds.extend((1..=n).map(|i| Feed {
                sequence,
                token: self.random.random_range(0..n_vocab),
                wants_logits: done == tokens && i == n,
            }));
            self.evaluate(&feeds)?;
        }
        Ok(())
    }

    /// Makes `sequence` `depth` tokens long.
    fn fill(&mut self, sequence: u32, depth: usize) -> Result<(), BenchError> {
        self.engine.session().truncate(sequence, 0)?;
        if depth > 0 {
            self.prefill(sequence, depth.min(COMPUTED_DEPTH))?;
            self.engine.session().repeat(sequence, depth)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, feeds: &[Feed]) -> Result<(), BenchError> {
        if !(self.go_on)() {
            return Err(BenchError::Interrupted);
        }
        let logits = self.engine.evaluate(feeds)?;
        std::hint::black_box(logits.row(0));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_the_names_that_people_know() {
        let decode = |depth, sequences| Test::Decode {
            tokens: 32,
            depth,
            sequences,
        };
        let prefill = |depth| Test::Prefill { tokens: 128, depth };
        for (test, name) in [
            (prefill(0), "pp128"),
            (prefill(7), "pp128@d7"),
            (decode(0, 1), "tg32"),
            (decode(1800, 1), "tg32@d1800"),
            (decode(0, 8), "tg32x8"),
        ] {
            assert_eq!(test.to_string(), name);
        }
    }

    #[test]
    fn median_of_odd_and_even_numbers_of_repetitions() {
        let measured = |seconds: &[f64]| Measured {
            seconds: seconds.to_vec(),
            tokens: 12,
            read: Read::default(),
        };
        assert_eq!(measured(&[2.0]).median(), 2.0);
        assert_eq!(measured(&[2.0, 9.0, 1.0]).median(), 2.0);
        assert_eq!(measured(&[4.0, 1.0, 9.0, 2.0]).median(), 3.0);
        assert_eq!(measured(&[4.0, 1.0, 2.0]).tokens_per_second(), 6.0);
        assert_eq!(measured(&[4.0, 1.0, 2.0]).range(), (3.0, 12.0));
        assert!(median(&[]).is_nan());
    }
}
