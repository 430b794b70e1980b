//! What this machine can do at best, measured: the rates that a model's speed is held against.
//!
//! Decoding reads every weight once a token, so its limit is how fast memory can be read;
//! prefill's is the rate of the multiply-accumulates. Both are taken here with the kernels that run
//! the model, by as many threads, with nothing else in the way.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use katari_gguf::Format;

use super::activation::{GROUP, RowMut, Rows};
use super::dot::float::Floats;
use super::dot::{Weights, pack};
use super::isa::{Isa, Kernels, Product};
use super::linear::{BATCH, PANEL};
use super::pages::Pages;
use super::{Cpu, Pool};
use crate::ops::DeviceError;

/// Values that a thread reads at once: 1 MiB, far more than handing it over costs.
const STREAM_ITEM: usize = (1 << 20) / size_of::<u64>();

/// Width of the weights and activations of [`Limits::multiply`]: a panel of [`pack::ROWS`] of them,
/// unpacked, stays in a first-level cache.
const WIDTH: usize = 1024;
/// Weight rows of that tile, and rows of activations that it is multiplied with: as many as a linear
/// takes at once, so that what is done once for all of them counts no more and no less than there.
const TILE_ROWS: usize = PANEL;
const TOKENS: usize = BATCH;

/// How long each rate is measured at least; short against a pass, long against a time slice.
const AT_LEAST: Duration = Duration::from_millis(200);

/// Who fetches what [`Limits::stream`] reads next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// The processor, by itself.
    Processor,
    /// The program, a page ahead, beyond which processors do not look.
    Program,
}

/// Bytes that [`Ahead::Program`] looks ahead.
#[cfg(target_arch = "x86_64")]
const PREFETCH: usize = 4096;

/// Memory to take the stream rate over: in large pages, as weights are.
pub struct Stream(Pages);

impl Stream {
    /// `bytes` of it, rounded down to whole values; it should be much larger than the caches.
    ///
    /// # Errors
    /// Where the system does not grant them.
    pub fn reserve(bytes: usize) -> std::io::Result<Stream> {
        let mut pages = Pages::reserve(bytes / size_of::<u64>() * size_of::<u64>())?;
        // Not zeros, which the system would lend from one page.
        pages.bytes_mut().fill(1);
        Ok(Stream(pages))
    }

    /// All of it.
    pub fn values(&self) -> &[u64] {
        // A mapping begins with a page; one without bytes has one, which is no value.
        bytemuck::cast_slice(self.0.bytes().as_chunks::<{ size_of::<u64>() }>().0)
    }
}

/// Measures limits with a CPU backend's threads and instruction set.
pub struct Limits {
    pool: Arc<Pool>,
    kernels: &'static Kernels,
}

impl Limits {
    /// As [`Cpu::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(threads: usize, isa: Option<Isa>) -> Result<Limits, DeviceError> {
        let Cpu { ops, .. } = Cpu::new(threads, isa)?;
        Ok(Limits {
            pool: ops.pool,
            kernels: ops.kernels,
        })
    }

    /// Bytes a second that all threads together read of `memory`, once through: a sum over it,
    /// as memory's own prefetching has it or with lines asked for ahead, where the architecture
    /// can.
    pub fn stream(&self, memory: &Stream, ahead: Ahead) -> f64 {
        let buffer = memory.values();
        let items = buffer.len().div_ceil(STREAM_ITEM);
        let start = Instant::now();
        self.pool.for_each(items, 1, |range| {
            for item in range {
                let end = buffer.len().min((item + 1) * STREAM_ITEM);
                black_box(self.sum(&buffer[item * STREAM_ITEM..end], ahead));
            }
        });
        size_of_val(buffer) as f64 / start.elapsed().as_secs_f64()
    }

    /// Multiply-accumulates a second that all threads together reach on weights of `format` and
    /// many rows of activations, all of them in each core's own cache: what the microkernel does
    /// by itself.
    pub fn multiply(&self, format: Format) -> f64 {
        let kernels = self.kernels;
        let per_call = (TILE_ROWS * WIDTH * TOKENS) as f64;
        per_call * self.calls_a_second(|| Tile::new(format, kernels), |tile| tile.run(kernels))
    }

    /// Floating-point operations a second that all threads together reach in registers alone:
    /// how arithmetic scales with threads where nothing is shared.
    pub fn registers(&self) -> f64 {
        const ROUNDS: usize = 100_000;
        let run = |_: &mut ()| {
            black_box(self.chains(ROUNDS));
        };
        (ROUNDS * CHAINS * LANES * 2) as f64 * self.calls_a_second(|| (), run)
    }

    /// Runs `call` over and over on every thread, each on what `make` gave it, and counts.
    fn calls_a_second<T>(&self, make: impl Fn() -> T + Sync, call: impl Fn(&mut T) + Sync) -> f64 {
        let threads = self.pool.threads();
        let rates = std::sync::Mutex::new(Vec::with_capacity(threads));
        let all_here = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut state = make();
                    call(&mut state);
                    all_here.wait();
                    let start = Instant::now();
                    let mut calls = 0;
                    while start.elapsed() < AT_LEAST {
                        call(&mut state);
                        calls += 1;
                    }
                    let rate = f64::from(calls) / start.elapsed().as_secs_f64();
                    if let Ok(mut rates) = rates.lock() {
                        rates.push(rate);
                    }
                });
            }
        });
        rates.into_inner().map_or(0.0, |rates| rates.iter().sum())
    }

    fn sum(&self, values: &[u64], ahead: Ahead) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.kernels.isa() != Isa::Scalar {
            // SAFETY: every instruction set of this architecture but the scalar one includes
            // AVX2, and `Cpu::new` gave its kernels only because this processor has it.
            return unsafe { sum_avx2(values, ahead) };
        }
        let _ = ahead;
        sum(values, |_| ())
    }

    fn chains(&self, rounds: usize) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if self.kernels.isa() != Isa::Scalar {
            // SAFETY: as in `sum`; FMA is asked for together with AVX2.
            return unsafe { chains_avx2(rounds) };
        }
        chains(rounds)
    }
}

/// Values that are added up at once: four cache lines.
const CHUNK: usize = 32;

/// Adds up with enough independent sums that loads never wait for additions; `prefetch` sees each
/// chunk before it is read.
#[inline(always)]
fn sum(values: &[u64], prefetch: impl Fn(&[u64; CHUNK])) -> u64 {
    let mut sums = [0u64; CHUNK];
    let (chunks, rest) = values.as_chunks::<CHUNK>();
    for chunk in chunks {
        prefetch(chunk);
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*value);
        }
    }
    let sums = sums.iter().chain(rest);
    sums.fold(0, |sum: u64, value| sum.wrapping_add(*value))
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(unused_unsafe)] // later compilers call a prefetch safe
unsafe fn sum_avx2(values: &[u64], ahead: Ahead) -> u64 {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    match ahead {
        Ahead::Processor => sum(values, |_| ()),
        Ahead::Program => sum(values, |chunk| {
            let next = chunk.as_ptr().cast::<i8>().wrapping_add(PREFETCH);
            for line in 0..size_of::<[u64; CHUNK]>() / 64 {
                // SAFETY: a prefetch of any address is allowed; it never faults.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line * 64));
                }
            }
        }),
    }
}

/// Independent chains of multiply-adds, as many as cover the latency of two units of four cycles.
const CHAINS: usize = 10;
/// Lanes of a chain.
const LANES: usize = 8;
/// What each multiply-add does to a value: it stays a normal number for ever.
const FACTOR: f32 = 0.5;
const SUMMAND: f32 = 0.25;

/// `rounds` multiply-adds in each lane of each chain, as the compiler makes them.
fn chains(rounds: usize) -> f32 {
    let (factor, summand) = (black_box(FACTOR), black_box(SUMMAND));
    let mut values = [[1.0f32; LANES]; CHAINS];
    for _ in 0..rounds {
        for value in values.as_flattened_mut() {
            *value = *value * factor + summand;
        }
    }
    values.as_flattened().iter().sum()
}

/// The same with fused multiply-adds.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn chains_avx2(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let factor = _mm256_set1_ps(black_box(FACTOR));
    let summand = _mm256_set1_ps(black_box(SUMMAND));
    let mut values = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..rounds {
        for value in &mut values {
            *value = _mm256_fmadd_ps(*value, factor, summand);
        }
    }
    values.iter().map(|&value| _mm256_cvtss_f32(value)).sum()
}

/// A thread's own weights and activations, in cache.
struct Tile {
    format: Format,
    weights: Vec<u8>,
    floats: Vec<f32>,
    q: Vec<i8>,
    scale: Vec<f32>,
    scaled_sum: Vec<f32>,
    halves: Vec<[i16; 2]>,
    centre: Vec<[[i16; 2]; 2]>,
    out: Vec<f32>,
}

impl Tile {
    fn new(format: Format, kernels: &Kernels) -> Tile {
        // Any numbers of the size that weights have will do.
        let values = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 1000.0);
        let floats: Vec<f32> = values(TOKENS * WIDTH).collect();
        let groups = TOKENS * WIDTH / GROUP;
        let mut tile = Tile {
            format,
            weights: vec![0; TILE_ROWS * row_bytes(format)],
            floats: Vec::new(),
            q: vec![0; TOKENS * WIDTH],
            scale: vec![0.0; groups],
            scaled_sum: vec![0.0; groups],
            halves: vec![[0; 2]; groups],
            centre: vec![[[0; 2]; 2]; groups],
            out: vec![0.0; TOKENS * TILE_ROWS],
        };
        let weights: Vec<f32> = values(TILE_ROWS * WIDTH).collect();
        format.quantize(&weights, &mut tile.weights);
        if let (Product::Int(_), 2..) = (kernels.product(format), kernels.isa().panel()) {
            let rows = tile.weights.clone();
            let panel = pack::ROWS * row_bytes(format);
            for (rows, out) in rows.chunks(panel).zip(tile.weights.chunks_mut(panel)) {
                pack::pack(format, rows, row_bytes(format), out);
            }
        }
        kernels.math().quantize_row(
            &floats,
            RowMut {
                q: &mut tile.q,
                scale: &mut tile.scale,
                scaled_sum: &mut tile.scaled_sum,
                halves: &mut tile.halves,
                centre: &mut tile.centre,
            },
        );
        tile.floats = floats;
        tile
    }

    fn run(&mut self, kernels: &Kernels) {
        let w = Weights {
            bytes: &self.weights,
            stride: row_bytes(self.format),
            rows: TILE_ROWS,
        };
        match kernels.product(self.format) {
            Product::Int(_) => {
                let x = Rows {
                    n: TOKENS,
                    groups: WIDTH / GROUP,
                    q: &self.q,
                    scale: &self.scale,
                    scaled_sum: &self.scaled_sum,
                    halves: &self.halves,
                    centre: &self.centre,
                };
                kernels.int_product(self.format, w, x, &mut self.out, TILE_ROWS);
            }
            Product::Float(_) => {
                let x = Floats {
                    data: &self.floats,
                    stride: WIDTH,
                    n: TOKENS,
                    width: WIDTH,
                };
                kernels.float_product(self.format, w, x, &mut self.out, TILE_ROWS);
            }
        }
        black_box(&self.out);
    }
}

/// Bytes of a row of [`WIDTH`] values.
fn row_bytes(format: Format) -> usize {
    WIDTH / format.block_len() * format.block_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_a_rate() {
        for threads in [1, 2] {
            let limits = Limits::new(threads, None).unwrap();
            let memory = Stream::reserve((3 * STREAM_ITEM + 5) * size_of::<u64>()).unwrap();
            for rate in [
                limits.stream(&memory, Ahead::Processor),
                limits.stream(&memory, Ahead::Program),
                limits.registers(),
                limits.multiply(Format::Q4_0),
                limits.multiply(Format::F16),
            ] {
                assert!(rate.is_finite() && rate > 1e6, "{rate}");
            }
        }
    }

    /// What the tile multiplies means something, on every instruction set: interleaved or not,
    /// the products are the reference's.
    #[test]
    fn the_tile_is_laid_out_as_its_kernels_want_it() {
        let scalar = Isa::Scalar.kernels().unwrap();
        for &format in Format::ALL.iter().filter(|format| format.is_quantized()) {
            let mut expected = Tile::new(format, scalar);
            expected.run(scalar);
            for kernels in Isa::ALL.iter().filter_map(|isa| isa.kernels()) {
                let mut tile = Tile::new(format, kernels);
                tile.run(kernels);
                assert!(tile.out == expected.out, "{format} on {}", kernels.isa());
            }
        }
    }

    #[test]
    fn the_sum_reads_every_value() {
        let values: Vec<u64> = (1..=1000).collect();
        let limits = Limits::new(1, None).unwrap();
        assert_eq!(limits.sum(&values, Ahead::Processor), 500_500);
        assert_eq!(limits.sum(&values, Ahead::Program), 500_500);
        assert_eq!(sum(&values, |_| ()), 500_500);
    }
}
