//! Quantising with more than the architecture's least processor has.
//!
//! Most formats are the same code compiled again: it is written so that the compiler works on
//! several values at once, and inlined here under wider instruction sets. What the compiler does
//! not see by itself is written out in `x86`. Rust contracts no products and sums, and nothing
//! here changes the order of a sum: every set gives the bits that the plain build gives. ARM
//! needs none of this, where every processor has NEON.

#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::Block;

/// Quantises whole blocks with the best that the processor has: `src` holds `B::LEN` values for
/// each block of `dst`.
pub(super) fn quantize<B: Block>(src: &[f32], dst: &mut [B]) {
    Level::best().quantize(src, dst);
}

/// The values of `halves`, which are binary16 numbers, little-endian; a NaN keeps its payload and
/// may become quiet.
///
/// # Panics
/// Where `out` has not as many values as there are halves.
pub fn f16_to_f32(halves: &[[u8; 2]], out: &mut [f32]) {
    assert_eq!(halves.len(), out.len(), "values for halves");
    Level::best().f16_to_f32(halves, out);
}

/// Whether every value's magnitude is at most `limit`; a NaN's is not.
pub fn all_within(values: &[f32], limit: f32) -> bool {
    Level::best().all_within(values, limit)
}

/// A set of instructions that this processor has: the only ways to one are [`Level::best`] and
/// [`Level::available`], which ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// What every processor of the architecture has.
    Plain,
    /// With F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// F, BW, DQ and VL, beside what [`Set::Avx2`] has.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Set {
    /// All of them, worst first.
    const ALL: &[Set] = &[
        Set::Plain,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512,
    ];

    /// Whether the processor has it; the standard library asks once and remembers.
    fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        use std::arch::is_x86_feature_detected as has;
        match self {
            Set::Plain => true,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => has!("avx2") && has!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => {
                Set::Avx2.is_here()
                    && has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512dq")
                    && has!("avx512vl")
            }
        }
    }
}

impl Level {
    /// Those that the processor has, worst first.
    fn available() -> impl DoubleEndedIterator<Item = Level> {
        let here = Set::ALL.iter().filter(|set| set.is_here());
        here.map(|&set| Level(set))
    }

    /// The best that the processor has.
    fn best() -> Level {
        Level::available().next_back().unwrap_or(Level(Set::Plain))
    }

    fn quantize<B: Block>(self, src: &[f32], dst: &mut [B]) {
        match self.0 {
            Set::Plain => B::quantize_all(src, dst),
            // SAFETY: a `Level` is made only where `Set::is_here` found the features that the
            // function enables.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { x86::quantize_avx2(src, dst) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { x86::quantize_avx512(src, dst) },
        }
    }

    fn f16_to_f32(self, halves: &[[u8; 2]], out: &mut [f32]) {
        match self.0 {
            Set::Plain => {
                for (out, &half) in out.iter_mut().zip(halves) {
                    *out = half::f16::from_le_bytes(half).to_f32();
                }
            }
            // SAFETY: as in `quantize`; both sets have F16C.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 | Set::Avx512 => unsafe { x86::f16_to_f32(halves, out) },
        }
    }

    fn all_within(self, values: &[f32], limit: f32) -> bool {
        match self.0 {
            Set::Plain => all_within_any(values, limit),
            // SAFETY: as in `quantize`; both sets have AVX2.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 | Set::Avx512 => unsafe { x86::all_within(values, limit) },
        }
    }
}

/// [`all_within`], compiled for what the caller is.
#[inline(always)]
fn all_within_any(values: &[f32], limit: f32) -> bool {
    // No early exit, so that this becomes vector code.
    let mut is_good = true;
    for x in values {
        is_good &= x.abs() <= limit;
    }
    is_good
}
