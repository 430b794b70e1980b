//! The panels of x86: of each group of 32 values, for `t` in 0..8, values `4 t..4 t + 4` of row `r`
//! in the `r`th i32 of 16. Multiplied with the same four values of an activation in every lane,
//! sums need never cross lanes.

use std::arch::x86_64::*;

use super::panel::{Micro, Tile, WIDE, Words};
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
    /// `[row]`: the mins, f32; or the factors of the group's first half and of its last, as i32, or
    /// as two i16 that are the same where [`Kernel::SHORT`].
    pub rest: [[__m256i; 2]; 2],
}

/// Rows of half a panel, a register of 256 bits.
pub(super) const ROWS: usize = WIDE / 2;

/// A microkernel of x86.
pub(super) trait Kernel {
    /// The registers that weights are taken apart in.
    type V: Ints;
    /// Rows of activations in its largest tile.
    const TALL: usize;
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

impl<K: Kernel> Micro for K {
    type Group = Group;
    const TALL: usize = K::TALL;

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
    ) -> Words {
        // SAFETY: by the trait's contract.
        unsafe {
            if const { spread::<B, K>() } == 2 {
                widen(x, first, depth, room)
            } else if const { offset::<B>(K::UNSIGNED) } == 0 {
                Words::of(x, first)
            } else if K::SHORT && B::FACTORS {
                let begin = x.centre[first..].as_ptr().cast();
                let begin_stride = x.groups * 2;
                Words {
                    begin,
                    begin_stride,
                    ..Words::of(x, first)
                }
            } else if K::SHORT {
                centre::<B>(x, first, depth, room)
            } else {
                begin::<B, K>(x, first, depth, room)
            }
        }
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
unsafe fn widen(x: &Rows<'_>, first: usize, depth: usize, room: &mut Buffer) -> Words {
    room.reserve(x.n * depth * GROUP / 2);
    let (out, _) = room.of_mut::<[i16; GROUP / 2]>().as_chunks_mut();
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
    Words {
        q: room.of::<i32>().as_ptr(),
        q_stride: depth * GROUP / 2,
        ..Words::of(x, first)
    }
}

/// The activations as they are, and what sums in 16 bits begin with, `[n, groups]`, of which each
/// row's first `depth` are written: two i16, the sums of the first two of each of a group's fours
/// and of the last two, times `-offset`.
///
/// # Safety
/// AVX2; `x` has these groups.
#[inline(always)]
unsafe fn centre<B: Unpack>(x: &Rows<'_>, first: usize, depth: usize, room: &mut Buffer) -> Words {
    // The last four groups may be fewer; the next row then writes over what is behind them.
    room.reserve(x.n * x.groups + 4);
    for n in 0..x.n {
        let out = &mut room.of_mut::<i32>()[n * x.groups..];
        let row = &x.q[(n * x.groups + first) * GROUP..][..depth * GROUP];
        for (fours, out) in out.chunks_exact_mut(4).take(depth.div_ceil(4)).enumerate() {
            // SAFETY: by this function's contract; the last group stands for those behind it.
            unsafe {
                let by = _mm256_set1_epi8(B::OFFSET as i8);
                let mut sums = [_mm256_setzero_si256(); 4];
                for i in 0..4 {
                    let group = (fours * 4 + i).min(depth - 1);
                    let q = _mm256_loadu_si256(row.as_ptr().add(group * GROUP).cast());
                    sums[i] = _mm256_maddubs_epi16(by, q);
                }
                // The four i32 of each half of each register, added as pairs of i16: those of the
                // first halves of the four groups, then of the last.
                let [a, b, c, d] = sums;
                let ab = _mm256_add_epi16(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
                let cd = _mm256_add_epi16(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
                let sums =
                    _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
                let sums = _mm256_sub_epi16(_mm256_setzero_si256(), sums);
                let (halves, last) = (
                    _mm256_castsi256_si128(sums),
                    _mm256_extracti128_si256::<1>(sums),
                );
                _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_add_epi16(halves, last));
            }
        }
    }
    Words {
        begin: room.of::<i32>().as_ptr(),
        begin_stride: x.groups,
        ..Words::of(x, first)
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
                        put(&mut to.rest[0], i, scales.min(G));
                    }
                    if B::FACTORS {
                        let word = scales.factors(G);
                        for half in 0..2 {
                            let at = G % 2 * 2 + half;
                            let factor = if K::SHORT {
                                word.both16(at)
                            } else {
                                word.signed_byte(at)
                            };
                            put(&mut to.rest[half], i, factor);
                        }
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

impl Words {
    /// What the first row's sums of group `g` begin with: see [`begin`].
    #[inline(always)]
    pub(super) fn begin_of<B: Unpack>(self, g: usize) -> *const i32 {
        self.begin.wrapping_add(if B::FACTORS { 2 * g } else { g })
    }
}

/// The activations as they are, and what sums begin with, `[n, groups, chains]` likewise: the sum of
/// a group's integers times `-offset`; where the format has factors, that of its first half and that
/// of its last.
///
/// # Safety
/// AVX2; `x` has these groups.
#[inline(always)]
unsafe fn begin<B: Unpack, K: Kernel>(
    x: &Rows<'_>,
    first: usize,
    depth: usize,
    room: &mut Buffer,
) -> Words {
    let chains = if B::FACTORS { 2 } else { 1 };
    let begin_stride = x.groups * chains;
    // As in `centre`.
    room.reserve(x.n * begin_stride + ROWS);
    for n in 0..x.n {
        let row = n * x.groups + first..n * x.groups + first + depth;
        // Two numbers whose sum it is, and by what.
        let (pairs, by) = if B::FACTORS {
            (x.centre[row].as_flattened(), 1)
        } else {
            (&x.halves[row], const { -offset::<B>(K::UNSIGNED) })
        };
        let out = &mut room.of_mut::<i32>()[n * begin_stride..];
        for (part, out) in pairs.chunks(ROWS).zip(out.chunks_exact_mut(ROWS)) {
            let mut some = [[0; 2]; ROWS];
            some[..part.len()].copy_from_slice(part);
            // SAFETY: by this function's contract.
            unsafe {
                let pairs = _mm256_loadu_si256(some.as_ptr().cast());
                let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(by));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), sums);
            }
        }
    }
    Words {
        begin: room.of::<i32>().as_ptr(),
        begin_stride,
        ..Words::of(x, first)
    }
}
