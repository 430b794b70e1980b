//! The operations of a pass, run at once.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::activation::{GROUP, Quantized, RowMut};
use super::arena::{Arena, Value};
use super::attend::{Attention, Plan};
use super::disjoint::Disjoint;
use super::isa::{Kernels, Product};
use super::kv::Kv;
use super::linear;
use super::pool::Pool;
use super::rope::RopeTable;
use super::tensor::Tensor;
use crate::ops::{Activation, Batch, DeviceError, Heads, Linear, Norm, Ops, Rope, Row};

/// Elements below which splitting a row-wise operation over threads costs more than it gains.
const PARALLEL_ELEMENTS: usize = 32 * 1024;

/// The CPU's operations over the batch of the current pass.
pub struct CpuOps {
    pub(super) pool: Arc<Pool>,
    pub(super) kernels: &'static Kernels,
    pub(super) arena: Arc<Arena>,
    rows: Vec<Row>,
    /// `[n_tokens, n_embd]` from the device before, or empty.
    hidden: Vec<f32>,
    plan: Plan,
    rope: RefCell<RopeTable>,
    pub(super) kv: RefCell<Option<Kv>>,
    /// Copies of what a traced pass observes.
    pub(super) observed: RefCell<Vec<Vec<f32>>>,
}

impl CpuOps {
    pub(super) fn new(pool: Arc<Pool>, kernels: &'static Kernels) -> CpuOps {
        CpuOps {
            pool,
            kernels,
            arena: Arc::default(),
            rows: Vec::new(),
            hidden: Vec::new(),
            plan: Plan::default(),
            rope: RefCell::default(),
            kv: RefCell::default(),
            observed: RefCell::default(),
        }
    }

    /// Begins a pass.
    pub(super) fn begin(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<(), DeviceError> {
        if batch.rows.is_empty() || !hidden.len().is_multiple_of(batch.rows.len()) {
            return Err(DeviceError(format!(
                "a batch of {} rows with {} hidden values is none",
                batch.rows.len(),
                hidden.len()
            )));
        }
        if let Some(kv) = self.kv.get_mut() {
            kv.shape
                .check_cells(batch.rows.iter().map(|row| row.cell))?;
            for row in batch.rows {
                let cells = batch.ledger.cells(row.sequence);
                if cells.get(row.position as usize) != Some(&row.cell) {
                    return Err(DeviceError(format!(
                        "position {} of sequence {} is not in cell {}",
                        row.position, row.sequence, row.cell
                    )));
                }
                kv.shape.check_cells(cells.iter().copied())?;
            }
        }
        // Buffers of a long prompt are of no use to the single rows that follow.
        if self.rows.len() > 1 && batch.rows.len() * 4 <= self.rows.len() {
            self.arena.clear();
        }
        self.rows.clear();
        self.rows.extend_from_slice(batch.rows);
        self.hidden.clear();
        self.hidden.extend_from_slice(hidden);
        let n_head = self.kv.get_mut().as_ref().map_or(0, Kv::n_head);
        self.plan.set(batch, n_head);
        self.rope.get_mut().clear();
        Ok(())
    }

    pub(super) fn value(&self, rows: usize, width: usize) -> Value {
        Value::new(&self.arena, rows, width)
    }

    /// Calls `body` with every row of `value`, on all threads where it is worth it.
    fn each_row(&self, value: &mut Value, body: impl Fn(usize, &mut [f32]) + Sync) {
        let (rows, width) = (value.rows, value.width);
        let data = Disjoint::new(value.data_mut());
        let grain = (PARALLEL_ELEMENTS / 8 / width.max(1)).max(1);
        let one_thread = rows * width < PARALLEL_ELEMENTS;
        self.pool
            .for_each(rows, if one_thread { rows } else { grain }, |range| {
                for i in range {
                    // SAFETY: a row of its own for each `i`, and each `i` is given out once.
                    body(i, unsafe { data.part(i * width..(i + 1) * width) });
                }
            });
    }

    /// The rows of `x` as integers, made at the first call.
    pub(super) fn quantized<'a>(&self, x: &'a Value) -> &'a Quantized {
        x.quantized.get_or_init(|| {
            let mut quantized = Quantized::new(&self.arena, x.rows, x.width);
            let groups = x.width / GROUP;
            let all = quantized.rows_mut();
            let q = Disjoint::new(all.q);
            let scale = Disjoint::new(all.scale);
            let scaled_sum = Disjoint::new(all.scaled_sum);
            let halves = Disjoint::new(all.halves);
            let centre = Disjoint::new(all.centre);
            let grain = if x.rows * x.width < PARALLEL_ELEMENTS {
                x.rows
            } else {
                1
            };
            let math = self.kernels.math();
            self.pool.for_each(x.rows, grain, |range| {
                for i in range {
                    let row = i * groups..(i + 1) * groups;
                    // SAFETY: row `i` of each part; each `i` is given out once.
                    let out = unsafe {
                        RowMut {
                            q: q.part(i * x.width..(i + 1) * x.width),
                            scale: scale.part(row.clone()),
                            scaled_sum: scaled_sum.part(row.clone()),
                            halves: halves.part(row.clone()),
                            centre: centre.part(row),
                        }
                    };
                    math.quantize_row(x.row(i), out);
                }
            });
            quantized
        })
    }

    /// The table's row that `index` names for each row of the batch.
    fn embed(&self, table: &Tensor, index: impl Fn(&Row) -> u32 + Sync) -> Value {
        let (mut out, rows) = (self.value(self.rows.len(), table.cols), &self.rows);
        self.each_row(&mut out, |i, out| {
            table.dequantize_row(index(&rows[i]) as usize, out);
        });
        out
    }
}

impl Ops for CpuOps {
    type Tensor = Tensor;
    type Value = Value;

    fn hidden(&self) -> Value {
        let mut out = self.value(self.rows.len(), self.hidden.len() / self.rows.len());
        out.data_mut().copy_from_slice(&self.hidden);
        out
    }

    fn embed_tokens(&self, table: &Tensor) -> Value {
        self.embed(table, |row| row.token)
    }

    fn embed_positions(&self, table: &Tensor) -> Value {
        self.embed(table, |row| row.position)
    }

    fn linears<const N: usize>(
        &self,
        x: &Value,
        layers: [(&Linear<Tensor>, Option<Activation>); N],
    ) -> [Value; N] {
        let mut out = layers.map(|(layer, _)| self.value(x.rows, layer.weight.rows));
        let takes_integers = |&(layer, _): &(&Linear<Tensor>, _)| {
            matches!(self.kernels.product(layer.weight.format), Product::Int(_))
        };
        if layers.iter().any(takes_integers) {
            self.quantized(x);
        }
        linear::run(self.kernels, &self.pool, x, &layers, &mut out);
        out
    }

    fn layer_norm(&self, x: &Value, norm: &Norm<Tensor>) -> Value {
        let mut out = self.value(x.rows, x.width);
        let bias = norm.bias.as_ref().map(Tensor::vector);
        let math = self.kernels.math();
        self.each_row(&mut out, |i, out| {
            math.layer_norm(x.row(i), norm.weight.vector(), bias, norm.eps, out);
        });
        out
    }

    fn add(&self, mut a: Value, b: &Value) -> Value {
        let math = self.kernels.math();
        self.each_row(&mut a, |i, a| math.add(a, b.row(i)));
        a
    }

    fn columns(&self, x: &Value, columns: Range<usize>) -> Value {
        let mut out = self.value(x.rows, columns.len());
        self.each_row(&mut out, |i, out| {
            out.copy_from_slice(&x.row(i)[columns.clone()])
        });
        out
    }

    fn rope(&self, mut x: Value, heads: &Heads, rope: &Rope) -> Value {
        let mut table = self.rope.borrow_mut();
        table.set(rope, self.rows.iter().map(|row| row.position as f32));
        let (table, math) = (&*table, self.kernels.math());
        self.each_row(&mut x, |i, row| {
            let (cos, sin) = table.row(i);
            for head in row.chunks_exact_mut(heads.head_dim) {
                math.rotate(head, cos, sin, rope.pairs);
            }
        });
        x
    }

    fn attend(&self, layer: usize, heads: &Heads, q: &Value, k: &Value, v: &Value) -> Value {
        let mut out = self.value(q.rows, q.width);
        let mut kv = self.kv.borrow_mut();
        let Some(kv) = kv.as_mut() else {
            unreachable!("a pass with attention needs allocate_kv first");
        };
        let (rows, math) = (&self.rows, self.kernels.math());
        kv.save(&self.pool, math, layer, |i| rows[i].cell, [k, v]);
        let Some(layer) = kv.layer(layer) else {
            unreachable!("keys and values of the layer were just saved");
        };
        let attention = Attention {
            math,
            plan: &self.plan,
            layer,
            heads,
            q: q.data(),
        };
        let mut memory = self.value(1, attention.memory());
        attention.run(&self.pool, memory.data_mut(), out.data_mut());
        out
    }

    fn select_outputs(&self, x: &Value) -> Value {
        let wanted = || {
            self.rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.wants_logits)
        };
        let mut out = self.value(wanted().count(), x.width);
        let rows = out.data_mut().chunks_exact_mut(x.width.max(1));
        for (out, (i, _)) in rows.zip(wanted()) {
            out.copy_from_slice(x.row(i));
        }
        out
    }

    fn observe(&self, x: &Value) {
        self.observed.borrow_mut().push(x.data().to_vec());
    }
}
