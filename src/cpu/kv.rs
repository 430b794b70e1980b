//! The KV cache's storage: for each layer a store of keys and one of values, head after head,
//! cell after cell, so that what one head attends to lies together. A head that is no whole
//! number of blocks is padded with zeros.

use std::cell::RefCell;
use std::ops::Range;

use katari_gguf::Format;

use super::arena::Value;
use super::disjoint::Disjoint;
use super::pool::Pool;
use crate::kv::KvType;
use crate::ops::{DeviceError, KvShape};

/// Rows from which on storing them is split over threads.
const PARALLEL_ROWS: usize = 16;

/// The format that elements of `kv` are stored in.
fn format(kv: KvType) -> Format {
    match kv {
        KvType::F32 => Format::F32,
        KvType::F16 => Format::F16,
        KvType::Q8_0 => Format::Q8_0,
        KvType::Q4_0 => Format::Q4_0,
    }
}

/// The keys, or the values, of one layer.
pub(super) struct Store {
    format: Format,
    n_head: usize,
    n_cells: usize,
    head_dim: usize,
    /// Bytes of one cell's head.
    head_bytes: usize,
    /// `[n_head, n_cells, head_bytes]` in words, so that elements of two and four bytes are
    /// aligned.
    words: Vec<u32>,
}

thread_local! {
    /// A head's values where storing them needs padding.
    static PADDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Store {
    fn new(kv: KvType, shape: &KvShape) -> Result<Store, DeviceError> {
        let head_bytes = kv.head_bytes(shape.heads.head_dim);
        let bytes = [shape.n_cells, shape.heads.n_head]
            .iter()
            .try_fold(head_bytes, |product, &n| product.checked_mul(n))
            .filter(|&n| n <= isize::MAX as usize - 3)
            .ok_or_else(|| {
                DeviceError(format!(
                    "a KV cache of {} cells is too large",
                    shape.n_cells
                ))
            })?;
        Ok(Store {
            format: format(kv),
            n_head: shape.heads.n_head,
            n_cells: shape.n_cells,
            head_dim: shape.heads.head_dim,
            head_bytes,
            // Zeroed pages that take memory when they are first written.
            words: vec![0; bytes.div_ceil(4)],
        })
    }

    /// How the elements are stored.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Values that a stored head unpacks to: `head_dim`, rounded up to whole blocks.
    pub(super) fn head_width(&self) -> usize {
        self.head_dim.next_multiple_of(self.format.block_len())
    }

    /// Bytes of one cell's head.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }

    /// Where `n` cells of a head lie.
    fn span(&self, head: usize, cell: u32, n: usize) -> Range<usize> {
        let start = (head * self.n_cells + cell as usize) * self.head_bytes;
        start..start + n * self.head_bytes
    }

    /// One head of `n` cells from `cell` on, as stored.
    pub(super) fn heads(&self, head: usize, cell: u32, n: usize) -> &[u8] {
        &self.bytes()[self.span(head, cell, n)]
    }

    /// Bytes that `n` values take, whole blocks.
    fn packed(&self, n: usize) -> usize {
        n / self.format.block_len() * self.format.block_bytes()
    }

    /// Stores row `i` of `x`, `[cells, n_head * head_dim]`, in `cells[i]`, for every row. Threads
    /// take heads, whose memory is apart.
    pub(super) fn save(&mut self, pool: &Pool, cells: impl Fn(usize) -> u32 + Sync, x: &Value) {
        let (format, dim, head_bytes) = (self.format, self.head_dim, self.head_bytes);
        let (width, n_head) = (self.head_width(), self.n_head);
        let part = self.n_cells * head_bytes;
        let bytes = Disjoint::new(self.bytes_mut());
        // One row is stored sooner than another thread could begin.
        let grain = if x.rows < PARALLEL_ROWS { n_head } else { 1 };
        pool.for_each(n_head, grain, |heads| {
            for head in heads {
                // SAFETY: the part of one head; each head is given out once.
                let bytes = unsafe { bytes.part(head * part..(head + 1) * part) };
                for i in 0..x.rows {
                    let values = &x.row(i)[head * dim..(head + 1) * dim];
                    let to = &mut bytes[cells(i) as usize * head_bytes..][..head_bytes];
                    if width == dim {
                        format.quantize(values, to);
                        continue;
                    }
                    PADDED.with_borrow_mut(|padded| {
                        padded.clear();
                        padded.extend_from_slice(values);
                        padded.resize(width, 0.0);
                        format.quantize(padded, to);
                    });
                }
            }
        });
    }
}

/// One layer.
pub(super) struct Layer {
    pub keys: Store,
    pub values: Store,
}

impl Layer {
    fn stores(&self) -> [&Store; 2] {
        [&self.keys, &self.values]
    }

    fn stores_mut(&mut self) -> [&mut Store; 2] {
        [&mut self.keys, &mut self.values]
    }
}

/// All layers of this device.
pub(super) struct Kv {
    pub layers: Vec<Layer>,
    n_cells: usize,
}

impl Kv {
    pub(super) fn new(shape: &KvShape) -> Result<Kv, DeviceError> {
        let layer = |_| {
            Ok(Layer {
                keys: Store::new(shape.keys, shape)?,
                values: Store::new(shape.values, shape)?,
            })
        };
        Ok(Kv {
            layers: (0..shape.n_layer).map(layer).collect::<Result<_, _>>()?,
            n_cells: shape.n_cells,
        })
    }

    /// An error unless every one of `cells` exists.
    pub(super) fn check(&self, cells: impl IntoIterator<Item = u32>) -> Result<(), DeviceError> {
        match cells.into_iter().find(|&c| c as usize >= self.n_cells) {
            Some(cell) => Err(DeviceError(format!(
                "the KV cache has no cell {cell} (it has {})",
                self.n_cells
            ))),
            None => Ok(()),
        }
    }

    /// Applies `turn` to the first `dims` values of every head of the keys in `cells`; only
    /// blocks that hold any of them are packed anew.
    pub(super) fn turn_keys(
        &mut self,
        cells: &[u32],
        dims: usize,
        mut turn: impl FnMut(&mut [f32]),
    ) {
        let mut head = Vec::new();
        for layer in &mut self.layers {
            let keys = &mut layer.keys;
            head.resize(dims.next_multiple_of(keys.format.block_len()), 0.0);
            for h in 0..keys.n_head {
                for &cell in cells {
                    let start = keys.span(h, cell, 1).start;
                    let span = start..start + keys.packed(head.len());
                    let (format, bytes) = (keys.format, &mut keys.bytes_mut()[span]);
                    format.dequantize(bytes, &mut head);
                    turn(&mut head[..dims]);
                    format.quantize(&head, bytes);
                }
            }
        }
    }

    /// Copies cells of every layer, (from, to) in order.
    pub(super) fn copy(&mut self, pairs: &[(u32, u32)]) {
        for layer in &mut self.layers {
            for store in layer.stores_mut() {
                for head in 0..store.n_head {
                    for &(from, to) in pairs {
                        let (from, to) = (store.span(head, from, 1), store.span(head, to, 1));
                        store.bytes_mut().copy_within(from, to.start);
                    }
                }
            }
        }
    }

    /// Bytes that `n` cells export to.
    fn exported_bytes(&self, n: usize) -> usize {
        let cell = |store: &Store| store.n_head * store.head_bytes;
        let layer = |layer: &Layer| layer.stores().map(cell).iter().sum::<usize>();
        n * self.layers.iter().map(layer).sum::<usize>()
    }

    /// The bytes of `cells`: for each layer the keys of each cell, then the values of each, a
    /// cell's heads one after another.
    pub(super) fn export(&self, cells: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.exported_bytes(cells.len()));
        for store in self.layers.iter().flat_map(Layer::stores) {
            for &cell in cells {
                for head in 0..store.n_head {
                    bytes.extend_from_slice(store.heads(head, cell, 1));
                }
            }
        }
        bytes
    }

    /// Puts back what [`Kv::export`] gave.
    pub(super) fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError> {
        let expected = self.exported_bytes(cells.len());
        if bytes.len() != expected {
            return Err(DeviceError(format!(
                "the saved keys and values of {} cells are {} bytes long, expected {expected} \
                 for this model and KV type",
                cells.len(),
                bytes.len()
            )));
        }
        let mut rest = bytes;
        for store in self.layers.iter_mut().flat_map(Layer::stores_mut) {
            for &cell in cells {
                for head in 0..store.n_head {
                    let (now, later) = rest.split_at(store.head_bytes);
                    let span = store.span(head, cell, 1);
                    store.bytes_mut()[span].copy_from_slice(now);
                    rest = later;
                }
            }
        }
        Ok(())
    }
}
