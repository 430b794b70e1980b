//! Keys and values on their way into the store.

use katari_gguf::block::{Block, BlockQ4_0, BlockQ8_0, Half};

use crate::cpu::lanes::{LANES, Lanes};
use crate::kv::KvType;

/// Packs one head's values; where they end within a block, the rest of it counts as 0.
#[inline(always)]
pub(in crate::cpu) fn pack<L: Lanes>(kind: KvType, x: &[f32], out: &mut [u8]) {
    assert!(out.len() == kind.head_bytes(x.len()));
    match kind {
        KvType::F32 => {
            for (out, x) in out.chunks_exact_mut(4).zip(x) {
                out.copy_from_slice(&x.to_le_bytes());
            }
        }
        KvType::F16 => {
            let (whole, rest) = x.as_chunks::<LANES>();
            let (to, to_rest) = out.split_at_mut(2 * (x.len() - rest.len()));
            for (to, x) in to.chunks_exact_mut(2 * LANES).zip(whole) {
                // SAFETY: `L` belongs to a table that was given out for this processor; both
                // are 16 elements.
                unsafe { L::load(x.as_ptr()).store_f16(to.as_mut_ptr()) };
            }
            for (to, &x) in to_rest.chunks_exact_mut(2).zip(rest) {
                to.copy_from_slice(&Half::new(x).0);
            }
        }
        KvType::Q8_0 => blocks::<BlockQ8_0>(x, out),
        KvType::Q4_0 => blocks::<BlockQ4_0>(x, out),
    }
}

#[inline(always)]
fn blocks<B: Block>(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.chunks(32).zip(out.chunks_exact_mut(size_of::<B>())) {
        let block = match <&[f32; 32]>::try_from(x) {
            Ok(x) => B::quantize(x),
            Err(_) => {
                let mut padded = [0.0; 32];
                padded[..x.len()].copy_from_slice(x);
                B::quantize(&padded)
            }
        };
        out.copy_from_slice(bytemuck::bytes_of(&block));
    }
}
