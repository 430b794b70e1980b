//! The KV cache's storage: for each layer a store of keys and one of values, in one mapping.
//!
//! A store is cut into blocks of [`CELLS`] cells; a block holds head after head, a head cell
//! after cell, so that what one head attends to lies together and memory is used from the front.
//! A head that is no whole number of a quantised type's blocks is padded with zeros.

use std::ops::Range;

use katari_gguf::Format;
use memmap2::MmapMut;

use super::arena::Value;
use super::attend::products::Stored;
use super::disjoint::Disjoint;
use super::lanes::LANES;
use super::math::Math;
use super::pool::Pool;
use crate::kv::KvType;
use crate::ops::{DeviceError, KvShape};

/// Cells of a block.
pub(super) const CELLS: usize = 256;

/// Rows from which on storing them is split over threads.
const PARALLEL_ROWS: usize = 16;

/// Stores begin at multiples of this many bytes, a page.
const ALIGNMENT: usize = 4096;

/// The format that elements of `kv` are stored in.
fn format(kv: KvType) -> Format {
    match kv {
        KvType::F32 => Format::F32,
        KvType::F16 => Format::F16,
        KvType::Q8_0 => Format::Q8_0,
        KvType::Q4_0 => Format::Q4_0,
    }
}

/// How the keys, or the values, of one layer are laid out.
#[derive(Clone, Copy)]
struct Layout {
    kind: KvType,
    n_head: usize,
    n_cells: usize,
    head_dim: usize,
    /// Bytes of one cell's head.
    head_bytes: usize,
    /// Where the store begins in the mapping.
    start: usize,
}

impl Layout {
    /// The store after `end` bytes of others, and where it ends itself; `None` where no address
    /// is large enough.
    fn after(end: usize, kind: KvType, shape: &KvShape) -> Option<(Layout, usize)> {
        let layout = Layout {
            kind,
            n_head: shape.heads.n_head,
            n_cells: shape.n_cells,
            head_dim: shape.heads.head_dim,
            head_bytes: kind.head_bytes(shape.heads.head_dim),
            start: end.checked_next_multiple_of(ALIGNMENT)?,
        };
        let cell = layout.head_bytes.checked_mul(layout.n_head)?;
        let end = cell
            .checked_mul(layout.n_cells)?
            .checked_add(layout.start)?;
        Some((layout, end))
    }

    /// Where `n` cells of a head lie, all of one block.
    fn span(&self, head: usize, cell: u32, n: usize) -> Range<usize> {
        let (block, cell) = (cell as usize / CELLS, cell as usize % CELLS);
        // The last block may be shorter.
        let cells = CELLS.min(self.n_cells - block * CELLS);
        let before = block * CELLS * self.n_head + head * cells + cell;
        let start = self.start + before * self.head_bytes;
        start..start + n * self.head_bytes
    }

    fn format(&self) -> Format {
        format(self.kind)
    }

    /// Bytes that `n` values take, whole blocks.
    fn packed(&self, n: usize) -> usize {
        n / self.kind.block_len() * self.kind.block_bytes()
    }
}

/// The keys, or the values, of one layer.
#[derive(Clone, Copy)]
pub(super) struct Store<'a> {
    layout: Layout,
    memory: &'a [u8],
}

impl<'a> Store<'a> {
    /// Values that a stored head unpacks to: `head_dim`, rounded up to whole blocks and lanes.
    pub(super) fn head_width(&self) -> usize {
        let unit = self.layout.kind.block_len().max(LANES);
        self.layout.head_dim.next_multiple_of(unit)
    }

    /// Whether kernels can take heads as they are stored.
    pub(super) fn is_whole(&self) -> bool {
        self.layout.kind.block_len() > 1 || self.layout.head_dim.is_multiple_of(LANES)
    }

    /// One head of `n` cells of one block from `cell` on.
    pub(super) fn heads(&self, head: usize, cell: u32, n: usize) -> Stored<'a> {
        Stored {
            kind: self.layout.kind,
            bytes: &self.memory[self.layout.span(head, cell, n)],
            row_bytes: self.layout.head_bytes,
        }
    }
}

/// One layer.
pub(super) struct Layer<'a> {
    pub keys: Store<'a>,
    pub values: Store<'a>,
}

/// All layers of this device.
pub(super) struct Kv {
    /// Keys and values of each layer.
    layouts: Vec<[Layout; 2]>,
    pub(super) shape: KvShape,
    /// Zeroed pages that take memory when they are first written.
    memory: MmapMut,
}

impl Kv {
    /// # Errors
    /// Where the system does not grant the memory.
    pub(super) fn new(shape: &KvShape) -> Result<Kv, DeviceError> {
        let layouts = || {
            let (mut layouts, mut end) = (Vec::with_capacity(shape.n_layer), 0);
            for _ in 0..shape.n_layer {
                let keys;
                let values;
                (keys, end) = Layout::after(end, shape.keys, shape)?;
                (values, end) = Layout::after(end, shape.values, shape)?;
                layouts.push([keys, values]);
            }
            Some((layouts, end))
        };
        let refused = |why: String| {
            DeviceError(format!(
                "the KV cache of {} cells needs {} bytes, which {why}; give a smaller --ctx, or a \
                 smaller type of keys and values",
                shape.n_cells,
                shape.bytes()
            ))
        };
        let (layouts, bytes) =
            layouts().ok_or_else(|| refused("no address space is large enough for".into()))?;
        let memory = MmapMut::map_anon(bytes.max(1))
            .map_err(|e| refused(format!("the system does not grant ({e})")))?;
        // Blocks are read whole and one after another: large pages save looking up small ones.
        // Where there are none nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Ok(Kv {
            layouts,
            shape: *shape,
            memory,
        })
    }

    /// Heads of every layer.
    pub(super) fn n_head(&self) -> usize {
        let first = self.layouts.first();
        first.map_or(0, |[keys, _]| keys.n_head)
    }

    /// Layer `i`, if there is one.
    pub(super) fn layer(&self, i: usize) -> Option<Layer<'_>> {
        let [keys, values] = self.layouts.get(i)?;
        let store = |&layout: &Layout| Store {
            layout,
            memory: &self.memory,
        };
        Some(Layer {
            keys: store(keys),
            values: store(values),
        })
    }

    /// Stores row `i` of `k` and `v`, `[rows, n_head * head_dim]`, in cell `cells(i)` of `layer`,
    /// for every row. Threads take heads, whose memory is apart.
    pub(super) fn save(
        &mut self,
        pool: &Pool,
        math: &Math,
        layer: usize,
        cells: impl Fn(usize) -> u32 + Sync,
        [k, v]: [&Value; 2],
    ) {
        let layouts = &self.layouts[layer];
        let n_head = layouts[0].n_head;
        let memory = Disjoint::new(&mut self.memory);
        // A few rows are stored sooner than another thread could begin.
        let grain = if k.rows < PARALLEL_ROWS { n_head } else { 1 };
        pool.for_each(n_head, grain, |heads| {
            for (layout, x) in layouts.iter().zip([k, v]) {
                let dim = layout.head_dim;
                for head in heads.clone() {
                    for i in 0..x.rows {
                        let values = &x.row(i)[head * dim..(head + 1) * dim];
                        // SAFETY: one head of one cell, and each head is given out once, so
                        // that no other thread has it; it is let go before the next.
                        let to = unsafe { memory.part(layout.span(head, cells(i), 1)) };
                        math.pack(layout.kind, values, to);
                    }
                }
            }
        });
    }

    /// Applies `turn` to the first `dims` values of every head of the keys in `cells`; only
    /// blocks that hold any of them are packed anew.
    pub(super) fn turn_keys(
        &mut self,
        cells: &[u32],
        dims: usize,
        mut turn: impl FnMut(&mut [f32]),
    ) {
        let mut values = Vec::new();
        for [keys, _] in &self.layouts {
            values.resize(dims.next_multiple_of(keys.kind.block_len()), 0.0);
            for head in 0..keys.n_head {
                for &cell in cells {
                    let start = keys.span(head, cell, 1).start;
                    let bytes = &mut self.memory[start..start + keys.packed(values.len())];
                    keys.format().dequantize(bytes, &mut values);
                    turn(&mut values[..dims]);
                    keys.format().quantize(&values, bytes);
                }
            }
        }
    }

    /// Copies cells of every layer, (from, to) in order.
    pub(super) fn copy(&mut self, pairs: &[(u32, u32)]) {
        for layout in self.layouts.as_flattened() {
            for head in 0..layout.n_head {
                for &(from, to) in pairs {
                    let (from, to) = (layout.span(head, from, 1), layout.span(head, to, 1));
                    self.memory.copy_within(from, to.start);
                }
            }
        }
    }

    /// Where the heads of `cells` lie: for each layer the keys of each cell, then the values of
    /// each, a cell's heads one after another.
    fn spans(&self, cells: &[u32]) -> impl Iterator<Item = Range<usize>> {
        let layouts = self.layouts.as_flattened().iter();
        layouts.flat_map(move |layout| {
            let heads = move |&cell| (0..layout.n_head).map(move |h| layout.span(h, cell, 1));
            cells.iter().flat_map(heads)
        })
    }

    /// The bytes of `cells`, in order of [`Kv::spans`].
    pub(super) fn export(&self, cells: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.shape.exported_bytes(cells.len()) as usize);
        for span in self.spans(cells) {
            bytes.extend_from_slice(&self.memory[span]);
        }
        bytes
    }

    /// Puts back what [`Kv::export`] gave.
    pub(super) fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError> {
        self.shape.check_exported(cells.len(), bytes.len())?;
        let mut rest = bytes;
        for layout in self.layouts.as_flattened() {
            for &cell in cells {
                for head in 0..layout.n_head {
                    let (now, later) = rest.split_at(layout.head_bytes);
                    self.memory[layout.span(head, cell, 1)].copy_from_slice(now);
                    rest = later;
                }
            }
        }
        Ok(())
    }
}
