//! The draw, from a named generator: ChaCha with 12 rounds (`rand_chacha::ChaCha12Rng`), its
//! key made from the seed by `SeedableRng::seed_from_u64`.
//!
//! The `n`-th generated token uses the generator's `n`-th 64-bit number, whatever was drawn
//! before, so that a text can be taken up anywhere and goes on as it would have. Where tokens
//! were taken back, what follows uses another stream of the generator.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::Candidates;

/// A seed where none is given: any 32-bit number, short enough to be typed again.
pub fn random_seed() -> u64 {
    u64::from(rand::random::<u32>())
}

#[derive(Debug, Clone)]
pub(super) struct Draw {
    seed: u64,
    generator: ChaCha12Rng,
    /// That of the generator's streams which draws tokens.
    stream: u64,
}

/// The stream that decides whether a step strikes.
const CHANCE: u64 = 1;

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            generator: ChaCha12Rng::seed_from_u64(seed),
            stream: 0,
        }
    }

    /// Draws from the next stream.
    pub fn begin_anew(&mut self) {
        self.stream = self.stream.max(CHANCE) + 1;
        self.generator.set_stream(self.stream);
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number for the `n_generated`-th token, uniform in `[0, 1)`: of a stream of its
    /// own, independent of those that draw tokens.
    pub fn chance(&self, n_generated: usize) -> f64 {
        let mut generator = self.generator.clone();
        generator.set_stream(CHANCE);
        uniform(&mut generator, n_generated)
    }

    /// The token at which the running sum of probabilities, in order of id, exceeds the number
    /// for the `n_generated`-th token, uniform in `[0, 1)` with 53 bits.
    pub fn draw(&mut self, candidates: &Candidates, n_generated: usize) -> Option<u32> {
        let uniform = uniform(&mut self.generator, n_generated);
        let total: f64 = candidates.iter().map(|c| f64::from(c.p)).sum();
        let target = uniform * total;
        let mut sum = 0.0;
        for c in candidates.iter() {
            sum += f64::from(c.p);
            if sum > target {
                return Some(c.id);
            }
        }
        None
    }
}

/// The generator's `n`-th 64-bit number, as one of 53 bits in `[0, 1)`.
fn uniform(generator: &mut ChaCha12Rng, n: usize) -> f64 {
    // A word is 32 bits.
    generator.set_word_pos(2 * n as u128);
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
