//! The panels of x86: of each group of 32 values, for `t` in 0..8, values `4 t..4 t + 4` of row `r`
//! in the `r`th i32 of 16. Multiplied with the same four values of an activation in every lane,
//! sums need never cross lanes.

use std::arch::x86_64::*;

use super::panel::{DEPTH, Micro, Tile, WIDE};
use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::decode::x86::offset;
use crate::cpu::dot::unpack::{STEPS, Scales, Unpack, unroll};
use crate::cpu::dot::wide::{Ints, Wide};

/// 16 rows' part of one group; each field as two registers of eight rows or one of sixteen. Widened,
/// a group takes two of these: the first has the first and third of each four values as i16, and
/// all the rest, the second has the second and fourth.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Group {
    /// `[step of 4 values][row][4]`.
    pub q: [[__m256i; 2]; GROUP / 4],
    /// `[row]`.
    pub scale: [__m256; 2],
    /// `[row]`.
    pub min: [__m256; 2],
    /// What [`Scales::factors`] gives: two i16 a row.
    pub factors: [__m256i; 2],
}

/// Rows of half a panel, a register of 256 bits.
pub(super) const ROWS: usize = WIDE / 2;

/// A microkernel of x86.
pub(super) trait Kernel {
    /// The registers that weights are taken apart in.
    type V: Ints;
    /// Whether signed integers are made unsigned first, by adding 128.
    const UNSIGNED: bool;
    /// Whether sums begin in 16 bits. Signed integers, and the activations they meet, are widened to
    /// i16 first then; sums of unsigned ones begin with what their offset takes away.
    const SHORT: bool = false;

    /// As [`Micro::tile`].
    ///
    /// # Safety
    /// As there.
    unsafe fn tile<B: Unpack>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize;
}

/// How many of a panel's groups one group of weights takes.
pub(super) const fn spread<B: Unpack, K: Kernel>() -> usize {
    if K::SHORT && B::CHAIN == 1 { 2 } else { 1 }
}

/// How many steps of a group's products are summed in 16 bits: as many as [`Unpack::CHAIN`] says,
/// and where sums begin with what the offset takes away all of one factor, since integers are at
/// most the offset then. A sum may leave 16 bits in between, and comes back.
pub(super) const fn chain<B: Unpack>() -> usize {
    if B::OFFSET == 0 {
        return B::CHAIN;
    }
    let steps = if B::FACTORS { STEPS / 2 } else { STEPS };
    assert!(2 * 127 * B::OFFSET as i32 * steps as i32 <= i16::MAX as i32);
    steps
}

/// Where a group's activations begin behind those of the group before, i32s: behind their integers
/// lie the beginnings of sums in 16 bits, two i16 for each chain.
pub(super) const fn words<B: Unpack, K: Kernel>() -> usize {
    if K::SHORT && B::OFFSET != 0 {
        STEPS + STEPS / chain::<B>()
    } else {
        STEPS * spread::<B, K>()
    }
}

impl<K: Kernel> Micro for K {
    type Group = Group;

    #[inline(always)]
    fn spread<B: Unpack>() -> usize {
        const { spread::<B, K>() }
    }

    #[inline(always)]
    unsafe fn activations<B: Unpack>(
        x: &Rows<'_>,
        first: usize,
        depth: usize,
        room: &mut Buffer,
    ) -> (*const i32, usize) {
        let words = const { words::<B, K>() };
        if words == STEPS {
            return (x.q[first * GROUP..].as_ptr().cast(), x.groups * STEPS);
        }
        room.reserve(x.n * depth * words);
        // SAFETY: by the trait's contract.
        unsafe {
            if const { spread::<B, K>() } == 1 {
                centre::<B>(x, first, depth, room, words);
            } else {
                widen(x, first, depth, room);
            }
        }
        (room.of::<i32>().as_ptr(), depth * words)
    }

    #[inline(always)]
    unsafe fn unpack<B: Unpack>(rows: *const u8, first: usize, depth: usize, panel: *mut Group) {
        // SAFETY: by the trait's contract.
        unsafe { unpack::<B, K>(rows, first, depth, panel) }
    }

    #[inline(always)]
    unsafe fn tile<B: Unpack>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize {
        // SAFETY: by the trait's contract.
        unsafe { <K as Kernel>::tile::<B>(panel, x, to) }
    }
}

/// Groups `first..first + depth` of all rows of activations as i16, `[n, depth, 2, 16]`: the first
/// and third of each four, then the second and fourth.
///
/// # Safety
/// AVX2; `x` has these groups.
#[inline(always)]
unsafe fn widen(x: &Rows<'_>, first: usize, depth: usize, out: &mut Buffer) {
    let (out, _) = out.of_mut::<[i16; GROUP / 2]>().as_chunks_mut();
    for n in 0..x.n {
        let (groups, _) =
            x.q[(n * x.groups + first) * GROUP..][..depth * GROUP].as_chunks::<GROUP>();
        for (group, [even, odd]) in groups.iter().zip(&mut out[n * depth..]) {
            // SAFETY: by this function's contract; each is a register's bytes.
            unsafe {
                let both = widened(<__m256i as Wide>::load(group.as_ptr().cast()));
                _mm256_storeu_si256(even.as_mut_ptr().cast(), both[0]);
                _mm256_storeu_si256(odd.as_mut_ptr().cast(), both[1]);
            }
        }
    }
}

/// Groups `first..first + depth` of all rows of activations, each with the beginnings of its sums:
/// `words` i32s, `[n, depth, words]`.
///
/// # Safety
/// AVX2; `x` has these groups.
#[inline(always)]
unsafe fn centre<B: Unpack>(
    x: &Rows<'_>,
    first: usize,
    depth: usize,
    out: &mut Buffer,
    words: usize,
) {
    let mut out = out.of_mut::<i32>().chunks_exact_mut(words);
    for n in 0..x.n {
        let (groups, _) =
            x.q[(n * x.groups + first) * GROUP..][..depth * GROUP].as_chunks::<GROUP>();
        for (group, out) in groups.iter().zip(&mut out) {
            // SAFETY: by this function's contract; there are eight words and the beginnings of one
            // or two chains.
            unsafe {
                let q = _mm256_loadu_si256(group.as_ptr().cast());
                _mm256_storeu_si256(out.as_mut_ptr().cast(), q);
                // Of the steps of each half, two i16, then of pairs of them, then of all four.
                let sums = _mm256_maddubs_epi16(_mm256_set1_epi8(B::OFFSET as i8), q);
                let sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32::<0b01_00_11_10>(sums));
                let sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
                let sums = _mm256_sub_epi16(_mm256_setzero_si256(), sums);
                let last = _mm256_extracti128_si256::<1>(sums);
                let sums = _mm256_castsi256_si128(sums);
                if const { chain::<B>() } == STEPS {
                    out[STEPS] = _mm_cvtsi128_si32(_mm_add_epi16(sums, last));
                } else {
                    out[STEPS] = _mm_cvtsi128_si32(sums);
                    out[STEPS + 1] = _mm_cvtsi128_si32(last);
                }
            }
        }
    }
}

/// The first and third of each four bytes as i16, and the second and fourth.
///
/// # Safety
/// The instruction set.
#[inline(always)]
unsafe fn widened<V: Ints>(bytes: V) -> [V; 2] {
    // SAFETY: by this function's contract.
    unsafe { [bytes.shift16(8).down16(8), bytes.down16(8)] }
}

/// Unpacks groups `first..first + depth`, whole blocks, of interleaved rows.
///
/// # Safety
/// The instruction set of `K`; the rows are that long and `panel` has room.
#[inline(always)]
unsafe fn unpack<B: Unpack, K: Kernel>(
    rows: *const u8,
    first: usize,
    depth: usize,
    panel: *mut Group,
) {
    let groups = const { B::LEN / GROUP };
    let spread = const { spread::<B, K>() };
    // SAFETY: by this function's contract; groups and their fields are aligned to 64 bytes.
    unsafe {
        let flip = K::V::splat8(if B::CHAIN == 1 && K::UNSIGNED {
            -128
        } else {
            0
        });
        for b in 0..depth / groups {
            let block = rows.add((first / groups + b) * WIDE * size_of::<B>());
            for i in 0..K::V::PARTS {
                let scales = B::Scales::<K::V>::load(block, i);
                unroll!(B::LEN / GROUP, G => {
                    let to = panel.add((b * groups + G) * spread);
                    unroll!(STEPS, T => {
                        let quad = B::unpack::<K::V>(block, i, G, T);
                        if spread == 1 {
                            put(&mut (*to).q[T], i, quad.xor(flip));
                        } else {
                            let [even, odd] = widened(quad);
                            put(&mut (*to).q[T], i, even);
                            put(&mut (*to.add(1)).q[T], i, odd);
                        }
                    });
                    let to = &mut *to;
                    put(&mut to.scale, i, scales.scale(G));
                    if B::HAS_MIN {
                        put(&mut to.min, i, scales.min(G));
                    }
                    if B::FACTORS {
                        put(&mut to.factors, i, scales.factors(G));
                    }
                });
            }
        }
    }
}

/// Writes part `i` of a group's field, which is two registers of one width or one of another.
///
/// # Safety
/// The field is aligned to the register and has that part.
#[inline(always)]
unsafe fn put<H, V>(field: &mut [H; 2], i: usize, value: V) {
    debug_assert!((i + 1) * size_of::<V>() <= size_of_val(field));
    // SAFETY: by this function's contract.
    unsafe { field.as_mut_ptr().cast::<V>().add(i).write(value) }
}

/// What the sums of a group begin with in place of 0, for rows of activations and each of a
/// panel's groups: the sum of the group's integers times `-offset`; where the format has factors,
/// that of its first half and that of its last.
pub(super) type Beginnings<const N: usize> = [[i32; DEPTH]; N];

/// The beginnings of `N` rows of activations from `n` on.
///
/// # Safety
/// AVX2; `x` has these rows and groups, `depth` is at most `DEPTH`.
#[inline(always)]
pub(super) unsafe fn beginnings<B: Unpack, K: Kernel, const N: usize>(
    x: &Rows<'_>,
    n: usize,
    first: usize,
    depth: usize,
) -> [Beginnings<N>; 2] {
    let mut begin = [[[0; DEPTH]; N]; 2];
    let less = const { -offset::<B>(K::UNSIGNED) };
    if less == 0 {
        return begin;
    }
    for c in 0..N {
        let halves = &x.halves[(n + c) * x.groups + first..][..depth];
        for (i, part) in halves.chunks(ROWS).enumerate() {
            let mut eight = [[0; 2]; ROWS];
            match part.try_into() {
                Ok(part) => eight = part,
                Err(_) => eight[..part.len()].copy_from_slice(part),
            }
            // SAFETY: by this function's contract; `DEPTH` is a multiple of eight.
            unsafe {
                let eight = _mm256_loadu_si256(eight.as_ptr().cast());
                let first = begin[0][c].as_mut_ptr().add(i * ROWS).cast();
                if B::FACTORS {
                    let less = _mm256_set1_epi32(less.into());
                    let low = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(eight));
                    let high = _mm256_srai_epi32::<16>(eight);
                    let last = begin[1][c].as_mut_ptr().add(i * ROWS).cast();
                    _mm256_storeu_si256(first, _mm256_mullo_epi32(low, less));
                    _mm256_storeu_si256(last, _mm256_mullo_epi32(high, less));
                } else {
                    let sum = _mm256_madd_epi16(eight, _mm256_set1_epi16(less));
                    _mm256_storeu_si256(first, sum);
                }
            }
        }
    }
    begin
}
