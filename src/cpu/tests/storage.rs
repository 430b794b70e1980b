//! The KV cache's storage, and what is refused.

use std::sync::Arc;

use katari_gguf::Format;

use super::attention::kv_tolerance;
use super::{Random, cpu, shape};
use crate::cpu::*;
use crate::kv::{KvType, Ledger};
use crate::ops::{Heads, RopePairs, Row};

/// The format whose blocks a KV type stores.
fn block_format(kv: KvType) -> Format {
    kv.name().parse().unwrap()
}

#[test]
fn cells_are_copied_saved_and_turned() {
    for &kv in KvType::ALL {
        let heads = Heads {
            n_head: 2,
            head_dim: 80,
            scale: 0.1,
        };
        let mut cpu = Cpu::new(1, None).unwrap();
        assert!(cpu.export(&[0]).is_err(), "nothing is allocated yet");
        cpu.allocate_kv(&shape(kv, kv, heads)).unwrap();
        let n = cpu.export(&[0]).unwrap().len();
        assert_eq!(n as u64 * 600, shape(kv, kv, heads).bytes());

        // Stored bytes that mean something: those of the types' own blocks.
        let mut bytes = Vec::new();
        for seed in 0..3 {
            let format = block_format(kv);
            for _ in 0..4 {
                let width = 80usize.next_multiple_of(format.block_len());
                let mut head = vec![0; format.bytes(width as u64).unwrap() as usize];
                let mut values = Random(seed).normals(width, 1.0);
                values[80..].fill(0.0);
                format.quantize(&values, &mut head);
                bytes.extend(head);
            }
        }
        cpu.import(&[5, 1, 9], &bytes).unwrap();
        assert_eq!(cpu.export(&[5, 1, 9]).unwrap(), bytes);
        for (cells, bytes) in [
            (&[5u32, 1][..], &bytes[..]),
            (&[5, 1, 9], &bytes[..bytes.len() - 1]),
            (&[5, 1, 9], &[]),
            (&[5, 1, 600], &bytes),
            (&[u32::MAX, 1, 2], &bytes),
        ] {
            assert!(
                cpu.import(cells, bytes).is_err(),
                "{cells:?}, {} bytes",
                bytes.len()
            );
        }
        assert!(cpu.export(&[600]).is_err());
        assert!(cpu.copy_cells(&[(0, 600)]).is_err());
        assert_eq!(
            cpu.export(&[5, 1, 9]).unwrap(),
            bytes,
            "what is refused changes nothing"
        );

        cpu.copy_cells(&[(5, 20), (20, 21), (1, 5)]).unwrap();
        assert_eq!(cpu.export(&[20]).unwrap(), cpu.export(&[21]).unwrap());
        assert_eq!(cpu.export(&[5]).unwrap(), cpu.export(&[1]).unwrap());

        // A turn by 3 and one back: keys are as before but for rounding, values untouched.
        let rope = Rope {
            pairs: RopePairs::Halves,
            dims: 40,
            base: 10000.0,
            scale: 1.0,
        };
        let keys = |cpu: &Cpu| {
            let store = cpu.ops.kv.borrow();
            let keys = store.as_ref().unwrap().layer(0).unwrap().keys;
            let mut head = vec![0.0; keys.head_width()];
            block_format(kv).dequantize(keys.heads(1, 9, 1).bytes, &mut head);
            head
        };
        let (before, exported) = (keys(&cpu), cpu.export(&[9]).unwrap());
        cpu.shift_keys(&[9], 3, &rope).unwrap();
        let turned = keys(&cpu);
        // Pair 0 turns by 3 radians.
        let expected = before[0] * 3f32.cos() - before[20] * 3f32.sin();
        assert!(
            (turned[0] - expected).abs() < kv_tolerance(kv),
            "{kv}: {} {expected}",
            turned[0]
        );
        let whole_blocks = 40usize.next_multiple_of(kv.block_len());
        assert_eq!(turned[whole_blocks..], before[whole_blocks..]);
        cpu.shift_keys(&[9], -3, &rope).unwrap();
        for (a, b) in keys(&cpu).iter().zip(&before) {
            assert!((a - b).abs() < kv_tolerance(kv), "{kv}: {a} {b}");
        }
        let half = exported.len() / 2;
        assert_eq!(cpu.export(&[9]).unwrap()[half..], exported[half..]);
        assert!(cpu.shift_keys(&[600], 1, &rope).is_err());
    }
}

#[test]
fn bad_requests_are_refused() {
    assert!(Cpu::new(0, None).is_err());
    assert_eq!("avx2".parse(), Ok(Isa::Avx2));
    let message = "sse9".parse::<Isa>().unwrap_err().to_string();
    assert!(
        message.contains("sse9") && message.contains("scalar"),
        "{message}"
    );

    let mut cpu = cpu(1, Isa::Scalar, (KvType::F16, KvType::F16));
    let mut ledger = Ledger::new(600, 1);
    ledger.append(0, 2).unwrap();
    let row = |position, cell| Row {
        token: 0,
        position,
        sequence: 0,
        cell,
        wants_logits: true,
    };
    // A cell that is not the position's, one that does not exist, and no rows at all.
    for rows in [&[row(1, 0)][..], &[row(7, 1)], &[row(0, 600)], &[]] {
        let batch = Batch {
            rows,
            ledger: &ledger,
        };
        let result = cpu.run(&batch, &[], &mut |_| unreachable!());
        assert!(result.is_err(), "{rows:?}");
    }
    let batch = Batch {
        rows: &[row(0, 0), row(1, 1)],
        ledger: &ledger,
    };
    assert!(cpu.run(&batch, &[0.0; 3], &mut |_| unreachable!()).is_err());

    let file: crate::ops::Mapping = Arc::new(vec![0u8; 36]);
    let view = |cols, rows, start, len| TensorView {
        name: "blk.0.test",
        cols,
        rows,
        format: Format::Q4_0,
        file: &file,
        start,
        len,
    };
    assert!(cpu.upload(view(32, 2, 0, 36)).is_ok());
    for (cols, rows, start, len) in [
        (33, 1, 0, 18),
        (32, 2, 0, 35),
        (32, 2, 1, 36),
        (64, 2, 0, 36),
        (32, 2, usize::MAX, 36),
    ] {
        let message = cpu
            .upload(view(cols, rows, start, len))
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains("blk.0.test"), "{message}");
    }
}

/// No address space holds it, so it is refused wherever this runs.
#[test]
fn a_cache_that_is_too_large_is_refused() {
    let mut cpu = Cpu::new(1, None).unwrap();
    for n_cells in [i32::MAX as usize, usize::MAX / 2, usize::MAX] {
        let heads = Heads {
            n_head: 64,
            head_dim: 256,
            scale: 0.1,
        };
        let shape = KvShape {
            n_layer: 64,
            n_cells,
            ..shape(KvType::F32, KvType::F32, heads)
        };
        let message = cpu.allocate_kv(&shape).unwrap_err().to_string();
        let bytes = shape.bytes().to_string();
        assert!(
            message.contains("--ctx") && message.contains(&bytes),
            "{message}"
        );
    }
    assert!(cpu.export(&[0]).is_err(), "nothing was allocated");
}
