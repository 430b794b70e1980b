//! How the formats are taken apart with AVX2, for all tables of x86: half a panel of weights, as
//! [`pack`](super::pack) lays them, at a time; a row is an i32 of a register.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use super::{Groups, pack};
use crate::cpu::activation::GROUP;

/// Rows of a register.
pub(in crate::cpu) const ROWS: usize = 8;

/// The integers of a group of eight rows: register `t` holds values `4 t..4 t + 4` of row `r` in
/// its `r`th i32.
pub(in crate::cpu) type Quads = [__m256i; GROUP / 4];

/// The scales of half a panel's blocks.
pub(in crate::cpu) trait Scales: Copy {
    /// Loads those of half `i`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the blocks are readable, `i` is below 2.
    unsafe fn load(block: *const u8, i: usize) -> Self;

    /// The eight scales of group `G`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    unsafe fn scale<const G: usize>(&self) -> __m256;

    /// The eight mins of group `G`, for formats that have them.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn min<const G: usize>(&self) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe { _mm256_setzero_ps() }
    }

    /// For formats with factors those of group `G`: two i16 for each of the eight rows.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn factors<const G: usize>(&self) -> __m256i {
        // SAFETY: by this function's contract.
        unsafe { _mm256_setzero_si256() }
    }
}

/// A quantised format on AVX2. `block` points to the blocks of a panel, of whose rows half `i` are
/// taken.
pub(in crate::cpu) trait Unpack: Groups {
    /// What is to be subtracted from the unpacked integers; 0 where they are signed.
    const OFFSET: i16;
    /// How many sums of two products of an unpacked integer and one of -127..=127 can be added
    /// in i16. 1 means that the integers are signed; they are unsigned otherwise.
    const CHAIN: usize;
    /// Whether each 16 products have a factor of their own.
    const FACTORS: bool = false;
    /// The scales of half a panel's blocks.
    type Scales: Scales;

    /// Unpacks group `G`.
    ///
    /// # Safety
    /// AVX2; the blocks are readable, `i` is below 2.
    unsafe fn unpack<const G: usize>(block: *const u8, i: usize) -> Quads;
}

/// Blocks that begin with a scale.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Scale(__m256);

impl Scales for Scale {
    #[inline(always)]
    unsafe fn load(block: *const u8, i: usize) -> Scale {
        // SAFETY: by the trait's contract.
        unsafe { Scale(halfs(block, i)) }
    }

    #[inline(always)]
    unsafe fn scale<const G: usize>(&self) -> __m256 {
        self.0
    }
}

/// Blocks that begin with a scale and the least value.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct ScaleAndLeast {
    scale: __m256,
    min: __m256,
}

impl Scales for ScaleAndLeast {
    #[inline(always)]
    unsafe fn load(block: *const u8, i: usize) -> ScaleAndLeast {
        // SAFETY: by the trait's contract.
        unsafe {
            let [scale, least] = half_pairs(word(block, i, 0));
            // The format adds its least value.
            let min = _mm256_xor_ps(least, _mm256_set1_ps(-0.0));
            ScaleAndLeast { scale, min }
        }
    }

    #[inline(always)]
    unsafe fn scale<const G: usize>(&self) -> __m256 {
        self.scale
    }

    #[inline(always)]
    unsafe fn min<const G: usize>(&self) -> __m256 {
        self.min
    }
}

/// Runs `$body` with `G` as a constant for each group of a block of `$len` values.
macro_rules! each_group {
    ($len:expr, $G:ident => $body:expr) => {{
        macro_rules! group {
            ($g:literal) => {{
                const $G: usize = $g;
                $body
            }};
        }
        group!(0);
        if $len > 32 {
            group!(1);
            group!(2);
            group!(3);
            group!(4);
            group!(5);
            group!(6);
            group!(7);
        }
    }};
}
pub(in crate::cpu) use each_group;

/// Word `t` of the rows of half `i`, of words that begin at `words`.
///
/// # Safety
/// AVX2; they are readable, `i` is below 2.
#[inline(always)]
pub(super) unsafe fn word(words: *const u8, i: usize, t: usize) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe { _mm256_loadu_si256(words.add(t * 4 * pack::ROWS + i * 4 * ROWS).cast()) }
}

/// The f16s of the rows of half `i`, as f32.
///
/// # Safety
/// AVX2 and F16C; they are readable, `i` is below 2.
#[inline(always)]
pub(super) unsafe fn halfs(at: *const u8, i: usize) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.add(i * 2 * ROWS).cast())) }
}

/// Where a field begins that has `bytes` bytes of a block before it.
#[inline(always)]
pub(super) fn field(block: *const u8, bytes: usize) -> *const u8 {
    block.wrapping_add(bytes * pack::ROWS)
}

/// Eight pairs of f16 as f32: all firsts, all seconds.
///
/// # Safety
/// AVX2 and F16C.
#[inline(always)]
pub(super) unsafe fn half_pairs(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: by this function's contract.
    unsafe {
        let first = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
        let second = _mm256_srli_epi32::<16>(pairs);
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(first, second));
        [
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed)),
            _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed)),
        ]
    }
}

/// The low nibbles of each byte, or the high ones.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: __m256i, high: bool) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let shifted = if high {
            _mm256_srli_epi16::<4>(bytes)
        } else {
            bytes
        };
        _mm256_and_si256(shifted, _mm256_set1_epi8(15))
    }
}

/// Groups of 32 whose first 16 values are the low nibbles of 16 bytes and whose last the high.
///
/// # Safety
/// AVX2; four words are readable.
#[inline(always)]
pub(super) unsafe fn split_nibbles(words: *const u8, i: usize) -> Quads {
    // SAFETY: by this function's contract.
    unsafe {
        let mut quads = [_mm256_setzero_si256(); GROUP / 4];
        for t in 0..4 {
            quads[t] = nibbles(word(words, i, t), false);
            quads[t + 4] = nibbles(word(words, i, t), true);
        }
        quads
    }
}

/// Adds 16 to the values whose bit is set, value `i`'s being bit `i` of its row's i32.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn add_fifth_bits(quads: &mut Quads, bits: __m256i) {
    // SAFETY: by this function's contract.
    unsafe {
        let sixteen = _mm256_set1_epi8(16);
        for (t, quad) in quads.iter_mut().enumerate() {
            // Each byte of an i32 becomes its byte t / 2, and looks at one bit of four there.
            let byte = t as i32 / 2 * 0x0101_0101;
            let bytes = _mm256_set_epi32(
                0x0c0c_0c0c + byte,
                0x0808_0808 + byte,
                0x0404_0404 + byte,
                byte,
                0x0c0c_0c0c + byte,
                0x0808_0808 + byte,
                0x0404_0404 + byte,
                byte,
            );
            let which = if t % 2 == 0 {
                0x0804_0201
            } else {
                0x8040_2010_u32
            };
            let which = _mm256_set1_epi32(which as i32);
            let bit = _mm256_and_si256(_mm256_shuffle_epi8(bits, bytes), which);
            let is_set = _mm256_cmpeq_epi8(bit, which);
            *quad = _mm256_or_si256(*quad, _mm256_and_si256(is_set, sixteen));
        }
    }
}
