//! Times attention alone, by KV type, depth of context and instruction set, beside the rate at
//! which the same threads stream memory:
//!
//! `cargo bench --bench attention -- [--isa avx2] [--threads 2] [--kv f16] [--shape rinna-3.6b]
//! [--layers 1] [--only decode]`
//!
//! Decoding is shown as bytes of keys and values a second, prefilling as multiplications a second
//! (queries times keys and weights times values).

use std::time::{Duration, Instant};

use katari::cpu::{Cpu, Isa};
use katari::kv::{KvType, Ledger};
use katari::ops::{Batch, Device, Heads, KvShape, Ops, Row};

/// A model's attention: (name, layers, heads, width of a head).
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("rinna-3.6b", 36, 22, 128),
    ("genji-6b", 28, 16, 256),
    ("abeja-2.7b", 32, 32, 80),
    ("rinna-1b", 24, 16, 128),
];

/// Cells there are, more than the deepest context measured.
const CELLS: usize = 2560;
/// Contexts that one more token is decoded after.
const DEPTHS: [usize; 4] = [32, 256, 1000, 2000];
/// Tokens of a prompt.
const PROMPT: usize = 512;
/// Sequences that decode together.
const SEQUENCES: usize = 8;

/// The arguments: each is `--name value`.
fn argument<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut args = std::env::args().skip_while(|a| *a != format!("--{name}"));
    args.nth(1).and_then(|value| value.parse().ok())
}

/// Bytes a second that `threads` read from 1 GiB each.
fn stream(threads: usize) -> f64 {
    let data = vec![1u64; (1 << 30) / 8 * threads];
    let pass = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || {
                    let mut sums = [0u64; 32];
                    for part in part.chunks_exact(32) {
                        for (sum, x) in sums.iter_mut().zip(part) {
                            *sum = sum.wrapping_add(*x);
                        }
                    }
                    std::hint::black_box(sums);
                });
            }
        });
        data.len() as f64 * 8.0 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

/// Repeats a pass for a while and gives the median time, or with `--best 1` the shortest, for a
/// machine that others use.
fn median(mut pass: impl FnMut() -> Duration) -> f64 {
    let (start, mut times) = (Instant::now(), vec![]);
    pass();
    while times.len() < 3 || start.elapsed() < Duration::from_millis(700) {
        times.push(pass());
    }
    times.sort();
    let best = argument::<u8>("best").is_some();
    times[if best { 0 } else { times.len() / 2 }].as_secs_f64()
}

struct Bench {
    cpu: Cpu,
    ledger: Ledger,
    heads: Heads,
    layers: usize,
    /// `[PROMPT, 3 * width]`.
    hidden: Vec<f32>,
}

impl Bench {
    fn new(shape: (&str, usize, usize, usize), kv: KvType, threads: usize, isa: Isa) -> Bench {
        let (_, layers, n_head, head_dim) = shape;
        let heads = Heads {
            n_head,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        let mut cpu = Cpu::new(threads, Some(isa)).expect("a CPU");
        let shape = KvShape {
            n_layer: layers,
            n_cells: CELLS,
            heads,
            keys: kv,
            values: kv,
        };
        cpu.allocate_kv(&shape).expect("a KV cache");
        let hidden = (0..PROMPT * 3 * n_head * head_dim)
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0)
            .collect();
        Bench {
            cpu,
            ledger: Ledger::new(CELLS as u32, SEQUENCES as u32),
            heads,
            layers,
            hidden,
        }
    }

    /// One pass of `n` tokens in each of some sequences; only attention is timed.
    fn pass(&mut self, sequences: usize, n: usize) -> Duration {
        let mut rows = Vec::new();
        for sequence in 0..sequences as u32 {
            for _ in 0..n {
                let position = self.ledger.len(sequence) as u32;
                rows.push(Row {
                    token: 0,
                    position,
                    sequence,
                    cell: self.ledger.append(sequence, 1).expect("a cell")[0],
                    wants_logits: false,
                });
            }
        }
        let batch = Batch {
            rows: &rows,
            ledger: &self.ledger,
        };
        let width = self.heads.n_head * self.heads.head_dim;
        let (heads, layers) = (self.heads, self.layers);
        let mut time = Duration::ZERO;
        let hidden = &self.hidden[..rows.len() * 3 * width];
        let result = self.cpu.run(&batch, hidden, &mut |ops| {
            let x = ops.hidden();
            let [q, k, v] = [0, 1, 2].map(|i| ops.columns(&x, i * width..(i + 1) * width));
            let start = Instant::now();
            let mut out = ops.attend(0, &heads, &q, &k, &v);
            for layer in 1..layers {
                out = ops.attend(layer, &heads, &q, &k, &v);
            }
            time = start.elapsed();
            out
        });
        result.expect("a pass");
        for sequence in 0..sequences as u32 {
            let len = self.ledger.len(sequence) - n;
            self.ledger.truncate(sequence, len).expect("shorter");
        }
        time
    }

    /// Fills each of some sequences up to `depth`.
    fn fill(&mut self, sequences: usize, depth: usize) {
        for sequence in 0..sequences as u32 {
            while self.ledger.len(sequence) < depth {
                let n = (depth - self.ledger.len(sequence)).min(PROMPT);
                let start = self.ledger.len(sequence) as u32;
                let cells = self.ledger.append(sequence, n).expect("cells").to_vec();
                let rows: Vec<Row> = (start..)
                    .zip(&cells)
                    .map(|(position, &cell)| Row {
                        token: 0,
                        position,
                        sequence,
                        cell,
                        wants_logits: false,
                    })
                    .collect();
                let batch = Batch {
                    rows: &rows,
                    ledger: &self.ledger,
                };
                let width = self.heads.n_head * self.heads.head_dim;
                let (heads, layers) = (self.heads, self.layers);
                let hidden = &self.hidden[..n * 3 * width];
                let result = self.cpu.run(&batch, hidden, &mut |ops| {
                    let x = ops.hidden();
                    let [q, k, v] = [0, 1, 2].map(|i| ops.columns(&x, i * width..(i + 1) * width));
                    for layer in 1..layers {
                        ops.attend(layer, &heads, &q, &k, &v);
                    }
                    ops.attend(0, &heads, &q, &k, &v)
                });
                result.expect("a pass");
            }
        }
    }
}

fn main() {
    let threads = argument("threads").unwrap_or(2);
    let only_isa: Option<Isa> = argument("isa");
    let only_kv: Option<KvType> = argument("kv");
    let name: String = argument("shape").unwrap_or("rinna-3.6b".into());
    let Some(&(name, layers, n_head, head_dim)) = SHAPES.iter().find(|shape| shape.0 == name)
    else {
        panic!("no shape '{name}'");
    };
    let only: String = argument("only").unwrap_or_default();
    // One layer and a short context stay in the caches.
    let shape = (name, argument("layers").unwrap_or(layers), n_head, head_dim);
    let rate = stream(threads);
    println!("{name}, {threads} threads, stream {:.1} GB/s", rate / 1e9);
    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
        if only_isa.map_or(isa == Isa::Scalar, |only| only != isa) {
            continue;
        }
        for &kv in KvType::ALL {
            if only_kv.is_some_and(|only| only != kv) {
                continue;
            }
            let mut bench = Bench::new(shape, kv, threads, isa);
            let cell = 2 * bench.layers * bench.heads.n_head * kv.head_bytes(bench.heads.head_dim);
            print!("{isa} {kv}: decode at");
            for depth in DEPTHS.into_iter().filter(|_| only != "prefill") {
                bench.fill(1, depth);
                let time = median(|| bench.pass(1, 1));
                let bytes = (cell * (depth + 1)) as f64 / time;
                print!(
                    " {depth}: {:.1} GB/s ({:.0} %, {:.2} ms);",
                    bytes / 1e9,
                    100.0 * bytes / rate,
                    time * 1e3
                );
            }
            if only == "decode" {
                println!();
                continue;
            }
            bench.ledger.clear(0).expect("there");
            bench.fill(SEQUENCES, 300);
            let time = median(|| bench.pass(SEQUENCES, 1));
            let bytes = (SEQUENCES * cell * 301) as f64 / time;
            print!(" {SEQUENCES} x 300: {:.1} GB/s;", bytes / 1e9);
            for sequence in 0..SEQUENCES as u32 {
                bench.ledger.clear(sequence).expect("there");
            }
            let time = median(|| bench.pass(1, PROMPT));
            let products = (PROMPT * (PROMPT + 1) * bench.layers) as f64
                * (bench.heads.n_head * bench.heads.head_dim) as f64;
            println!(
                " prefill {PROMPT}: {:.0} ms, {:.1} GMAC/s",
                time * 1e3,
                products / time / 1e9
            );
        }
    }
}
