//! The KV cache on a device: for each layer a tensor of keys and one of values, a row a cell. A
//! row holds head after head, each padded to whole blocks of its type, so that exported cells are
//! byte for byte what the CPU backend stores.

use std::ops::Range;

use bytemuck::cast_slice;

use super::graph::check;
use super::owned::{Allocator, Backend, Buffer, Context, Ptr};
use super::sys::*;
use crate::kv::KvType;
use crate::ops::{DeviceError, KvShape, Rope, RopePairs};

/// Passes see a multiple of this many cells, so that few graphs serve all lengths.
pub(super) const CELLS: usize = 256;

/// ggml's number of a type.
fn kind(kv: KvType) -> ggml_type {
    match kv {
        KvType::F32 => GGML_TYPE_F32,
        KvType::F16 => GGML_TYPE_F16,
        KvType::Q8_0 => GGML_TYPE_Q8_0,
        KvType::Q4_0 => GGML_TYPE_Q4_0,
    }
}

/// The keys, or the values, of one layer.
#[derive(Clone, Copy)]
pub(super) struct Store {
    /// `[n_cells, n_head * width]`.
    pub tensor: Ptr<ggml_tensor>,
    /// Elements of a stored head: `head_dim`, rounded up to whole blocks.
    pub width: usize,
    /// Bytes of a stored head.
    pub head_bytes: usize,
    /// Bytes of a cell.
    pub row_bytes: usize,
}

/// All layers of this device.
pub(super) struct Kv {
    // Freed in this order: the buffer of tensors that the context describes.
    _buffer: Buffer,
    _context: Context,
    /// Keys and values of each layer.
    pub layers: Vec<[Store; 2]>,
    pub shape: KvShape,
    /// Cells there are: `shape.n_cells` rounded up.
    pub n_cells: usize,
    /// Whether attention is one operation, which does not need the scores in memory.
    pub flash: bool,
}

impl Kv {
    /// # Errors
    /// Where memory does not suffice, or the device cannot attend to these types.
    pub(super) fn new(backend: &Backend, shape: &KvShape) -> Result<Kv, DeviceError> {
        let context = Context::new(2 * shape.n_layer.max(1))?;
        let n_cells = shape.n_cells.next_multiple_of(CELLS);
        let store = |of: KvType| {
            let width = shape.heads.head_dim.next_multiple_of(of.block_len());
            let head_bytes = of.head_bytes(shape.heads.head_dim);
            // SAFETY: the context lives and has room for two tensors a layer; a row is whole
            // blocks, and its sizes were checked when the hyper-parameters were read.
            let tensor = unsafe {
                let row = (shape.heads.n_head * width) as i64;
                ggml_new_tensor_2d(context.get(), kind(of), row, n_cells as i64)
            };
            Ok(Store {
                tensor: Ptr::new(tensor, || "no memory to describe the KV cache".into())?,
                width,
                head_bytes,
                row_bytes: shape.heads.n_head * head_bytes,
            })
        };
        let layers: Vec<[Store; 2]> = (0..shape.n_layer)
            .map(|_| Ok([store(shape.keys)?, store(shape.values)?]))
            .collect::<Result<_, DeviceError>>()?;
        let flash = choose_flash(backend.device, shape)?;
        let what = format!("the KV cache of {n_cells} cells");
        let next = "give a smaller --ctx, a smaller type of keys and values (--kv q8_0), or a \
                    smaller --gpu-layers";
        let buffer = Buffer::of(&context, backend.device, &what, next)?;
        // Cells that hold nothing yet are masked, but what is no number would shine through.
        // SAFETY: the buffer lives, and all of it is ours.
        unsafe { ggml_backend_buffer_clear(buffer.get(), 0) };
        Ok(Kv {
            _buffer: buffer,
            _context: context,
            layers,
            shape: *shape,
            n_cells,
            flash,
        })
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        self.layers.as_flattened().iter()
    }

    /// The bytes of `cells`, layer by layer: keys of each cell, then values.
    pub(super) fn export(&self, cells: &[u32]) -> Result<Vec<u8>, DeviceError> {
        self.shape.check_cells(cells.iter().copied())?;
        let mut bytes = vec![0; self.shape.exported_bytes(cells.len()) as usize];
        let mut rest = bytes.as_mut_slice();
        for store in self.stores() {
            for run in runs(cells) {
                let (to, later) = rest.split_at_mut(run.len() * store.row_bytes);
                // SAFETY: the cells were checked, so the span lies in the tensor; `to` is as
                // long.
                unsafe {
                    let offset = run.start * store.row_bytes;
                    let pointer = to.as_mut_ptr().cast();
                    ggml_backend_tensor_get(store.tensor.get(), pointer, offset, to.len());
                }
                rest = later;
            }
        }
        Ok(bytes)
    }

    /// Puts back what [`Kv::export`] gave, into `cells`.
    pub(super) fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError> {
        self.shape.check_cells(cells.iter().copied())?;
        self.shape.check_exported(cells.len(), bytes.len())?;
        let mut rest = bytes;
        for store in self.stores() {
            for run in runs(cells) {
                let (from, later) = rest.split_at(run.len() * store.row_bytes);
                // SAFETY: as in `export`.
                unsafe {
                    let offset = run.start * store.row_bytes;
                    let pointer = from.as_ptr().cast();
                    ggml_backend_tensor_set(store.tensor.get(), pointer, offset, from.len());
                }
                rest = later;
            }
        }
        Ok(())
    }

    /// Copies cells of every layer on the device, (from, to) in order.
    pub(super) fn copy(&mut self, pairs: &[(u32, u32)]) -> Result<(), DeviceError> {
        let cells = pairs.iter().flat_map(|&(from, to)| [from, to]);
        self.shape.check_cells(cells)?;
        for (from, to, n) in pair_runs(pairs) {
            let context = Context::new(4 * self.layers.len())?;
            for store in self.stores() {
                // SAFETY: both spans lie in the tensor, as the cells were checked, and have no
                // cell in common; the context has room for two views a store and lives until
                // the copy is done.
                unsafe {
                    let row = (self.shape.heads.n_head * store.width) as i64;
                    let view = |cell: usize| {
                        let offset = cell * store.row_bytes;
                        let tensor = store.tensor.get();
                        let view = ggml_view_1d(context.get(), tensor, row * n as i64, offset);
                        ggml_backend_view_init(view);
                        view
                    };
                    ggml_backend_tensor_copy(view(from), view(to));
                }
            }
        }
        Ok(())
    }

    /// Turns the keys of `cells` in every layer by `delta` positions: rows are unpacked,
    /// turned and packed again. The dimensions that do not turn pack to what they were.
    pub(super) fn shift_keys(
        &mut self,
        backend: &Backend,
        cells: &[u32],
        delta: i32,
        rope: &Rope,
    ) -> Result<(), DeviceError> {
        self.shape.check_cells(cells.iter().copied())?;
        if cells.is_empty() || self.layers.is_empty() {
            return Ok(());
        }
        let n = cells.len() as i64;
        let context = Context::new(16 * self.layers.len())?;
        let ctx = context.get();
        let n_head = self.shape.heads.n_head;
        // SAFETY: the context lives, with room for sixteen tensors a layer; the stores live in
        // `self`, and the shapes below are theirs.
        let (graph, positions, rows, targets) = unsafe {
            let graph = ggml_new_graph_custom(ctx, 16 * self.layers.len(), false);
            let positions = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
            let rows = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
            let targets = ggml_new_tensor_1d(ctx, GGML_TYPE_I64, n);
            for input in [positions, rows, targets] {
                ggml_set_input(input);
            }
            for [keys, _] in &self.layers {
                let (width, store) = (keys.width as i64, keys.tensor.get());
                let x = ggml_get_rows(ctx, store, rows);
                let x = ggml_reshape_3d(ctx, x, width, n_head as i64, n);
                let x = turn(ctx, x, positions, rope);
                let x = ggml_reshape_2d(ctx, x, width * n_head as i64, n);
                ggml_build_forward_expand(graph, ggml_set_rows(ctx, store, x, targets));
            }
            (graph, positions, rows, targets)
        };
        let graph = Ptr::new(graph, || "no memory for a graph".into())?;
        let input = |tensor| Ptr::new(tensor, || "no memory for an input".into());
        let (positions, rows, targets) = (input(positions)?, input(rows)?, input(targets)?);
        let mut allocator = Allocator::new(backend.device)?;
        let cells32: Vec<i32> = cells.iter().map(|&c| c as i32).collect();
        let cells64: Vec<i64> = cells.iter().map(|&c| i64::from(c)).collect();
        // SAFETY: the graph lives in the context, and is complete; of its tensors only the stores
        // have memory before it is placed, which live in `self`, and all have it then; the cells
        // that it reads and writes exist, as was checked.
        unsafe {
            check(graph, backend.device)?;
            allocator.place(graph)?;
            set(positions, cast_slice(&vec![delta; cells.len()]))?;
            set(rows, cast_slice(&cells32))?;
            set(targets, cast_slice(&cells64))?;
            backend.compute(graph)
        }
    }
}

/// Whether attention to a store of `shape` is one operation.
///
/// Keys and values in f32 are attended to by plain matrix products, since a GPU's single
/// operation rounds them to f16; but quantised values cannot be, whatever the keys are, since
/// their blocks lie along the heads and a product runs along the cells.
///
/// # Errors
/// Where the values are quantised and the device has no such operation for these heads.
pub(super) fn choose_flash(
    device: ggml_backend_dev_t,
    shape: &KvShape,
) -> Result<bool, DeviceError> {
    let quantised = shape.values.block_len() > 1;
    let exact = [shape.keys, shape.values].contains(&KvType::F32);
    if exact && !quantised {
        return Ok(false);
    }
    let head = shape.heads.head_dim;
    let context = Context::new(8)?;
    // SAFETY: the context lives and has room; nothing is computed, the device is only asked.
    let supported = unsafe {
        let ctx = context.get();
        let n_head = shape.heads.n_head as i64;
        let stored = |of: KvType| {
            let width = head.next_multiple_of(of.block_len()) as i64;
            ggml_new_tensor_3d(ctx, kind(of), width, CELLS as i64, n_head)
        };
        let (k, v) = (stored(shape.keys), stored(shape.values));
        let q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, (*k).ne[0], 1, n_head);
        let mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, CELLS as i64, 1);
        let node = ggml_flash_attn_ext(ctx, q, k, v, mask, 1.0, 0.0, 0.0);
        ggml_backend_dev_supports_op(device, node)
    };
    if supported || !quantised {
        return Ok(supported);
    }
    let KvShape { keys, values, .. } = shape;
    let both = match keys == values {
        true => String::new(),
        false => format!("one type for both (--kv {values}) or "),
    };
    Err(DeviceError(format!(
        "the device cannot attend to keys in {keys} and values in {values} with heads of {head}; \
         give {both}--kv f16"
    )))
}

/// The node that turns each head of `x` `[n, n_head, width]` by its row's position.
///
/// # Safety
/// `ctx` lives and has room for a tensor; `x` and `positions`, `[n]` in i32, live as long.
pub(super) unsafe fn turn(
    ctx: *mut ggml_context,
    x: *mut ggml_tensor,
    positions: *mut ggml_tensor,
    rope: &Rope,
) -> *mut ggml_tensor {
    // ggml's numbers of the two forms (GGML_ROPE_TYPE_NORMAL and _NEOX).
    let mode = match rope.pairs {
        RopePairs::Adjacent => 0,
        RopePairs::Halves => 2,
    };
    let (dims, none) = (rope.dims as i32, std::ptr::null_mut());
    // Frequencies are extended by nothing (0, 1, and bounds that then do not count).
    // SAFETY: as the caller promised.
    unsafe {
        ggml_rope_ext(
            ctx, x, positions, none, dims, mode, 0, rope.base, rope.scale, 0.0, 1.0, 0.0, 0.0,
        )
    }
}

/// Writes all bytes of an input; an error where it has not as many.
///
/// # Safety
/// The tensor lives and has memory.
pub(super) unsafe fn set(tensor: Ptr<ggml_tensor>, bytes: &[u8]) -> Result<(), DeviceError> {
    // SAFETY: it lives, as the caller promised.
    let expected = unsafe { ggml_nbytes(tensor.get()) };
    if bytes.len() != expected {
        return Err(DeviceError(format!(
            "an input of a pass has {} bytes, expected {expected}",
            bytes.len()
        )));
    }
    // SAFETY: it has memory, as the caller promised, for as many bytes.
    unsafe { ggml_backend_tensor_set(tensor.get(), bytes.as_ptr().cast(), 0, bytes.len()) };
    Ok(())
}

/// Cells that follow each other.
fn runs(cells: &[u32]) -> impl Iterator<Item = Range<usize>> {
    let consecutive = cells.chunk_by(|&a, &b| b == a + 1);
    consecutive.filter_map(|run| {
        let start = *run.first()? as usize;
        Some(start..start + run.len())
    })
}

/// Pairs whose sources and targets both follow each other, as (from, to, how many); none holds a
/// cell twice.
fn pair_runs(pairs: &[(u32, u32)]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for &(from, to) in pairs {
        let (from, to) = (from as usize, to as usize);
        if let Some((first, target, n)) = runs.last_mut() {
            let apart = first.abs_diff(*target);
            if from == *first + *n && to == *target + *n && *n < apart {
                *n += 1;
                continue;
            }
        }
        runs.push((from, to, 1));
    }
    // A cell copied onto itself is there already.
    runs.retain(|(from, to, _)| from != to);
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_every_cell_in_order() {
        let cells = [3, 4, 5, 9, 2, 3];
        let found: Vec<_> = runs(&cells).collect();
        assert_eq!(found, [3..6, 9..10, 2..4]);
    }

    #[test]
    fn runs_of_pairs_never_overlap() {
        let pairs = [(0, 2), (1, 3), (2, 4), (3, 5), (7, 7), (9, 1)];
        assert_eq!(pair_runs(&pairs), [(0, 2, 2), (2, 4, 2), (9, 1, 1)]);
    }
}
