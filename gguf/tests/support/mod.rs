//! Values for the block tests, the same on every machine: exact arithmetic from a seed.
#![allow(dead_code)] // each test uses its part

use katari_gguf::Format;

/// SplitMix64 (Steele et al. 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, in steps of 2^-24.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Nearly normal with variance 1: twelve uniform numbers, summed.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// `2^exponent`, exactly.
    pub fn power(exponent: i32) -> f32 {
        2f64.powi(exponent) as f32
    }
}

/// What values of a block may look like. Weights look like the first; the others are what goes
/// wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As a layer's weights.
    Normal,
    /// Some values far greater than the others.
    HeavyTailed,
    /// No negative value, or no positive one.
    OneSided,
    /// Around a value other than 0.
    Offset,
    /// One value outshines the block.
    Outlier,
    /// Below what a half holds as a normal number, down to nothing.
    Tiny,
    /// Beyond what a half holds, up to the edge of f32.
    Huge,
    /// Zeros of both signs, among them values of one sign or none.
    Zeros,
    /// One value all over, or two.
    Constant,
    /// Subnormal numbers of f32.
    Denormal,
    /// Multiples of a step, which fall on the borders between two integers.
    Ties,
    /// Halves, as checkpoints hold.
    Halves,
    /// Mostly zeros.
    Sparse,
    /// A magnitude for each run of 16, from tiny to huge.
    Mixed,
    /// A few infinities or NaNs.
    NotFinite,
}

impl Kind {
    pub const ALL: &[Kind] = &[
        Kind::Normal,
        Kind::HeavyTailed,
        Kind::OneSided,
        Kind::Offset,
        Kind::Outlier,
        Kind::Tiny,
        Kind::Huge,
        Kind::Zeros,
        Kind::Constant,
        Kind::Denormal,
        Kind::Ties,
        Kind::Halves,
        Kind::Sparse,
        Kind::Mixed,
        Kind::NotFinite,
    ];

    /// Fills one super-block of 256 values.
    pub fn fill(self, random: &mut Random, out: &mut [f32]) {
        let r = random;
        let scale = 0.02 * Random::power(r.below(6) as i32 - 3);
        match self {
            Kind::Normal => out.fill_with(|| r.normal() * scale),
            Kind::HeavyTailed => out.fill_with(|| {
                let x = r.normal();
                x * x * x * scale
            }),
            Kind::OneSided => {
                let sign = if r.below(2) == 0 { -scale } else { scale };
                out.fill_with(|| r.unit() * sign);
            }
            Kind::Offset => {
                let offset = r.normal();
                out.fill_with(|| r.normal() * scale + offset);
            }
            Kind::Outlier => {
                out.fill_with(|| r.normal() * scale);
                let at = r.below(out.len() as u64) as usize;
                out[at] = r.normal() * scale * 1000.0;
            }
            Kind::Tiny => {
                let scale = Random::power(-(20 + r.below(120) as i32));
                out.fill_with(|| r.normal() * scale);
            }
            Kind::Huge => {
                let scale = Random::power(10 + r.below(115) as i32);
                out.fill_with(|| r.normal() * scale);
            }
            Kind::Zeros => {
                let sign = [0.0, scale, -scale][r.below(3) as usize];
                out.fill_with(|| match r.below(4) {
                    0 => 0.0,
                    1 => -0.0,
                    _ => r.unit() * sign,
                });
            }
            Kind::Constant => {
                let (a, b) = (r.normal() * scale, r.normal() * scale);
                let two = r.below(2) == 0;
                out.fill_with(|| if two && r.below(2) == 0 { b } else { a });
            }
            Kind::Denormal => out.fill_with(|| {
                let bits = r.next() as u32;
                f32::from_bits((bits & 0x8000_0000) | (bits >> (9 + r.below(22))))
            }),
            Kind::Ties => {
                let step = Random::power(r.below(12) as i32 - 9);
                let n = 16 << r.below(5);
                out.fill_with(|| (r.below(2 * n) as f32 - n as f32) * 0.5 * step);
            }
            Kind::Halves => {
                out.fill_with(|| half::f16::from_f32(r.normal() * scale).to_f32());
            }
            Kind::Sparse => out.fill_with(|| match r.below(20) {
                0 => r.normal() * scale,
                _ => 0.0,
            }),
            Kind::NotFinite => {
                out.fill_with(|| r.normal() * scale);
                for _ in 0..r.below(4) {
                    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
                    out[r.below(256) as usize] = special[r.below(3) as usize];
                }
            }
            Kind::Mixed => {
                for run in out.chunks_mut(16) {
                    let scale = Random::power(r.below(80) as i32 - 60);
                    run.fill_with(|| r.normal() * scale);
                }
            }
        }
    }
}

/// `n` values, a multiple of 256: the kinds in turn, a super-block each.
pub fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut random = Random(seed);
    let mut out = vec![0.0; n];
    for (block, kind) in out.chunks_mut(256).zip(Kind::ALL.iter().cycle()) {
        kind.fill(&mut random, block);
    }
    out
}

/// Our blocks of `x`.
pub fn quantize(format: Format, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; format.bytes(x.len() as u64).expect("whole blocks") as usize];
    format.quantize(x, &mut out);
    out
}

/// Our values of `blocks`.
pub fn dequantize(format: Format, blocks: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; blocks.len() / format.block_bytes() * format.block_len()];
    format.dequantize(blocks, &mut out);
    out
}

/// `n` random bytes.
pub fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..n).map(|_| (random.next() >> 56) as u8).collect()
}

/// The bits of a value, every NaN the same (its sign and payload depend on the machine).
pub fn bits(x: f32) -> u32 {
    if x.is_nan() {
        f32::NAN.to_bits()
    } else {
        x.to_bits()
    }
}

/// FNV-1a.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The hash of values' bits.
pub fn hash_values(values: &[f32]) -> u64 {
    hash(values.iter().flat_map(|&x| bits(x).to_le_bytes()))
}

/// What the block fixtures are made of.
pub mod fixture {
    use std::path::PathBuf;

    /// Values whose blocks are kept: three super-blocks of each kind.
    pub const KEPT: usize = 256 * 3 * super::Kind::ALL.len();
    /// Values whose blocks are kept as a hash.
    pub const HASHED: usize = 256 * 4500;
    /// Random blocks whose values are kept as a hash: this many bytes.
    pub const RANDOM_BLOCKS: usize = 2000;
    /// The seed of the values.
    pub const SEED: u64 = 20_230_517;

    pub fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/blocks")
    }
}
