//! Every block format held against ggml itself, at length; writes the fixtures too.
//!
//! Needs the feature `ggml`. The reference is ggml's plain C code, built for x86-64 without
//! fused multiply-add.
#![cfg(feature = "ggml")]

mod support;

use std::fmt::Write as _;

use katari_gguf::Format;
use llama_cpp_sys_2 as ggml;
use support::{
    Kind, Random, bits, bytes, dequantize, fixture, hash, hash_values, quantize, values,
};

/// ggml's bytes of `x`: `ggml_quantize_chunk` without an importance matrix.
fn reference_quantize(format: Format, x: &[f32]) -> Vec<u8> {
    let bytes = format.bytes(x.len() as u64).expect("whole blocks") as usize;
    let mut out = vec![0u8; bytes];
    let row = x.len() as i64;
    // SAFETY: `x` holds one row of `row` values, a multiple of the block; `out` the bytes that
    // ggml's row of them takes, which it returns; no importance matrix is allowed for these.
    let written = unsafe {
        ggml::ggml_quantize_chunk(
            format.id() as ggml::ggml_type,
            x.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            1,
            row,
            std::ptr::null(),
        )
    };
    assert_eq!(written, bytes, "{format}: bytes of {row} values");
    out
}

/// ggml's values of `blocks`: the type's `to_float`.
fn reference_dequantize(format: Format, blocks: &[u8]) -> Vec<f32> {
    let n = blocks.len() / format.block_bytes() * format.block_len();
    let mut out = vec![0.0f32; n];
    // SAFETY: the type is one that ggml has.
    let traits = unsafe { &*ggml::ggml_get_type_traits(format.id() as ggml::ggml_type) };
    match traits.to_float {
        // SAFETY: `blocks` are the whole blocks of `n` values, and `out` holds `n`.
        Some(to_float) => unsafe { to_float(blocks.as_ptr().cast(), out.as_mut_ptr(), n as i64) },
        None => {
            assert_eq!(format, Format::F32);
            out.copy_from_slice(bytemuck::cast_slice(blocks));
        }
    }
    out
}

/// Compares blocks and values of `x`, and says which block differs first.
fn compare(format: Format, x: &[f32], what: &str) {
    let (ours, theirs) = (quantize(format, x), reference_quantize(format, x));
    let size = format.block_bytes();
    for (i, (a, b)) in ours.chunks(size).zip(theirs.chunks(size)).enumerate() {
        let x = &x[i * format.block_len()..][..format.block_len()];
        assert_eq!(a, b, "{format}, {what}: block {i} of {x:?}");
    }
    compare_values(format, &theirs, what);
}

fn compare_values(format: Format, blocks: &[u8], what: &str) {
    let (ours, theirs) = (
        dequantize(format, blocks),
        reference_dequantize(format, blocks),
    );
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(
            bits(*a),
            bits(*b),
            "{format}, {what}: value {i}, {a} or {b}"
        );
    }
}

/// Super-blocks of each kind that are compared; `KATARI_BLOCKS` takes another number.
fn rounds() -> usize {
    let wish = std::env::var("KATARI_BLOCKS").ok();
    wish.and_then(|n| n.parse().ok()).unwrap_or(1000)
}

#[test]
fn blocks_and_values_are_ggmls() {
    for &format in Format::ALL {
        for &kind in Kind::ALL {
            let mut random = Random(format.id().into());
            let mut x = vec![0.0; 256 * 100];
            for _ in 0..rounds().div_ceil(100) {
                x.chunks_mut(256).for_each(|x| kind.fill(&mut random, x));
                compare(format, &x, &format!("{kind:?}"));
            }
        }
    }
}

#[test]
fn any_bits_as_values_are_quantized_as_ggml_does() {
    for &format in Format::ALL {
        for seed in 0..rounds() as u64 / 10 {
            // Numbers of every exponent, infinities and NaNs among them.
            let any = bytes(seed, 256 * 4 * 4);
            let any: Vec<f32> = any
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .map(|x| f32::from_bits(bits(x)))
                .collect();
            compare(format, &any, "any bits");
        }
    }
}

#[test]
fn what_is_not_finite_among_weights_is_quantized_as_ggml_does() {
    for &format in Format::ALL {
        let mut random = Random(7);
        for special in [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            f32::MIN,
        ] {
            for n in [1, 2, 16, 256] {
                let mut x = vec![0.0; 256];
                Kind::Normal.fill(&mut random, &mut x);
                for _ in 0..n {
                    x[random.below(256) as usize] = special;
                }
                compare(format, &x, &format!("{n} times {special}"));
            }
            compare(format, &[special; 256], &format!("{special} all over"));
        }
    }
}

#[test]
fn any_blocks_have_ggmls_values() {
    for &format in Format::ALL {
        for seed in 0..rounds() as u64 / 10 {
            let blocks = bytes(seed, format.block_bytes() * 64);
            compare_values(format, &blocks, "random blocks");
        }
    }
}

/// Writes the fixtures that the default tests read:
/// `cargo test -p katari-gguf --features ggml --test ggml -- --ignored fixtures`.
#[test]
#[ignore = "writes tests/fixtures/blocks"]
fn fixtures() {
    let x = values(fixture::SEED, fixture::HASHED);
    let mut hashes = String::from(
        "# format, hash of ggml's blocks, of their values, of random blocks' values\n",
    );
    std::fs::create_dir_all(fixture::folder()).expect("the folder");
    for &format in Format::ALL {
        let blocks = reference_quantize(format, &x);
        let random = bytes(fixture::SEED, fixture::RANDOM_BLOCKS * format.block_bytes());
        writeln!(
            hashes,
            "{format} {:016x} {:016x} {:016x}",
            hash(blocks.iter().copied()),
            hash_values(&reference_dequantize(format, &blocks)),
            hash_values(&reference_dequantize(format, &random)),
        )
        .expect("a string takes it");
        if format != Format::F32 {
            let kept = format.bytes(fixture::KEPT as u64).expect("whole blocks") as usize;
            let path = fixture::folder().join(format!("{format}.bin"));
            std::fs::write(path, &blocks[..kept]).expect("the file");
        }
    }
    std::fs::write(fixture::folder().join("hashes.txt"), hashes).expect("the file");
}
