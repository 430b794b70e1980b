use llama_cpp_sys_2::{GGML_OP_MUL_MAT, GGML_TYPE_IQ1_S};

use super::*;
use crate::kv::{KvType, Ledger};
use crate::ops::{Heads, Ops, Row};

const HEADS: Heads = Heads {
    n_head: 2,
    head_dim: 4,
    scale: 0.5,
};
const WIDTH: usize = 8;

fn shape(keys: KvType, values: KvType) -> KvShape {
    KvShape {
        n_layer: 1,
        n_cells: 3 * kv::CELLS,
        heads: HEADS,
        keys,
        values,
    }
}

fn ggml_cpu() -> Found {
    let mut found = devices().into_iter();
    found.find(|device| device.kind() == "ggml-cpu").unwrap()
}

/// A device with a sequence that grows token by token.
struct Decoding {
    device: Ggml,
    ledger: Ledger,
    recorded: usize,
}

impl Decoding {
    fn new() -> Decoding {
        let mut device = Ggml::new(&ggml_cpu(), 1).unwrap();
        let shape = shape(KvType::F32, KvType::F32);
        device.allocate_kv(&shape).unwrap();
        Decoding {
            device,
            ledger: Ledger::new(shape.n_cells as u32, 1),
            recorded: 0,
        }
    }

    /// Feeds one token that attends with 2 in every value, as all before it did; attention, which
    /// weighs them, gives 2 back.
    fn step(&mut self) {
        let position = self.ledger.cells(0).len() as u32;
        let cell = self.ledger.append(0, 1).unwrap()[0];
        let rows = [Row {
            token: 0,
            position,
            sequence: 0,
            cell,
            wants_logits: true,
        }];
        let batch = Batch {
            rows: &rows,
            ledger: &self.ledger,
        };
        let recorded = &mut self.recorded;
        let result = self.device.run(&batch, &[2.0; WIDTH], &mut |ops| {
            *recorded += 1;
            let x = ops.hidden();
            ops.attend(0, &HEADS, &x, &x, &x)
        });
        for &value in result.unwrap() {
            assert!((value - 2.0).abs() < 1e-5, "{value}");
        }
    }

    /// Addresses of the nodes and of their memory in the graph that ran last, which is what
    /// CUDA's replay asks not to change.
    fn addresses(&self) -> Vec<(usize, usize)> {
        let graph = self.device.graphs.last().unwrap();
        // SAFETY: the graph lives and is complete.
        let nodes = unsafe { graph::operations(graph.graph) };
        // SAFETY: nodes live with their graph.
        nodes
            .map(|node| (node as usize, unsafe { (*node).data } as usize))
            .collect()
    }
}

#[test]
fn a_pass_is_recorded_once_for_each_bucket_of_cells_and_replayed_in_place() {
    let mut decoding = Decoding::new();
    decoding.step();
    let addresses = decoding.addresses();
    assert!(decoding.device.operations().unwrap() >= 4, "{addresses:?}");
    for _ in 1..kv::CELLS {
        decoding.step();
        assert_eq!(decoding.addresses(), addresses);
    }
    assert_eq!(decoding.recorded, 1);
    decoding.step();
    assert_eq!(decoding.recorded, 2);
    decoding.step();
    assert_eq!(decoding.recorded, 2);
}

#[test]
fn a_pass_that_does_not_fit_leaves_those_that_do_their_memory() {
    let mut decoding = Decoding::new();
    decoding.step();
    // More bytes than a process can address.
    let huge = PassShape {
        n_tokens: 1 << 43,
        n_outputs: 1,
        n_hidden: WIDTH,
    };
    let mut forward = |ops: &Recorder| {
        let x = ops.hidden();
        ops.attend(0, &HEADS, &x, &x, &x)
    };
    for _ in 0..2 {
        let error = decoding.device.reserve(huge, &mut forward).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("do not fit the device's memory"), "{error}");
        assert!(error.contains("failed to allocate"), "{error}");
    }
    // Of as many nodes as the one that was refused.
    decoding.step();
    assert_eq!(decoding.recorded, 2);
}

#[test]
fn an_operation_that_the_device_lacks_is_named_and_not_run() {
    let mut decoding = Decoding::new();
    let found = ggml_cpu();
    let key = Key {
        n_tokens: 1,
        n_outputs: 1,
        n_cells: kv::CELLS,
        n_hidden: WIDTH,
    };
    let graph = decoding.device.record(key, &mut |ops| {
        let x = ops.hidden();
        ops.attend(0, &HEADS, &x, &x, &x)
    });
    let graph = graph.unwrap();
    // SAFETY: the graph lives in its context, and is complete.
    let check = || unsafe { graph::check(graph.graph, found.handle) };
    check().unwrap();
    // No device multiplies f32 with integers.
    // SAFETY: the graph lives, and is not run any more; a product has two sources.
    unsafe {
        let is_product = |node: &*mut ggml_tensor| (**node).op == GGML_OP_MUL_MAT;
        let product = graph::operations(graph.graph).find(is_product).unwrap();
        (*(*product).src[1]).type_ = GGML_TYPE_I32;
    }
    let error = check().unwrap_err().to_string();
    assert!(
        error.contains("no operation MUL_MAT on f32, i32; leave the layers to the CPU"),
        "{error}"
    );
    // Nor does this one write rows of such a type to the store.
    // SAFETY: as above.
    unsafe {
        let is_save = |node: &*mut ggml_tensor| (**node).op == GGML_OP_SET_ROWS;
        let save = graph::operations(graph.graph).find(is_save).unwrap();
        (*save).type_ = GGML_TYPE_IQ1_S;
    }
    let error = check().unwrap_err().to_string();
    assert!(
        error.contains("no operation SET_ROWS on f32") && error.contains("; give --kv f16, or"),
        "{error}"
    );
}

#[test]
fn quantised_values_need_flash_attention() {
    let attends = |keys, values| {
        let mut device = Ggml::new(&ggml_cpu(), 1).unwrap();
        device.allocate_kv(&shape(keys, values)).unwrap();
        device.kv().unwrap().flash
    };
    assert!(attends(KvType::F16, KvType::F16));
    assert!(attends(KvType::Q8_0, KvType::Q8_0));
    assert!(attends(KvType::F32, KvType::Q4_0));
    assert!(!attends(KvType::F32, KvType::F32));
    assert!(!attends(KvType::Q8_0, KvType::F32));
}

#[test]
fn memory_has_a_rate() {
    let rate = ggml_cpu().memory_rate(1).unwrap();
    // Any machine's memory reads between 100 MB and 100 TB a second.
    assert!((1e8..1e14).contains(&rate), "{rate}");
}

#[test]
fn memory_that_is_not_there_is_an_error_with_numbers() {
    let mut device = Ggml::new(&ggml_cpu(), 1).unwrap();
    let huge = KvShape {
        n_layer: 1 << 12,
        n_cells: 1 << 30,
        ..shape(KvType::F16, KvType::F16)
    };
    let error = device.allocate_kv(&huge).unwrap_err().to_string();
    let found = error.contains("the KV cache of 1073741824 cells need 134217728 MiB, more than");
    assert!(
        found && error.contains("MiB are free); give a smaller --ctx"),
        "{error}"
    );
}
