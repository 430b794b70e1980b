//! A recorded pass: its nodes, the inputs that change from pass to pass, and its result.

use std::sync::Arc;

use bytemuck::cast_slice;

use super::device::text;
use super::kv::{Kv, set};
use super::owned::{Context, Ptr};
use super::sys::*;
use super::weights::Table;
use crate::ops::{Batch, DeviceError, Row};

/// What a graph was recorded for; passes of the same shape replay it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Rows.
    pub n_tokens: usize,
    /// Rows that want logits; at least one, whose logits are thrown away where nobody does.
    pub n_outputs: usize,
    /// Cells that the rows may see, from the first on.
    pub n_cells: usize,
    /// Width of the hidden states that come in.
    pub n_hidden: usize,
}

/// What the rows of an input of activations come from.
pub(super) enum Source {
    /// The device before.
    Hidden,
    /// A table's rows for the tokens.
    Tokens(Arc<Table>),
    /// A table's rows for the positions.
    Positions(Arc<Table>),
}

/// Tensors that every pass fills anew; those that the model asked for.
#[derive(Default)]
pub(super) struct Inputs {
    /// `[n_tokens, width]` in f32.
    pub rows: Vec<(Source, Option<Ptr<ggml_tensor>>)>,
    /// `[n_tokens]` in i32.
    pub positions: Option<Ptr<ggml_tensor>>,
    /// The cell of each row, `[n_tokens]` in i64.
    pub cells: Option<Ptr<ggml_tensor>>,
    /// 0 where a row sees a cell, minus infinity elsewhere: `[n_tokens, n_cells]` in f16.
    pub mask: Option<Ptr<ggml_tensor>>,
    /// Which rows want logits, `[n_outputs]` in i32.
    pub outputs: Option<Ptr<ggml_tensor>>,
}

/// A recorded pass.
pub(super) struct Graph {
    pub key: Key,
    /// Holds everything that the pointers point to, but weights and KV.
    pub _context: Context,
    pub graph: Ptr<ggml_cgraph>,
    pub inputs: Inputs,
    /// `[n, width]` in f32.
    pub result: Ptr<ggml_tensor>,
    /// Copies of what a traced pass observes.
    pub observed: Vec<Ptr<ggml_tensor>>,
    /// Nodes that compute something.
    pub operations: usize,
}

/// f16's zero and minus infinity.
const SEEN: u16 = 0;
const HIDDEN: u16 = 0xfc00;

/// Memory that filling inputs reuses.
#[derive(Default)]
pub(super) struct Buffers {
    values: Vec<f32>,
    mask: Vec<u16>,
    numbers: Vec<i32>,
    cells: Vec<i64>,
}

/// The nodes of `graph` that compute something; the others only see memory in another shape.
///
/// # Safety
/// `graph` lives, and nobody adds to it meanwhile.
pub(super) unsafe fn operations(graph: Ptr<ggml_cgraph>) -> impl Iterator<Item = *mut ggml_tensor> {
    const VIEWS: [ggml_op; 5] = [
        GGML_OP_NONE,
        GGML_OP_VIEW,
        GGML_OP_RESHAPE,
        GGML_OP_PERMUTE,
        GGML_OP_TRANSPOSE,
    ];
    // SAFETY: the graph lives, as the caller promised.
    let n = unsafe { ggml_graph_n_nodes(graph.get()) };
    // SAFETY: as above, and `i` is below the number of its nodes, which live with it.
    let nodes = (0..n).map(move |i| unsafe { ggml_graph_node(graph.get(), i) });
    // SAFETY: as above.
    nodes.filter(|&node| !VIEWS.contains(&unsafe { (*node).op }))
}

/// An error where `device` lacks one of the operations of `graph`, which would end the process;
/// it says to try another type of keys and values where the operation reads or writes those.
///
/// # Safety
/// As for [`operations`]; `device` is from ggml's list.
pub(super) unsafe fn check(
    graph: Ptr<ggml_cgraph>,
    device: ggml_backend_dev_t,
) -> Result<(), DeviceError> {
    // SAFETY: as the caller promised; a device is asked and computes nothing; nodes and their
    // sources live with the graph, and names as long as the program.
    let lacking = unsafe {
        operations(graph)
            .find(|&node| !ggml_backend_dev_supports_op(device, node))
            .map(|node| {
                let sources = (*node).src.iter().take_while(|source| !source.is_null());
                let types = sources.map(|source| text(ggml_type_name((**source).type_)));
                // Rows are only got and set in the store, but for those that want logits.
                let stored = match (*node).op {
                    GGML_OP_FLASH_ATTN_EXT | GGML_OP_SET_ROWS => true,
                    GGML_OP_GET_ROWS => (*(*node).src[0]).op == GGML_OP_NONE,
                    _ => false,
                };
                let types = types.collect::<Vec<_>>().join(", ");
                (text(ggml_op_desc(node)), types, stored)
            })
    };
    match lacking {
        None => Ok(()),
        Some((operation, types, stored)) => Err(DeviceError(format!(
            "the device has no operation {operation} on {types}; {}leave the layers to the CPU \
             with --device cpu",
            if stored { "give --kv f16, or " } else { "" },
        ))),
    }
}

impl Graph {
    /// Fills the inputs for a batch of the recorded shape.
    ///
    /// # Safety
    /// The graph's tensors have memory.
    pub(super) unsafe fn fill(
        &self,
        batch: &Batch<'_>,
        hidden: &[f32],
        buffers: &mut Buffers,
    ) -> Result<(), DeviceError> {
        // SAFETY: inputs live with the graph, and have memory as the caller promised.
        let set = |tensor: &Ptr<ggml_tensor>, bytes: &[u8]| unsafe { set(*tensor, bytes) };
        let rows = batch.rows;
        for (source, tensor) in &self.inputs.rows {
            let Some(tensor) = tensor else { continue };
            match source {
                Source::Hidden => set(tensor, cast_slice(hidden))?,
                Source::Tokens(table) => {
                    embed(table, rows.iter().map(|row| row.token), &mut buffers.values)?;
                    set(tensor, cast_slice(&buffers.values))?;
                }
                Source::Positions(table) => {
                    let positions = rows.iter().map(|row| row.position);
                    embed(table, positions, &mut buffers.values)?;
                    set(tensor, cast_slice(&buffers.values))?;
                }
            }
        }
        let mut numbers = |tensor: &Option<Ptr<ggml_tensor>>,
                           from: &mut dyn Iterator<Item = i32>| {
            let Some(tensor) = tensor else { return Ok(()) };
            buffers.numbers.clear();
            buffers.numbers.extend(from);
            set(tensor, cast_slice(&buffers.numbers))
        };
        numbers(
            &self.inputs.positions,
            &mut rows.iter().map(|row| row.position as i32),
        )?;
        let wanted = rows.iter().zip(0..).filter(|(row, _)| row.wants_logits);
        // Where nobody wants logits, those of the first row.
        let wanted = wanted.map(|(_, i)| i).chain([0]).take(self.key.n_outputs);
        numbers(&self.inputs.outputs, &mut { wanted })?;
        if let Some(tensor) = &self.inputs.cells {
            buffers.cells.clear();
            let cells = rows.iter().map(|row| i64::from(row.cell));
            buffers.cells.extend(cells);
            set(tensor, cast_slice(&buffers.cells))?;
        }
        if let Some(tensor) = &self.inputs.mask {
            self.mask(batch, &mut buffers.mask);
            set(tensor, cast_slice(&buffers.mask))?;
        }
        Ok(())
    }

    /// What each row sees: the cells of its sequence up to its position.
    fn mask(&self, batch: &Batch<'_>, mask: &mut Vec<u16>) {
        mask.clear();
        mask.resize(self.key.n_tokens * self.key.n_cells, HIDDEN);
        let rows = mask.chunks_exact_mut(self.key.n_cells.max(1));
        for (row, mask) in batch.rows.iter().zip(rows) {
            for &cell in seen(batch, row) {
                if let Some(mask) = mask.get_mut(cell as usize) {
                    *mask = SEEN;
                }
            }
        }
    }
}

/// The cells that `row` attends to.
fn seen<'a>(batch: &Batch<'a>, row: &Row) -> &'a [u32] {
    let cells = batch.ledger.cells(row.sequence);
    cells.get(..=row.position as usize).unwrap_or(cells)
}

/// The rows of `table` that `indices` name, one after another.
fn embed(
    table: &Table,
    indices: impl ExactSizeIterator<Item = u32>,
    out: &mut Vec<f32>,
) -> Result<(), DeviceError> {
    out.resize(indices.len() * table.cols, 0.0);
    for (i, out) in indices.zip(out.chunks_exact_mut(table.cols.max(1))) {
        table.row(i, out)?;
    }
    Ok(())
}

impl Key {
    /// The shape of a pass, once it is proven that the store `kv` can take it.
    pub(super) fn of(batch: &Batch<'_>, hidden: &[f32], kv: &Kv) -> Result<Key, DeviceError> {
        let n_tokens = batch.rows.len();
        if n_tokens == 0 || !hidden.len().is_multiple_of(n_tokens) {
            return Err(DeviceError(format!(
                "a batch of {n_tokens} rows with {} hidden values is none",
                hidden.len()
            )));
        }
        let mut last = 0;
        for row in batch.rows {
            let cells = seen(batch, row);
            if cells.get(row.position as usize) != Some(&row.cell) {
                return Err(DeviceError(format!(
                    "position {} of sequence {} is not in cell {}",
                    row.position, row.sequence, row.cell
                )));
            }
            kv.shape.check_cells(cells.iter().copied())?;
            last = cells
                .iter()
                .fold(last, |last, &cell| last.max(cell as usize));
        }
        Ok(Key {
            n_tokens,
            n_outputs: batch.n_outputs().max(1),
            n_cells: (last + 1).next_multiple_of(super::kv::CELLS),
            n_hidden: hidden.len() / n_tokens,
        })
    }
}
