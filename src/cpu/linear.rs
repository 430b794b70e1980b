//! Linears: panels of weight rows, handed out to threads.

use std::cell::RefCell;
use std::ops::Range;

use super::arena::{Buffer, Value};
use super::disjoint::Disjoint;
use super::dot::float::Floats;
use super::dot::{Weights, pack};
use super::isa::{Kernels, Product};
use super::pool::Pool;
use super::tensor::Tensor;
use crate::ops::{Activation, Linear};

/// Rows of a weight that are done together for many rows of activations, which come from farther
/// than the first-level cache once for all of them, and once for all are made what a kernel wants;
/// half as many took 1.7 % longer on AVX2.
pub(super) const PANEL: usize = 2 * ITEM;

/// Rows of a weight that a thread takes at least for many rows of activations, so that threads end
/// together; a multiple of every panel's.
const ITEM: usize = 64;

/// Rows of activations that are multiplied with them at once: many enough that taking a panel of
/// weights apart is a small part of the work, few enough that the second-level cache holds a
/// panel's depth of them and their results (512 at once took up to a fifth longer on AVX-512).
pub(super) const BATCH: usize = 128;

/// Bytes of weights that a thread takes at once, at least, for one row of activations: a
/// microsecond's reading, so that threads end together.
const DECODE_BYTES: usize = 32 * 1024;

thread_local! {
    /// A worker's results before bias and activation, at most `[BATCH, PANEL]`.
    static TILE: RefCell<Buffer> = RefCell::default();
}

/// A linear of the call, and where its items begin.
struct Job<'a> {
    layer: &'a Linear<Tensor>,
    /// Its weight as the kernels want it, in panels of `panel` rows.
    weights: Weights<'a>,
    panel: usize,
    activation: Option<Activation>,
    out: Disjoint<'a, f32>,
    /// Weight rows an item.
    rows: usize,
    /// The first of its items.
    first: usize,
}

/// Runs every layer on `x` in one parallel region. Integers of `x` are there if any layer needs
/// them.
pub(super) fn run<const N: usize>(
    kernels: &Kernels,
    pool: &Pool,
    x: &Value,
    layers: &[(&Linear<Tensor>, Option<Activation>); N],
    out: &mut [Value; N],
) {
    let mut n_items = 0;
    let mut outs = out.iter_mut();
    let jobs: [Option<Job<'_>>; N] = layers.map(|(layer, activation)| {
        let weight = &layer.weight;
        let panel = match kernels.product(weight.format) {
            Product::Int(_) => kernels.isa().panel(),
            Product::Float(_) => 1,
        };
        let weights = match panel {
            1 => weight.weights(),
            _ => weight.interleaved(pool),
        };
        let rows = if x.rows == 1 {
            let row_bytes = weights.stride.max(1);
            (DECODE_BYTES / row_bytes)
                .next_multiple_of(pack::ROWS)
                .max(pack::ROWS)
        } else {
            ITEM
        };
        let first = n_items;
        n_items += weight.rows.div_ceil(rows);
        outs.next().map(|out| Job {
            layer,
            weights,
            panel,
            activation,
            out: Disjoint::new(out.data_mut()),
            rows,
            first,
        })
    });
    let some = |items: Range<usize>| {
        for job in jobs.iter().flatten() {
            let end = job.first + job.layer.weight.rows.div_ceil(job.rows);
            let (start, end) = (items.start.max(job.first), items.end.min(end));
            if start < end {
                job.items(kernels, x, start - job.first..end - job.first);
            }
        }
    };
    // Each beginning costs: 64 KiB at a time were a tenth slower than 256 KiB in decoding.
    pool.for_each_run(n_items, 1, some);
}

impl Job<'_> {
    /// The weight rows of `items` for all rows of `x`.
    fn items(&self, kernels: &Kernels, x: &Value, items: Range<usize>) {
        let (start, end) = (items.start * self.rows, items.end * self.rows);
        let end = end.min(self.layer.weight.rows);
        let step = if x.rows == 1 { end - start } else { PANEL };
        for start in (start..end).step_by(step) {
            self.columns(kernels, x, start, step.min(end - start));
        }
    }

    /// The `n` weight rows from `start` on, at most [`PANEL`] where rows of `x` are many.
    fn columns(&self, kernels: &Kernels, x: &Value, start: usize, n: usize) {
        let weight = &self.layer.weight;
        let bias = self
            .layer
            .bias
            .as_ref()
            .map(|b| &b.vector()[start..start + n]);
        // SAFETY: columns `start..start + n` of row `i` of the output belong to this item alone,
        // and each part is let go before the next is taken.
        let part = |i: usize| unsafe {
            let first = i * weight.rows + start;
            self.out.part(first..first + n)
        };
        if x.rows == 1 {
            let out = part(0);
            self.product(kernels, x, 0..1, start..start + n, out, n);
            kernels.math().finish_linear(out, bias, self.activation);
            return;
        }
        TILE.with_borrow_mut(|tile| {
            tile.reserve(x.rows.min(BATCH) * n);
            for first in (0..x.rows).step_by(BATCH) {
                let rows = first..x.rows.min(first + BATCH);
                let tile = &mut tile.of_mut()[..rows.len() * n];
                self.product(kernels, x, rows.clone(), start..start + n, tile, n);
                kernels.math().finish_linear(tile, bias, self.activation);
                for (i, tile) in rows.zip(tile.chunks_exact(n)) {
                    part(i).copy_from_slice(tile);
                }
            }
        });
    }

    /// The bare product of some `columns`, which are rows of the weight, and some `rows` of `x`, to
    /// `out` `[rows, stride]`.
    fn product(
        &self,
        kernels: &Kernels,
        x: &Value,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let weight = &self.layer.weight;
        let w = self.weights.rows(columns.start, columns.len(), self.panel);
        match (kernels.product(weight.format), x.quantized.get()) {
            (Product::Int(_), Some(x)) => {
                kernels.int_product(weight.format, w, x.rows().part(rows), out, stride);
            }
            (Product::Int(_), None) => unreachable!("integers are made before the region"),
            (Product::Float(_), _) => {
                let x = Floats {
                    data: &x.data()[rows.start * x.width..],
                    stride: x.width,
                    n: rows.len(),
                    width: x.width,
                };
                kernels.float_product(weight.format, w, x, out, stride);
            }
        }
    }
}
