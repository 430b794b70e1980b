//! The operations of a pass, recorded as nodes of a graph.

use std::cell::RefCell;
use std::ops::Range;

use super::graph::{Graph, Inputs, Key, Source, operations};
use super::kv::{Kv, Store, turn};
use super::owned::{Context, Ptr};
use super::sys::*;
use super::weights::{Table, Tensor};
use crate::ops::{Activation, DeviceError, Heads, Linear, Norm, Ops, Rope};

/// Nodes of a layer at most: two norms of three, six linears of two with an activation of six,
/// and some thirty for the attention and its views; a traced pass copies a dozen.
const NODES_OF_LAYER: usize = 128;
/// Nodes of what comes before and after the layers.
const NODES_OF_ENDS: usize = 64;

/// Records a pass.
pub struct Recorder {
    context: Context,
    graph: Ptr<ggml_cgraph>,
    key: Key,
    layers: Vec<[Store; 2]>,
    flash: bool,
    /// Whether the device's own tanh GELU is a table of f16.
    coarse_gelu: bool,
    inputs: RefCell<Inputs>,
    observed: RefCell<Vec<Ptr<ggml_tensor>>>,
}

/// An activation: a node, `[n, width]` in f32, whose rows may lie apart.
#[derive(Clone, Copy)]
pub struct Value(*mut ggml_tensor);

impl Value {
    fn width(self) -> i64 {
        // SAFETY: nodes live as long as the recorder's context, and ggml sets their shape.
        unsafe { (*self.0).ne[0] }
    }

    fn rows(self) -> i64 {
        // SAFETY: as for `width`.
        unsafe { (*self.0).ne[1] }
    }

    /// Bytes from row to row.
    fn stride(self) -> usize {
        // SAFETY: as for `width`.
        unsafe { (*self.0).nb[1] }
    }
}

/// A node: ggml's function of that name, in the recorder's context.
macro_rules! node {
    ($self:ident, $function:ident $(, $argument:expr)*) => {{
        let context = $self.context.get();
        // SAFETY: the context lives and has room, as NODES_OF_LAYER reckons; the tensors are of
        // this context, or weights or stores, which outlive the graph; shapes were proven when
        // the file was loaded, and ggml checks them once more.
        unsafe { $function(context $(, $argument)*) }
    }};
}

/// Bytes of an f32.
const F32: usize = size_of::<f32>();

impl Recorder {
    /// Records a pass of shape `key` over `kv`.
    pub(super) fn new(key: Key, kv: &Kv, coarse_gelu: bool) -> Result<Recorder, DeviceError> {
        let nodes = NODES_OF_LAYER * kv.layers.len() + NODES_OF_ENDS;
        let context = Context::new(nodes)?;
        // SAFETY: the context lives and has room for one graph of as many nodes.
        let graph = unsafe { ggml_new_graph_custom(context.get(), nodes, false) };
        Ok(Recorder {
            graph: Ptr::new(graph, || "no memory for a graph".into())?,
            context,
            key,
            layers: kv.layers.clone(),
            flash: kv.flash,
            coarse_gelu,
            inputs: RefCell::default(),
            observed: RefCell::default(),
        })
    }

    /// The graph whose result is `result`.
    pub(super) fn finish(self, result: Value) -> Result<Graph, DeviceError> {
        let result = self.contiguous(result.0);
        // SAFETY: all of these live; a result must not share memory with what follows it.
        unsafe { ggml_set_output(result) };
        self.expand(result);
        // SAFETY: the graph lives in our context, and is complete.
        let operations = unsafe { operations(self.graph) }.count();
        Ok(Graph {
            key: self.key,
            graph: self.graph,
            inputs: self.inputs.into_inner(),
            result: Ptr::new(result, || "the pass has no result".into())?,
            observed: self.observed.into_inner(),
            operations,
            _context: self.context,
        })
    }

    /// Puts `node`, and all it needs, after what the graph has already.
    fn expand(&self, node: *mut ggml_tensor) {
        // SAFETY: graph and node live in the context, which has room for its nodes.
        unsafe { ggml_build_forward_expand(self.graph.get(), node) }
    }

    fn input(&self, kind: ggml_type, width: usize, rows: usize) -> *mut ggml_tensor {
        let input = node!(self, ggml_new_tensor_2d, kind, width as i64, rows as i64);
        // SAFETY: just made.
        unsafe { ggml_set_input(input) };
        input
    }

    /// The input in `slot`, made when it is first asked for: a row of `width`.
    fn shared(
        &self,
        slot: impl FnOnce(&mut Inputs) -> &mut Option<Ptr<ggml_tensor>>,
        kind: ggml_type,
        [rows, width]: [usize; 2],
    ) -> *mut ggml_tensor {
        let mut inputs = self.inputs.borrow_mut();
        let slot = slot(&mut inputs);
        if let Some(tensor) = slot {
            return tensor.get();
        }
        let tensor = self.input(kind, width, rows);
        *slot = Ptr::new(tensor, String::new).ok();
        tensor
    }

    fn rows(&self, source: Source, width: usize) -> Value {
        let tensor = self.input(GGML_TYPE_F32, width, self.key.n_tokens);
        let input = Ptr::new(tensor, String::new).ok();
        self.inputs.borrow_mut().rows.push((source, input));
        Value(tensor)
    }

    fn embed(&self, table: &Tensor, source: impl FnOnce(std::sync::Arc<Table>) -> Source) -> Value {
        let table = table.on_host();
        let width = table.cols;
        self.rows(source(table), width)
    }

    fn positions(&self) -> *mut ggml_tensor {
        let shape = [1, self.key.n_tokens];
        self.shared(|inputs| &mut inputs.positions, GGML_TYPE_I32, shape)
    }

    /// `x` itself, or a copy whose values lie together.
    fn contiguous(&self, x: *mut ggml_tensor) -> *mut ggml_tensor {
        // SAFETY: nodes live as long as the context.
        match unsafe { ggml_is_contiguous(x) } {
            true => x,
            false => node!(self, ggml_cont, x),
        }
    }

    /// `x` by heads, `[n, n_head, head_dim]`, without a copy.
    fn heads(&self, x: Value, heads: &Heads) -> *mut ggml_tensor {
        let (head, n_head) = (heads.head_dim, heads.n_head as i64);
        let (width, stride) = (head as i64, x.stride());
        node!(
            self,
            ggml_view_3d,
            x.0,
            width,
            n_head,
            x.rows(),
            head * F32,
            stride,
            0
        )
    }

    /// Heads `[n, n_head, head_dim]` with zeros up to `width`.
    fn padded(&self, x: *mut ggml_tensor, heads: &Heads, width: usize) -> *mut ggml_tensor {
        match width - heads.head_dim {
            0 => x,
            more => {
                let x = self.contiguous(x);
                node!(self, ggml_pad, x, more as i32, 0, 0, 0)
            }
        }
    }

    /// Writes `x` to the batch's cells of `store`; the store's first cells after that, as
    /// `[n_head, n_cells, width]`.
    fn save(&self, store: &Store, x: Value, heads: &Heads) -> *mut ggml_tensor {
        let n_head = heads.n_head as i64;
        let rows = match store.width == heads.head_dim {
            true => x.0,
            false => {
                let x = self.padded(self.heads(x, heads), heads, store.width);
                let row = store.width as i64 * n_head;
                node!(self, ggml_reshape_2d, x, row, self.key.n_tokens as i64)
            }
        };
        let shape = [1, self.key.n_tokens];
        let cells = self.shared(|inputs| &mut inputs.cells, GGML_TYPE_I64, shape);
        let saved = node!(self, ggml_set_rows, store.tensor.get(), rows, cells);
        // Before whatever reads the store.
        self.expand(saved);
        node!(
            self,
            ggml_view_3d,
            saved,
            store.width as i64,
            self.key.n_cells as i64,
            n_head,
            store.row_bytes,
            store.head_bytes,
            0
        )
    }

    /// The tanh approximation of GELU from exact operations:
    /// `x (1/2 + 1/2 tanh(x sqrt(2/pi) (1 + 0.044715 x^2)))`.
    fn gelu_tanh(&self, x: *mut ggml_tensor) -> *mut ggml_tensor {
        const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
        let y = node!(self, ggml_sqr, x);
        let y = node!(self, ggml_scale_bias, y, 0.044_715 * ROOT, ROOT);
        let y = node!(self, ggml_mul, y, x);
        let y = node!(self, ggml_tanh, y);
        let y = node!(self, ggml_scale_bias, y, 0.5, 0.5);
        node!(self, ggml_mul, y, x)
    }

    fn activate(&self, x: *mut ggml_tensor, activation: Activation) -> *mut ggml_tensor {
        match activation {
            Activation::GeluErf => node!(self, ggml_gelu_erf, x),
            Activation::GeluTanh if self.coarse_gelu => self.gelu_tanh(x),
            Activation::GeluTanh => node!(self, ggml_gelu, x),
            Activation::Relu => node!(self, ggml_relu, x),
            Activation::Silu => node!(self, ggml_silu, x),
        }
    }

    /// Attention as one operation: q `[n_head, n, width]`, k and v `[n_head, n_cells, width]` to
    /// `[n, n_head, width]`.
    fn flash(&self, [q, k, v, mask]: [*mut ggml_tensor; 4], scale: f32) -> *mut ggml_tensor {
        let y = node!(self, ggml_flash_attn_ext, q, k, v, mask, scale, 0.0, 0.0);
        // SAFETY: just made; sums in f32 where the device has a choice.
        unsafe { ggml_prec_set_acc(y, GGML_PREC_F32) };
        y
    }

    /// The same by matrix products and a softmax between them.
    fn plain(&self, [q, k, v, mask]: [*mut ggml_tensor; 4], scale: f32) -> *mut ggml_tensor {
        let scores = node!(self, ggml_mul_mat, k, q);
        let weights = node!(self, ggml_soft_max_ext, scores, mask, scale, 0.0);
        // A product runs along the first dimension of both, here the cells.
        let v = node!(self, ggml_permute, v, 1, 0, 2, 3);
        let v = node!(self, ggml_cont, v);
        let y = node!(self, ggml_mul_mat, v, weights);
        node!(self, ggml_permute, y, 0, 2, 1, 3)
    }
}

impl Ops for Recorder {
    type Tensor = Tensor;
    type Value = Value;

    fn hidden(&self) -> Value {
        self.rows(Source::Hidden, self.key.n_hidden)
    }

    fn embed_tokens(&self, table: &Tensor) -> Value {
        self.embed(table, Source::Tokens)
    }

    fn embed_positions(&self, table: &Tensor) -> Value {
        self.embed(table, Source::Positions)
    }

    fn linears<const N: usize>(
        &self,
        x: &Value,
        layers: [(&Linear<Tensor>, Option<Activation>); N],
    ) -> [Value; N] {
        let x = self.contiguous(x.0);
        layers.map(|(layer, activation)| {
            let mut y = node!(self, ggml_mul_mat, layer.weight.on_device(), x);
            if let Some(bias) = &layer.bias {
                y = node!(self, ggml_add, y, bias.on_device());
            }
            if let Some(activation) = activation {
                y = self.activate(y, activation);
            }
            Value(y)
        })
    }

    fn layer_norm(&self, x: &Value, norm: &Norm<Tensor>) -> Value {
        let x = self.contiguous(x.0);
        let y = node!(self, ggml_norm, x, norm.eps);
        let mut y = node!(self, ggml_mul, y, norm.weight.on_device());
        if let Some(bias) = &norm.bias {
            y = node!(self, ggml_add, y, bias.on_device());
        }
        Value(y)
    }

    fn add(&self, a: Value, b: &Value) -> Value {
        Value(node!(self, ggml_add, a.0, b.0))
    }

    fn columns(&self, x: &Value, columns: Range<usize>) -> Value {
        let (width, offset) = (columns.len() as i64, columns.start * F32);
        Value(node!(
            self,
            ggml_view_2d,
            x.0,
            width,
            x.rows(),
            x.stride(),
            offset
        ))
    }

    fn rope(&self, x: Value, heads: &Heads, rope: &Rope) -> Value {
        let by_heads = self.heads(x, heads);
        let positions = self.positions();
        // SAFETY: as for `node!`.
        let y = unsafe { turn(self.context.get(), by_heads, positions, rope) };
        Value(node!(self, ggml_reshape_2d, y, x.width(), x.rows()))
    }

    fn attend(&self, layer: usize, heads: &Heads, q: &Value, k: &Value, v: &Value) -> Value {
        let [keys, values] = &self.layers[layer];
        let k = self.save(keys, *k, heads);
        let v = self.save(values, *v, heads);
        let q = self.padded(self.heads(*q, heads), heads, keys.width);
        let q = node!(self, ggml_permute, q, 0, 2, 1, 3);
        let shape = [self.key.n_tokens, self.key.n_cells];
        let mask = self.shared(|inputs| &mut inputs.mask, GGML_TYPE_F16, shape);
        let y = match self.flash {
            true => self.flash([q, k, v, mask], heads.scale),
            false => self.plain([q, k, v, mask], heads.scale),
        };
        let n = self.key.n_tokens as i64;
        let (head, n_head) = (heads.head_dim as i64, heads.n_head as i64);
        let y = match values.width == heads.head_dim {
            true => y,
            false => {
                // SAFETY: nodes live as long as the context.
                let [_, nb1, nb2, _] = unsafe { (*y).nb };
                node!(self, ggml_view_3d, y, head, n_head, n, nb1, nb2, 0)
            }
        };
        let y = self.contiguous(y);
        Value(node!(self, ggml_reshape_2d, y, head * n_head, n))
    }

    fn select_outputs(&self, x: &Value) -> Value {
        let shape = [1, self.key.n_outputs];
        let outputs = self.shared(|inputs| &mut inputs.outputs, GGML_TYPE_I32, shape);
        let x = self.contiguous(x.0);
        Value(node!(self, ggml_get_rows, x, outputs))
    }

    fn observe(&self, x: &Value) {
        let copy = node!(self, ggml_cont, x.0);
        // SAFETY: just made; its memory is read after the pass.
        unsafe { ggml_set_output(copy) };
        self.expand(copy);
        self.observed
            .borrow_mut()
            .extend(Ptr::new(copy, String::new));
    }
}
