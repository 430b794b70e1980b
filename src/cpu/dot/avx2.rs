//! What the formats share on AVX2: eight rows of weights at a time, one a lane of the
//! accumulator, so that sums across a register are shared by eight rows.
//!
//! A register holds half a group of two rows, `p` in its low and `p + 4` in its high 128 bits:
//! four such pairs reduce to the eight rows in order by three horizontal adds.

use std::arch::x86_64::*;

use super::{Groups, Weights};
use crate::cpu::activation::{GROUP, Rows};

/// Rows a register of accumulators holds.
pub(in crate::cpu) const ROWS: usize = 8;

/// The most groups that [`Unpack::unpack`] gives at once.
pub(in crate::cpu) const MAX_STEP: usize = 4;

/// Half a group of two rows twice: `[[row p: 0..16 | row p + 4: 0..16], [the same: 16..32]]`.
pub(in crate::cpu) type Pair = [__m256i; 2];

/// A quantised format on AVX2.
pub(in crate::cpu) trait Unpack: Groups {
    /// What is to be subtracted from the unpacked integers; 0 where they are signed.
    const OFFSET: i16;
    /// How many sums of two products of an unpacked integer and one of -127..=127 can be added
    /// in i16. 1 means that the integers are signed; they are unsigned otherwise.
    const CHAIN: usize;
    /// Whether each 16 products have a factor of their own.
    const FACTORS: bool = false;
    /// How many groups are unpacked at once; divides the block's.
    const STEP: usize = 1;
    /// The scales of eight rows' blocks.
    type Scales: Copy;

    /// Loads the scales of eight blocks.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the blocks are readable.
    unsafe fn scales(rows: &[*const Self; ROWS]) -> Self::Scales;

    /// The eight scales of group `g`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    unsafe fn scale(scales: &Self::Scales, g: usize) -> __m256;

    /// The eight mins of group `g`, for formats that have them.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn min(_scales: &Self::Scales, _g: usize) -> __m256 {
        // SAFETY: by this function's contract.
        unsafe { _mm256_setzero_ps() }
    }

    /// For formats with factors those of group `g`: two i16 for each of the eight rows.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn factors(_scales: &Self::Scales, _g: usize) -> __m256i {
        // SAFETY: by this function's contract.
        unsafe { _mm256_setzero_si256() }
    }

    /// Unpacks groups `step * STEP..` of rows `p` and `p + 4`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the blocks are readable.
    unsafe fn unpack(low: *const Self, high: *const Self, step: usize) -> [Pair; MAX_STEP];
}

/// Decode: every row of `w` times the one row of `x`.
///
/// # Safety
/// AVX2, FMA and F16C; shapes as the table's type says; `x.n` is 1.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn decode<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    for (panel, out) in out[..w.rows].chunks_mut(ROWS).enumerate() {
        // SAFETY: by this function's contract; rows are clamped to those there are.
        unsafe {
            let rows = panel_rows::<B>(&w, panel * ROWS);
            let sums = panel_dot(&rows, w.stride, &x);
            let mut lanes = [0.0; ROWS];
            _mm256_storeu_ps(lanes.as_mut_ptr(), sums);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}

/// Rows `start..start + 8` of `w`; where it ends before, its last row again.
///
/// # Safety
/// `w.bytes` holds `w.rows` rows, at least one.
#[inline(always)]
pub(in crate::cpu) unsafe fn panel_rows<B>(w: &Weights<'_>, start: usize) -> [*const B; ROWS] {
    std::array::from_fn(|i| {
        let row = (start + i).min(w.rows - 1);
        // SAFETY: `row` is below `w.rows`.
        unsafe { w.bytes.as_ptr().add(row * w.stride).cast() }
    })
}

/// Eight rows times one row of activations.
///
/// # Safety
/// AVX2, FMA and F16C; each of `rows` is as long as `x`.
#[inline(always)]
unsafe fn panel_dot<B: Unpack>(rows: &[*const B; ROWS], stride: usize, x: &Rows<'_>) -> __m256 {
    let groups = B::LEN / GROUP;
    // SAFETY: by this function's contract: blocks below `x.groups / groups` and activations
    // below `x.groups` are read. Prefetching reads nothing.
    unsafe {
        let mut acc = _mm256_setzero_ps();
        for b in 0..x.groups / groups {
            let blocks: [*const B; ROWS] = std::array::from_fn(|i| rows[i].add(b));
            prefetch(rows[0], stride, b);
            let scales = B::scales(&blocks);
            for step in 0..groups / B::STEP {
                let at = b * groups + step * B::STEP;
                let sums = step_sums(&blocks, step, x, at);
                for (j, sums) in sums.iter().enumerate().take(B::STEP) {
                    let (g, at) = (step * B::STEP + j, at + j);
                    let halves = load_halves(x, at);
                    let mut sum = if B::FACTORS {
                        let factors = B::factors(&scales, g);
                        let first = _mm256_srai_epi32(_mm256_slli_epi32(factors, 16), 16);
                        let second = _mm256_srai_epi32(factors, 16);
                        _mm256_add_epi32(
                            _mm256_mullo_epi32(reduce(sums[0]), first),
                            _mm256_mullo_epi32(reduce(sums[1]), second),
                        )
                    } else {
                        reduce(sums[0])
                    };
                    if B::OFFSET != 0 {
                        let offset = offset::<B>(B::factors(&scales, g), halves);
                        sum = _mm256_sub_epi32(sum, offset);
                    }
                    let x_scale = _mm256_broadcast_ss(x.scale.get_unchecked(at));
                    let scale = _mm256_mul_ps(B::scale(&scales, g), x_scale);
                    acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc);
                    if B::HAS_MIN {
                        let x_sum = _mm256_broadcast_ss(x.scaled_sum.get_unchecked(at));
                        acc = _mm256_fnmadd_ps(B::min(&scales, g), x_sum, acc);
                    }
                }
            }
        }
        acc
    }
}

/// Asks for what the next eight rows need. Eight rows lie together, so their bytes are asked for
/// in one stream, as much for each block as one block takes of the eight.
///
/// # Safety
/// None needed: a prefetch may name any address.
#[inline(always)]
unsafe fn prefetch<B>(first: *const B, stride: usize, b: usize) {
    let bytes = ROWS * size_of::<B>();
    let next = first.cast::<i8>().wrapping_add(ROWS * stride + b * bytes);
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch does not read; the address may be anything.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line)) };
    }
}

/// The sums of a group's two halves, both packed as i16, in every lane.
///
/// # Safety
/// AVX2; `at` is below `x.halves.len()`.
#[inline(always)]
unsafe fn load_halves(x: &Rows<'_>, at: usize) -> __m256i {
    // SAFETY: by this function's contract; two i16 are one i32.
    unsafe { _mm256_set1_epi32(x.halves.as_ptr().add(at).cast::<i32>().read_unaligned()) }
}

/// What the unpacked integers' offset has added to the sums of a group, given its factors if it
/// has any and the sums of the activations' halves.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(in crate::cpu) unsafe fn offset<B: Unpack>(factors: __m256i, halves: __m256i) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        if B::FACTORS {
            let sum = _mm256_madd_epi16(factors, halves);
            _mm256_mullo_epi32(sum, _mm256_set1_epi32(i32::from(B::OFFSET)))
        } else {
            _mm256_madd_epi16(_mm256_set1_epi16(B::OFFSET), halves)
        }
    }
}

/// The products of `STEP` groups of eight rows, partly summed: for each group and pair four i32
/// of either row, all together in `[0]`, or apart for the two halves of the group where they have
/// factors.
///
/// # Safety
/// AVX2, FMA and F16C; blocks and groups `at..at + STEP` of `x` are readable.
#[inline(always)]
unsafe fn step_sums<B: Unpack>(
    blocks: &[*const B; ROWS],
    step: usize,
    x: &Rows<'_>,
    at: usize,
) -> [[[__m256i; 4]; 2]; MAX_STEP] {
    // SAFETY: by this function's contract.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[[_mm256_setzero_si256(); 4]; 2]; MAX_STEP];
        for p in 0..4 {
            let unpacked = B::unpack(blocks[p], blocks[p + 4], step);
            for j in 0..B::STEP {
                let q = x.q.as_ptr().add((at + j) * GROUP).cast::<__m128i>();
                let x0 = _mm256_broadcastsi128_si256(_mm_loadu_si128(q));
                let x1 = _mm256_broadcastsi128_si256(_mm_loadu_si128(q.add(1)));
                let [w0, w1] = unpacked[j];
                let (first, second) = (products::<B>(w0, x0), products::<B>(w1, x1));
                if B::FACTORS {
                    sums[j][0][p] = _mm256_madd_epi16(first, ones);
                    sums[j][1][p] = _mm256_madd_epi16(second, ones);
                } else if B::CHAIN >= 2 {
                    sums[j][0][p] = _mm256_madd_epi16(_mm256_add_epi16(first, second), ones);
                } else {
                    let first = _mm256_madd_epi16(first, ones);
                    sums[j][0][p] = _mm256_add_epi32(first, _mm256_madd_epi16(second, ones));
                }
            }
        }
        sums
    }
}

/// Sums of two products, i16. Neither overflows: `CHAIN` says so for unsigned integers, and two
/// products of signed ones are at most `2 * 128 * 127`.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(in crate::cpu) unsafe fn products<B: Unpack>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        if B::CHAIN == 1 {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        }
    }
}

/// Four pairs' sums to the sums of eight rows.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn reduce(pairs: [__m256i; 4]) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let low = _mm256_hadd_epi32(pairs[0], pairs[1]);
        let high = _mm256_hadd_epi32(pairs[2], pairs[3]);
        _mm256_hadd_epi32(low, high)
    }
}

/// Transposes 4 x 4 i32 in each half.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(in crate::cpu) unsafe fn transpose(v: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: by this function's contract.
    unsafe {
        let a = _mm256_unpacklo_epi32(v[0], v[1]);
        let b = _mm256_unpacklo_epi32(v[2], v[3]);
        let c = _mm256_unpackhi_epi32(v[0], v[1]);
        let d = _mm256_unpackhi_epi32(v[2], v[3]);
        [
            _mm256_unpacklo_epi64(a, b),
            _mm256_unpackhi_epi64(a, b),
            _mm256_unpacklo_epi64(c, d),
            _mm256_unpackhi_epi64(c, d),
        ]
    }
}

/// 16 bytes at `low` and 16 at `high`, as one register.
///
/// # Safety
/// AVX2; both are readable.
#[inline(always)]
pub(super) unsafe fn load_pair<T>(low: *const T, high: *const T) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let low = _mm_loadu_si128(low.cast());
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), _mm_loadu_si128(high.cast()))
    }
}

/// 16 bytes at each of the pointers, in pairs of `p` and `p + 4`.
///
/// # Safety
/// AVX2; all are readable.
#[inline(always)]
pub(super) unsafe fn load_pairs<T>(at: [*const T; ROWS]) -> [__m256i; 4] {
    // SAFETY: by this function's contract.
    unsafe {
        [
            load_pair(at[0], at[4]),
            load_pair(at[1], at[5]),
            load_pair(at[2], at[6]),
            load_pair(at[3], at[7]),
        ]
    }
}

/// Eight f16, one at each of the pointers, as f32.
///
/// # Safety
/// AVX2 and F16C; two bytes at each pointer are readable.
#[inline(always)]
pub(super) unsafe fn load_halfs<T>(at: [*const T; ROWS]) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let [a, b, c, d, e, f, g, h] = at.map(|p| p.cast::<i16>().read_unaligned());
        _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h))
    }
}

/// Eight neighbouring pairs of f16, one pair at each of the pointers, as f32: all firsts, all
/// seconds.
///
/// # Safety
/// AVX2 and F16C; four bytes at each pointer are readable.
#[inline(always)]
pub(super) unsafe fn load_half_pairs<T>(at: [*const T; ROWS]) -> [__m256; 2] {
    // SAFETY: by this function's contract.
    unsafe {
        let [a, b, c, d, e, f, g, h] = at.map(|p| p.cast::<i32>().read_unaligned());
        split_half_pairs(_mm256_setr_epi32(a, b, c, d, e, f, g, h))
    }
}

/// Eight pairs of f16 as f32: all firsts, all seconds.
///
/// # Safety
/// AVX2 and F16C.
#[inline(always)]
pub(super) unsafe fn split_half_pairs(pairs: __m256i) -> [__m256; 2] {
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

/// The low and the high nibbles of each byte.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: __m256i) -> Pair {
    // SAFETY: by this function's contract.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let high = _mm256_srli_epi16::<4>(bytes);
        [_mm256_and_si256(bytes, mask), _mm256_and_si256(high, mask)]
    }
}

/// Bit 4 of each value, from the 32 bits at `low` and at `high` (bit `i` for value `i`), for
/// [`Pair`]s of formats that keep the fifth bits of a group together.
///
/// # Safety
/// AVX2; four bytes at each pointer are readable.
#[inline(always)]
pub(super) unsafe fn fifth_bits(low: *const [u8; 4], high: *const [u8; 4]) -> Pair {
    // SAFETY: by this function's contract.
    unsafe {
        let low = low.cast::<i32>().read_unaligned();
        let high = high.cast::<i32>().read_unaligned();
        let bits = _mm256_set_m128i(_mm_set1_epi32(high), _mm_set1_epi32(low));
        // Byte i of a half looks at byte i / 8 of the bits (the second register two further).
        let first = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0, 0x0101_0101_0101_0101);
        let second = _mm256_add_epi8(first, _mm256_set1_epi8(2));
        let which = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let fifth = |bytes| {
            let bit = _mm256_and_si256(_mm256_shuffle_epi8(bits, bytes), which);
            let is_set = _mm256_cmpeq_epi8(bit, which);
            _mm256_and_si256(is_set, _mm256_set1_epi8(16))
        };
        [fifth(first), fifth(second)]
    }
}

/// `[a[0] | b[0], a[1] | b[1]]`.
///
/// # Safety
/// AVX2.
#[inline(always)]
pub(super) unsafe fn or(a: Pair, b: Pair) -> Pair {
    // SAFETY: by this function's contract.
    unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
}
