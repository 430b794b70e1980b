//! Every instruction set's lanes against the plain arrays, to the bit.

use super::*;
use crate::cpu::Isa;

/// What one type makes of the same bytes.
///
/// # Safety
/// The instruction set of `L`.
#[inline(always)]
unsafe fn everything<L: Lanes>(bytes: &[u8; 64], others: &[f32; 64]) -> Vec<u32> {
    let mut out = vec![];
    // SAFETY: by this function's contract; 64 bytes are 16 f32, and more than all else reads.
    unsafe {
        let [a, b, c, d] = [0, 16, 32, 48].map(|i| L::load(others[i..].as_ptr()));
        // A NaN's payload is nobody's concern.
        let bits = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
        let mut keep = |x: L| {
            let mut lanes = [0.0f32; LANES];
            x.store(lanes.as_mut_ptr());
            out.extend(lanes.map(bits));
        };
        keep(L::load(bytes.as_ptr().cast()));
        keep(L::load_f16(bytes.as_ptr()));
        for block in [
            L::load_q8_0(bytes.as_ptr().cast()),
            L::load_q4_0(bytes[1..].as_ptr().cast()),
        ] {
            block.into_iter().for_each(&mut keep);
        }
        keep(L::splat(1.5));
        keep(a.fma(b, c));
        out.extend(L::trees([a, b, c, d]).map(bits));
        let mut halfs = [0u8; 32];
        L::load(bytes.as_ptr().cast()).store_f16(halfs.as_mut_ptr());
        out.extend(halfs.map(u32::from));
        for (x, divisor) in [(a, 6.5), (b, f32::INFINITY), (c, -0.75)] {
            let mut q = [0i8; LANES];
            out.extend(x.store_i8(divisor, q.as_mut_ptr()).map(|sum| sum as u32));
            out.extend(q.map(|q| q as u32));
            out.push(bits(x.largest(d)));
        }
    }
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn on_avx2(bytes: &[u8; 64], others: &[f32; 64]) -> Vec<u32> {
    // SAFETY: by this function's contract.
    unsafe { everything::<avx2::Avx2>(bytes, others) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn on_avx512(bytes: &[u8; 64], others: &[f32; 64]) -> Vec<u32> {
    // SAFETY: by this function's contract.
    unsafe { everything::<avx512::Avx512>(bytes, others) }
}

proptest::proptest! {
    #[test]
    fn all_give_the_same_bits(
        bytes: [[u8; 32]; 2],
        floats in proptest::collection::vec(-1e3f32..1e3, 64),
        special in 0usize..16,
    ) {
        let mut bytes: [u8; 64] = bytemuck::cast(bytes);
        // Numbers that are seldom drawn, as f32 and as f16.
        let rare = [f32::NAN, -f32::NAN, f32::INFINITY, -0.0, 65519.0, 65520.0, 6e-8, 2.98e-8];
        bytes[..4].copy_from_slice(&rare[special % 8].to_le_bytes());
        let rare = [0x7c00u16, 0xfc00, 0x7e01, 0x8000, 0x0001, 0x83ff, 0x7bff, 0x0400];
        bytes[4..6].copy_from_slice(&rare[special % 8].to_le_bytes());
        let mut floats: [f32; 64] = floats.try_into().unwrap();
        // A tie; what is not a number, in any lane.
        floats[16 + special] = [f32::INFINITY, f32::NAN][special % 2];
        floats[special] = 3.25;
        // SAFETY: plain arrays need no instruction set.
        let expected = unsafe { everything::<Scalar>(&bytes, &floats) };
        for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
            let found = match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: it is available.
                Isa::Avx2 => unsafe { on_avx2(&bytes, &floats) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: it is available, and this is part of it.
                Isa::Avx512Vnni => unsafe { on_avx512(&bytes, &floats) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: it is available.
                Isa::Neon => unsafe { everything::<neon::Neon>(&bytes, &floats) },
                _ => continue,
            };
            proptest::prop_assert_eq!(&expected, &found, "{}", isa);
        }
    }
}
