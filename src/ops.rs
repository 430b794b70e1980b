//! What a device can do, in the words of a transformer.
//!
//! An architecture (`models/`) is written once against [`Ops`]; a backend (`cpu/`, `ggml/`)
//! implements [`Device`] and [`Ops`]. The CPU runs each operation at once; a graph backend
//! records them once for a batch shape and replays. So model code may look at a batch's shape,
//! never at its values, and operations return no `Result`: shapes are proven when a file is
//! loaded.
//!
//! Shapes are written `[rows, cols]`, the last one contiguous. Activations are f32.

mod trace;

use std::ops::Range;
use std::sync::Arc;

pub use trace::{Difference, Step, Traced, compare};

use katari_gguf::Format;

use crate::kv::{KvType, Ledger};

/// One row of a forward pass: a token at a place in a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Token id; below the embedding's rows.
    pub token: u32,
    /// Position in the sequence, from 0. Equals the row's index in the sequence's cells.
    pub position: u32,
    /// The sequence whose cells this row attends to (those at positions `0..=position`).
    pub sequence: u32,
    /// The KV cell that this row's keys and values are written to.
    pub cell: u32,
    /// Whether the caller reads this row's logits.
    pub wants_logits: bool,
}

/// What travels in one forward pass: rows of any number of sequences.
///
/// The rows of one sequence are in order of position, and their cells are already the
/// sequence's in `ledger`, so that row `i` sees the first `position + 1` cells of
/// `ledger.cells(sequence)`.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `[n_tokens]`.
    pub rows: &'a [Row],
    /// Which cells each sequence owns, in order of position.
    pub ledger: &'a Ledger,
}

impl Batch<'_> {
    /// How many rows want logits.
    pub fn n_outputs(&self) -> usize {
        self.rows.iter().filter(|r| r.wants_logits).count()
    }
}

/// The non-linearity after a linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU, `x/2 (1 + erf(x / sqrt 2))` (Hugging Face's `gelu`).
    GeluErf,
    /// The tanh approximation (`gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
}

/// `y = act(x W^T + b)`: weight `[n_out, n_in]`, bias `[n_out]` in f32.
#[derive(Debug)]
pub struct Linear<T> {
    /// `[n_out, n_in]`, any format.
    pub weight: T,
    /// `[n_out]`, f32.
    pub bias: Option<T>,
}

/// Layer normalisation over the last dimension (Ba et al. 2016): weight and bias `[n_embd]`, f32.
#[derive(Debug)]
pub struct Norm<T> {
    /// Gain, `[n_embd]`.
    pub weight: T,
    /// Shift, `[n_embd]`; some models have none.
    pub bias: Option<T>,
    /// Added to the variance.
    pub eps: f32,
}

/// Which dimensions of a head turn together (Su et al. 2021, RoFormer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// (0,1), (2,3), ...: GPT-J.
    Adjacent,
    /// (0,n/2), (1,n/2+1), ... of the rotated dimensions: GPT-NeoX.
    Halves,
}

/// Rotary position embedding: pair `i` turns by `position * scale * base^(-2i / dims)` radians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Which dimensions turn together.
    pub pairs: RopePairs,
    /// How many leading dimensions of each head turn; even.
    pub dims: usize,
    /// Frequency base, 10000 in all published models.
    pub base: f32,
    /// Position scale: 1 unless linear rope scaling is on.
    pub scale: f32,
}

/// The shape of one layer's attention (multi-head: every head has its own keys and values).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// How many heads.
    pub n_head: usize,
    /// Width of one head; `n_head * head_dim` is the width of q, k and v.
    pub head_dim: usize,
    /// Scores are multiplied by this before the softmax; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// The KV cache that a device allocates: two stores of `[n_cells, n_head * head_dim]` a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvShape {
    /// Layers that live on this device.
    pub n_layer: usize,
    /// Cells, each one position of at least one sequence.
    pub n_cells: usize,
    /// Heads of each layer.
    pub heads: Heads,
    /// Element type of the keys.
    pub keys: KvType,
    /// Element type of the values.
    pub values: KvType,
}

impl KvShape {
    /// Bytes that all cells take: heads are stored one after another, each padded to whole blocks.
    pub fn bytes(&self) -> u64 {
        let head =
            self.keys.head_bytes(self.heads.head_dim) + self.values.head_bytes(self.heads.head_dim);
        [self.n_layer, self.n_cells, self.heads.n_head, head]
            .iter()
            .fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }

    /// An error unless every one of `cells` exists.
    pub fn check_cells(&self, cells: impl IntoIterator<Item = u32>) -> Result<(), DeviceError> {
        match cells.into_iter().find(|&c| c as usize >= self.n_cells) {
            Some(cell) => Err(DeviceError(format!(
                "the KV cache has no cell {cell} (it has {})",
                self.n_cells
            ))),
            None => Ok(()),
        }
    }

    /// Bytes that `n` cells export to.
    pub fn exported_bytes(&self, n: usize) -> u64 {
        KvShape {
            n_cells: n,
            ..*self
        }
        .bytes()
    }

    /// An error unless `found` bytes are what `n` cells export to.
    pub fn check_exported(&self, n: usize, found: usize) -> Result<(), DeviceError> {
        let expected = self.exported_bytes(n);
        match found as u64 == expected {
            true => Ok(()),
            false => Err(DeviceError(format!(
                "the saved keys and values of {n} cells are {found} bytes long, expected \
                 {expected} for this model and KV type"
            ))),
        }
    }
}

/// The mapped file that tensors lie in; backends may hold on to it.
pub type Mapping = Arc<dyn Bytes>;

/// The bytes of a file.
pub trait Bytes: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Says that the bytes of `span` will hardly be read again, so that the memory they take can
    /// go to others. They stay readable.
    fn give_back(&self, _span: Range<usize>) {}
}

/// Memory of the process's own, which nothing is given back of.
impl<T: AsRef<[u8]> + Send + Sync> Bytes for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

/// A tensor as it lies in the file.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    /// Its name, for errors.
    pub name: &'a str,
    /// Elements a row (GGUF's first dimension).
    pub cols: usize,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Format of its blocks.
    pub format: Format,
    /// The file.
    pub file: &'a Mapping,
    /// Where its first byte lies in the file; the span was checked when the file was parsed.
    pub start: usize,
    /// How many bytes it has, rows one after another.
    pub len: usize,
}

impl<'a> TensorView<'a> {
    /// The tensor's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        &self.file.bytes()[self.start..self.start + self.len]
    }
}

/// What a device could not do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

/// The operations of a forward pass on one device, over one batch of `n_tokens` rows.
///
/// Layers given to [`attend`](Ops::attend) are counted within this device.
pub trait Ops {
    /// A weight that lives on the device.
    type Tensor;
    /// An activation on the device: `[n_tokens, width]` (or `[n_outputs, width]` after
    /// [`select_outputs`](Ops::select_outputs)).
    type Value;

    /// The hidden states `[n_tokens, n_embd]` that the device before this one computed.
    fn hidden(&self) -> Self::Value;
    /// The table's rows for the batch's tokens: table `[n_vocab, n_embd]` -> `[n_tokens, n_embd]`.
    fn embed_tokens(&self, table: &Self::Tensor) -> Self::Value;
    /// The table's rows for the batch's positions: `[n_ctx, n_embd]` -> `[n_tokens, n_embd]`.
    fn embed_positions(&self, table: &Self::Tensor) -> Self::Value;
    /// Several linears of one input, so that a device can quantise it once and run them as one:
    /// x `[n, n_in]`, each -> `[n, n_out]`.
    fn linears<const N: usize>(
        &self,
        x: &Self::Value,
        layers: [(&Linear<Self::Tensor>, Option<Activation>); N],
    ) -> [Self::Value; N];
    /// One linear.
    fn linear(
        &self,
        x: &Self::Value,
        layer: &Linear<Self::Tensor>,
        activation: Option<Activation>,
    ) -> Self::Value {
        let [y] = self.linears(x, [(layer, activation)]);
        y
    }
    /// Layer normalisation of each row.
    fn layer_norm(&self, x: &Self::Value, norm: &Norm<Self::Tensor>) -> Self::Value;
    /// `a + b`, elementwise, of one shape.
    fn add(&self, a: Self::Value, b: &Self::Value) -> Self::Value;
    /// Some columns of each row: `[n, width]` -> `[n, columns.len()]`.
    fn columns(&self, x: &Self::Value, columns: Range<usize>) -> Self::Value;
    /// Turns each head of `x` `[n_tokens, n_head * head_dim]` by its row's position.
    fn rope(&self, x: Self::Value, heads: &Heads, rope: &Rope) -> Self::Value;
    /// Stores k and v in the batch's cells of `layer`, then causal softmax attention of q over
    /// what each row sees: q, k, v and result `[n_tokens, n_head * head_dim]`.
    fn attend(
        &self,
        layer: usize,
        heads: &Heads,
        q: &Self::Value,
        k: &Self::Value,
        v: &Self::Value,
    ) -> Self::Value;
    /// The rows that want logits, in batch order: `[n_tokens, width]` -> `[n_outputs, width]`.
    fn select_outputs(&self, x: &Self::Value) -> Self::Value;
    /// Keeps a copy of `x` for [`Device::trace`].
    fn observe(&self, x: &Self::Value);
}

/// Threads of this machine, which have nothing to do between passes.
pub trait Threads: Send + Sync {
    /// Calls `body` once for each of `0..n`, on all of them; returns when every call has.
    fn for_each(&self, n: usize, body: &(dyn Fn(usize) + Sync));
}

/// How large a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassShape {
    /// Rows.
    pub n_tokens: usize,
    /// Rows that want logits.
    pub n_outputs: usize,
    /// Width of the hidden states that come in; 0 where the device begins with the embedding.
    pub n_hidden: usize,
}

/// A device: holds weights and KV storage, and runs forward passes.
pub trait Device: Send + 'static {
    /// A weight that lives here.
    type Tensor: Send + 'static;
    /// The operations of a pass.
    type Ops: Ops<Tensor = Self::Tensor>;

    /// Takes a tensor over; a backend that reads it in place keeps the mapping alive.
    fn upload(&mut self, tensor: TensorView<'_>) -> Result<Self::Tensor, DeviceError>;

    /// Takes over a table that only [`Ops::embed_tokens`] and [`Ops::embed_positions`] read, a
    /// row at a time; a device with memory of its own may leave it where it is.
    fn upload_table(&mut self, tensor: TensorView<'_>) -> Result<Self::Tensor, DeviceError> {
        self.upload(tensor)
    }

    /// Allocates the KV store, once, before the first pass.
    fn allocate_kv(&mut self, shape: &KvShape) -> Result<(), DeviceError>;

    /// Takes the memory of what was uploaded, and of passes up to `shape`, after the KV store's,
    /// so that what does not fit is refused before [`transfer`](Device::transfer) takes its time.
    /// `forward` is as [`run`](Device::run) has it; nothing is computed.
    fn reserve(
        &mut self,
        _shape: PassShape,
        _forward: &mut dyn FnMut(&Self::Ops) -> <Self::Ops as Ops>::Value,
    ) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Brings what was uploaded to the device's own memory, once, after the last upload and
    /// before the first pass; `progress` hears how many more bytes are there.
    fn transfer(&mut self, _progress: &mut dyn FnMut(u64)) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Runs one pass and returns its result, `[n, width]` in row order.
    ///
    /// `hidden` is what [`Ops::hidden`] gives: `[n_tokens, n_embd]` where another device ran the
    /// layers before, empty where this one begins with the embedding. `forward` runs or records
    /// the operations, and is not called again by a device that replays a recorded pass of the
    /// same shape.
    fn run(
        &mut self,
        batch: &Batch<'_>,
        hidden: &[f32],
        forward: &mut dyn FnMut(&Self::Ops) -> <Self::Ops as Ops>::Value,
    ) -> Result<&[f32], DeviceError>;

    /// The threads that it computes with, where it does so with this machine's.
    fn threads(&self) -> Option<Arc<dyn Threads>> {
        None
    }

    /// How many operations the device was given for the last pass, each a launch or less, where
    /// it counts them.
    fn operations(&self) -> Option<usize> {
        None
    }

    /// [`run`](Device::run), and what [`Ops::observe`] was given, in order: the rows of each.
    fn trace(
        &mut self,
        batch: &Batch<'_>,
        hidden: &[f32],
        forward: &mut dyn FnMut(&Self::Ops) -> <Self::Ops as Ops>::Value,
    ) -> Result<Vec<Vec<f32>>, DeviceError>;

    /// Turns the keys in `cells` of every layer by `delta` positions (a context shift):
    /// dequantise the rotated dimensions, rotate, requantise.
    fn shift_keys(&mut self, cells: &[u32], delta: i32, rope: &Rope) -> Result<(), DeviceError>;

    /// Copies keys and values of every layer, pairs (from, to).
    fn copy_cells(&mut self, pairs: &[(u32, u32)]) -> Result<(), DeviceError>;

    /// The stored bytes of `cells`, layer by layer: keys of each cell, then values.
    fn export(&self, cells: &[u32]) -> Result<Vec<u8>, DeviceError>;

    /// Puts back what [`export`](Device::export) gave, into `cells` (as many as were exported).
    fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError>;
}
