//! Attention alone: against plain loops in f64, and against itself cut in other ways.

use proptest::prelude::*;

use super::{Random, shape};
use crate::cpu::attend::CHUNK;
use crate::cpu::*;
use crate::kv::{KvType, Ledger};
use crate::ops::{Heads, Ops, Row};

/// How attention is run.
#[derive(Clone, Copy, Debug)]
struct How {
    isa: Isa,
    threads: usize,
    kv: (KvType, KvType),
    heads: Heads,
    /// Rows a pass.
    batch: usize,
}

/// Rows `[q | k | v]` in, attended rows out.
fn attend(how: How, rows: &[f32]) -> Vec<f32> {
    let width = how.heads.n_head * how.heads.head_dim;
    let mut cpu = Cpu::new(how.threads, Some(how.isa)).unwrap();
    cpu.allocate_kv(&shape(how.kv.0, how.kv.1, how.heads))
        .unwrap();
    let mut ledger = Ledger::new(600, 2);
    // Cells that do not all lie in a row: some are another sequence's.
    let mut out = Vec::new();
    for rows in rows.chunks(how.batch * 3 * width) {
        let batch: Vec<Row> = (0..rows.len() / (3 * width))
            .map(|_| {
                let position = ledger.len(0) as u32;
                if position % 32 == 5 {
                    ledger.append(1, 1).unwrap();
                }
                Row {
                    token: 0,
                    position,
                    sequence: 0,
                    cell: ledger.append(0, 1).unwrap()[0],
                    wants_logits: true,
                }
            })
            .collect();
        let batch = Batch {
            rows: &batch,
            ledger: &ledger,
        };
        let attended = cpu.run(&batch, rows, &mut |ops| {
            let x = ops.hidden();
            let [q, k, v] = [0, 1, 2].map(|i| ops.columns(&x, i * width..(i + 1) * width));
            ops.attend(0, &how.heads, &q, &k, &v)
        });
        out.extend_from_slice(attended.unwrap());
    }
    out
}

/// What rounding keys and values of variance 1 to each type costs: about one part in 2^11, in
/// 2 * 127 / 3 and in 2 * 8 / 3, averaged over the cells.
pub(super) fn kv_tolerance(kv: KvType) -> f32 {
    match kv {
        KvType::F32 => 1e-5,
        KvType::F16 => 2e-3,
        KvType::Q8_0 => 2e-2,
        KvType::Q4_0 => 0.4,
    }
}

/// In f64, from the definition; rows `[q | k | v]`.
fn reference(heads: Heads, rows: &[f32]) -> Vec<f64> {
    let (dim, width) = (heads.head_dim, heads.n_head * heads.head_dim);
    let n = rows.len() / (3 * width);
    let part = |i: usize, which: usize, head: usize| {
        let start = (i * 3 + which) * width + head * dim;
        rows[start..start + dim].iter().map(|&x| f64::from(x))
    };
    let mut out = vec![0.0; n * width];
    for (i, row) in out.chunks_exact_mut(width).enumerate() {
        for (head, out) in row.chunks_exact_mut(dim).enumerate() {
            let weight = |j| {
                let products = part(i, 0, head).zip(part(j, 1, head)).map(|(q, k)| q * k);
                (products.sum::<f64>() * f64::from(heads.scale)).exp()
            };
            let weights: Vec<f64> = (0..=i).map(weight).collect();
            let total: f64 = weights.iter().sum();
            for (j, weight) in weights.iter().enumerate() {
                for (out, v) in out.iter_mut().zip(part(j, 2, head)) {
                    *out += weight / total * v;
                }
            }
        }
    }
    out
}

/// Heads of every kind: whole lanes, whole blocks, neither, and wider than registers hold.
const DIMS: [usize; 5] = [64, 80, 20, 128, 16];

fn heads(head_dim: usize) -> Heads {
    Heads {
        n_head: 2,
        head_dim,
        scale: 0.1,
    }
}

#[test]
fn equals_plain_loops() {
    let n = CHUNK + 70;
    for head_dim in DIMS {
        let heads = heads(head_dim);
        let rows = Random(5).normals(n * 6 * head_dim, 1.0);
        let expected = reference(heads, &rows);
        for &kv in KvType::ALL {
            let how = How {
                isa: Isa::best(),
                threads: 2,
                kv: (kv, kv),
                heads,
                batch: n,
            };
            for (found, expected) in attend(how, &rows).iter().zip(&expected) {
                let error = (f64::from(*found) - expected).abs();
                assert!(
                    error < f64::from(kv_tolerance(kv)),
                    "{kv}, heads of {head_dim}: {found} {expected}"
                );
            }
        }
    }
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// One row at a time on one thread, or many at a time on several, on any instruction set:
    /// the bits are those of the plain arrays; over several chunks, and whatever lies in the
    /// cells of rows that are not to be seen yet.
    #[test]
    fn rows_are_repeatable(
        head_dim in proptest::sample::select(&DIMS[..]),
        keys in proptest::sample::select(KvType::ALL),
        values in proptest::sample::select(KvType::ALL),
        n in 1usize..560,
        batch in 2usize..300,
        threads in 1usize..4,
        spoilt in proptest::sample::select(&[f32::NAN, f32::INFINITY, 1e30][..]),
        seed: u64,
    ) {
        let heads = heads(head_dim);
        let width = 6 * head_dim;
        let mut rows = Random(seed).normals(n * width, 1.0);
        let how = How { isa: Isa::Scalar, threads: 1, kv: (keys, values), heads, batch: 1 };
        let expected = bits(&attend(how, &rows));
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            let found = attend(How { isa, ..how }, &rows);
            prop_assert!(bits(&found) == expected, "{} one by one", isa);
            let found = attend(How { isa, batch, threads, ..how }, &rows);
            prop_assert!(bits(&found) == expected, "{} {} at a time", isa, batch);
        }
        let last = (n - 1) * width;
        rows[last + 2 * head_dim..].fill(spoilt);
        let found = bits(&attend(How { isa: Isa::best(), batch, threads, ..how }, &rows));
        let before = (n - 1) * 2 * head_dim;
        prop_assert!(found[..before] == expected[..before], "a later row was seen");
    }
}
