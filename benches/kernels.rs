//! Times linears alone, by instruction set and format; the arithmetic of the limits they are held
//! to is in `katari bench`.
//!
//! `cargo bench --bench kernels -- [FILTER]`, with a filter such as `decode/avx2/q4_0`:
//!
//! - `decode` one row of activations, weights in the second-level cache, one thread: bytes of
//!   weights a second
//! - `stream` the same with 1 GiB of weights on two threads, which have to come from memory
//! - `prefill-8`, `prefill-128` that many rows of activations, one thread: products a second

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use katari::cpu::{Cpu, Isa, Tensor};
use katari::kv::Ledger;
use katari::ops::{Batch, Device, Linear, Mapping, Ops, Row, TensorView};
use katari_gguf::Format;

/// Width of the activations: rinna-3.6b's hidden state.
const WIDTH: usize = 2816;
/// Bytes of weights that stay in a second-level cache.
const CACHED: usize = 300 << 10;
/// Bytes of weights that no cache holds.
const STREAMED: usize = 1 << 30;

/// A weight of about `bytes` bytes, in rows of [`WIDTH`].
fn weight(cpu: &mut Cpu, format: Format, bytes: usize) -> Linear<Tensor> {
    let values: Vec<f32> = (0..16 * WIDTH)
        .map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.1)
        .collect();
    let mut rows = vec![0; values.len() / format.block_len() * format.block_bytes()];
    format.quantize(&values, &mut rows);
    let copies = (bytes / rows.len()).max(1);
    let file: Mapping = Arc::new(rows.repeat(copies));
    let view = TensorView {
        name: "weight",
        cols: WIDTH,
        rows: 16 * copies,
        format,
        file: &file,
        start: 0,
        len: rows.len() * copies,
    };
    Linear {
        weight: cpu.upload(view).expect("the view is whole"),
        bias: None,
    }
}

/// Benches one weight with `n` rows of activations under `group`.
fn bench(c: &mut Criterion, group: &str, n: u32, threads: usize, bytes: usize) {
    let mut group = c.benchmark_group(group);
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    let isas = Isa::ALL.iter().copied().filter(|isa| isa.is_available());
    // The reference is none that anybody waits for.
    for isa in isas.filter(|&isa| isa != Isa::Scalar) {
        for &format in Format::ALL {
            let rows = bytes / (WIDTH / format.block_len() * format.block_bytes()) / 16 * 16;
            let row_bytes = WIDTH / format.block_len() * format.block_bytes();
            group.throughput(match n {
                1 => Throughput::Bytes((rows * row_bytes) as u64),
                n => Throughput::Elements((rows * WIDTH) as u64 * u64::from(n)),
            });
            group.bench_function(BenchmarkId::new(isa.name(), format), |b| {
                let mut cpu = Cpu::new(threads, Some(isa)).expect("it is available");
                let layer = weight(&mut cpu, format, bytes);
                let mut ledger = Ledger::new(n, 1);
                let cells = ledger.append(0, n as _).expect("there is room").to_vec();
                let rows: Vec<Row> = (0..n)
                    .map(|position| Row {
                        token: 0,
                        position,
                        sequence: 0,
                        cell: cells[position as usize],
                        wants_logits: true,
                    })
                    .collect();
                let batch = Batch {
                    rows: &rows,
                    ledger: &ledger,
                };
                let hidden: Vec<f32> = (0..n as usize * WIDTH)
                    .map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0)
                    .collect();
                let mut pass = |ops: &<Cpu as Device>::Ops| {
                    let x = ops.hidden();
                    b.iter(|| black_box(ops.linear(&x, &layer, None)));
                    x
                };
                cpu.run(&batch, &hidden, &mut pass).expect("a pass runs");
            });
        }
    }
}

fn kernels(c: &mut Criterion) {
    bench(c, "decode", 1, 1, CACHED);
    bench(c, "stream", 1, 2, STREAMED);
    bench(c, "prefill-8", 8, 1, CACHED * 4);
    bench(c, "prefill-128", 128, 1, CACHED * 4);
}

criterion_group!(benches, kernels);
criterion_main!(benches);
