//! How the formats are taken apart with AVX2, for all tables of x86: eight rows of weights at a
//! time, so that sums across a register are shared by eight rows.
//!
//! A register holds half a group of two rows, `p` in its low and `p + 4` in its high 128 bits:
//! four such pairs reduce to the eight rows in order.

use std::arch::x86_64::*;

use super::{Groups, Weights};

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

    /// The same spread over pair `p`: the factors of the group's halves in every i16, those of row
    /// `p` in the low and of row `p + 4` in the high 128 bits.
    ///
    /// # Safety
    /// AVX2; `p` is below 4.
    #[inline(always)]
    unsafe fn pair_factors(_scales: &Self::Scales, _p: usize, _g: usize) -> Pair {
        // SAFETY: by this function's contract.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    /// Unpacks groups `step * STEP..` of rows `p` and `p + 4`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; the blocks are readable.
    unsafe fn unpack(low: *const Self, high: *const Self, step: usize) -> [Pair; MAX_STEP];
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

/// Four bytes at each of the pointers. Broadcasts are loads alone, and blends run everywhere,
/// which inserting does not.
///
/// # Safety
/// AVX2; four bytes at each pointer are readable.
#[inline(always)]
unsafe fn load_words<T>(at: [*const T; ROWS]) -> __m256i {
    // SAFETY: by this function's contract.
    unsafe {
        let a = _mm256_set1_epi32(at[0].cast::<i32>().read_unaligned());
        let b = _mm256_set1_epi32(at[1].cast::<i32>().read_unaligned());
        let c = _mm256_set1_epi32(at[2].cast::<i32>().read_unaligned());
        let d = _mm256_set1_epi32(at[3].cast::<i32>().read_unaligned());
        let e = _mm256_set1_epi32(at[4].cast::<i32>().read_unaligned());
        let f = _mm256_set1_epi32(at[5].cast::<i32>().read_unaligned());
        let g = _mm256_set1_epi32(at[6].cast::<i32>().read_unaligned());
        let h = _mm256_set1_epi32(at[7].cast::<i32>().read_unaligned());
        let ab = _mm256_blend_epi32::<0b0000_0010>(a, b);
        let cd = _mm256_blend_epi32::<0b0000_1000>(c, d);
        let ef = _mm256_blend_epi32::<0b0010_0000>(e, f);
        let gh = _mm256_blend_epi32::<0b1000_0000>(g, h);
        let low = _mm256_blend_epi32::<0b0000_1100>(ab, cd);
        let high = _mm256_blend_epi32::<0b1100_0000>(ef, gh);
        _mm256_blend_epi32::<0b1111_0000>(low, high)
    }
}

/// Eight f16, the first two of the four bytes at each of the pointers, as f32.
///
/// # Safety
/// AVX2 and F16C; four bytes at each pointer are readable.
#[inline(always)]
pub(super) unsafe fn load_halfs<T>(at: [*const T; ROWS]) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe { halfs(_mm256_and_si256(load_words(at), _mm256_set1_epi32(0xffff))) }
}

/// The last two of the four bytes, likewise.
///
/// # Safety
/// As [`load_halfs`].
#[inline(always)]
pub(super) unsafe fn load_last_halfs<T>(at: [*const T; ROWS]) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe { halfs(_mm256_srli_epi32::<16>(load_words(at))) }
}

/// Eight f16, one an i32, as f32.
///
/// # Safety
/// AVX2 and F16C.
#[inline(always)]
unsafe fn halfs(words: __m256i) -> __m256 {
    // SAFETY: by this function's contract.
    unsafe {
        let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(words, words));
        _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
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
    unsafe { split_half_pairs(load_words(at)) }
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
