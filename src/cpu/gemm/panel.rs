//! What the microkernels of x86 share: panels and how they are gone through.
//!
//! A panel is 16 rows of weights. Of each group of 32 values it holds, for `t` in 0..8, values
//! `4 t..4 t + 4` of row `r` in the `r`th i32 of 16. Multiplied with the same four values of an
//! activation in every lane, sums need never cross lanes. Panels are cut along their length to
//! stay in the first-level cache; a tile's f32 accumulators lie in the output in between.

use std::arch::x86_64::*;
use std::cell::RefCell;

use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::Weights;
use crate::cpu::dot::decode::offset;
use crate::cpu::dot::pack;
use crate::cpu::dot::unpack::{STEPS, Scales, Unpack, unroll};
use crate::cpu::dot::wide::Wide;

/// Rows in a panel.
pub(super) const WIDE: usize = pack::ROWS;
/// Groups unpacked before they are used: 22 KiB, which leaves the first-level cache room for
/// activations; with half as many a tile begins and ends too often (6 % slower). A multiple of
/// the groups of every format's block.
pub(super) const DEPTH: usize = 32;

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

thread_local! {
    /// A worker's panel.
    static PANEL: RefCell<Buffer> = RefCell::default();
    /// A worker's activations as i16.
    static WIDENED: RefCell<Buffer> = RefCell::default();
}

/// Rows of half a panel, a register of 256 bits.
pub(super) const ROWS: usize = WIDE / 2;

/// A microkernel.
pub(super) trait Micro {
    /// The registers that weights are taken apart in.
    type V: Wide;
    /// Whether signed integers are made unsigned first, by adding 128.
    const UNSIGNED: bool;
    /// Whether signed integers, and the activations they meet, are widened to i16 first.
    const WIDENS: bool = false;

    /// Adds the panel's products with rows of activations to the output, as many as it likes of
    /// those from `to.n` on; says how many.
    ///
    /// # Safety
    /// The instruction set; `x` has the panel's groups.
    unsafe fn tile<B: Unpack>(panel: &[Group], x: &Rows<'_>, to: Tile<'_>) -> usize;
}

/// How many of a panel's groups one group of weights takes.
pub(super) const fn spread<B: Unpack, M: Micro>() -> usize {
    if M::WIDENS && B::CHAIN == 1 { 2 } else { 1 }
}

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// The instruction set of `M`, AVX2, FMA and F16C; shapes as the table's type says.
#[inline(always)]
pub(super) unsafe fn run<B: Unpack, M: Micro>(
    w: &Weights<'_>,
    x: &Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    // No closures around intrinsics: they might not be inlined.
    let mut buffer = PANEL.take();
    buffer.reserve(DEPTH * size_of::<Group>() / 4);
    // Aligned to cache lines, as buffers are.
    let panel = buffer.of_mut::<f32>().as_mut_ptr().cast::<Group>();
    let spread = const { spread::<B, M>() };
    let mut widened = WIDENED.take();
    for first in (0..x.groups).step_by(DEPTH / spread) {
        let depth = (DEPTH / spread).min(x.groups - first);
        let (q, q_stride) = if spread == 1 {
            let q = x.q[first * GROUP..].as_ptr().cast();
            (q, x.groups * STEPS)
        } else {
            // SAFETY: this function's contract.
            unsafe { widen(x, first, depth, &mut widened) };
            (widened.of::<i32>().as_ptr(), depth * 2 * STEPS)
        };
        for start in (0..w.rows).step_by(WIDE) {
            let n_rows = (w.rows - start).min(WIDE);
            // SAFETY: this function's contract; the buffer has room for `DEPTH` groups, which are
            // written before use.
            let panel = unsafe {
                let rows = w.bytes.as_ptr().add(start * w.stride);
                unpack::<B, M>(rows, first, depth, panel);
                std::slice::from_raw_parts(panel, depth * spread)
            };
            let mut n = 0;
            while n < x.n {
                let to = Tile {
                    n,
                    first,
                    q: q.wrapping_add(n * q_stride),
                    q_stride,
                    out: &mut out[n * stride + start..],
                    stride,
                    n_rows,
                };
                // SAFETY: this function's contract.
                n += unsafe { M::tile::<B>(panel, x, to) };
            }
        }
    }
    PANEL.set(buffer);
    WIDENED.set(widened);
}

/// Groups `first..first + depth` of all rows of activations as i16, `[n, depth, 2, 16]`: the first
/// and third of each four, then the second and fourth.
///
/// # Safety
/// AVX2; `x` has these groups.
#[inline(always)]
unsafe fn widen(x: &Rows<'_>, first: usize, depth: usize, out: &mut Buffer) {
    out.reserve(x.n * depth * GROUP / 2);
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

/// The first and third of each four bytes as i16, and the second and fourth.
///
/// # Safety
/// The instruction set.
#[inline(always)]
unsafe fn widened<V: Wide>(bytes: V) -> [V; 2] {
    // SAFETY: by this function's contract.
    unsafe { [bytes.shift16(8).down16(8), bytes.down16(8)] }
}

/// Unpacks groups `first..first + depth`, whole blocks, of interleaved rows.
///
/// # Safety
/// The instruction set of `M`; the rows are that long and `panel` has room.
#[inline(always)]
unsafe fn unpack<B: Unpack, M: Micro>(
    rows: *const u8,
    first: usize,
    depth: usize,
    panel: *mut Group,
) {
    let groups = const { B::LEN / GROUP };
    let spread = const { spread::<B, M>() };
    // SAFETY: by this function's contract; groups and their fields are aligned to 64 bytes.
    unsafe {
        let flip = M::V::splat8(if B::CHAIN == 1 && M::UNSIGNED {
            -128
        } else {
            0
        });
        for b in 0..depth / groups {
            let block = rows.add((first / groups + b) * WIDE * size_of::<B>());
            for i in 0..M::V::PARTS {
                let scales = B::Scales::<M::V>::load(block, i);
                unroll!(B::LEN / GROUP, G => {
                    let to = panel.add((b * groups + G) * spread);
                    unroll!(STEPS, T => {
                        let quad = B::unpack::<M::V>(block, i, G, T);
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

/// Where a panel's products with some rows of activations go.
pub(super) struct Tile<'a> {
    /// The first row of activations.
    pub n: usize,
    /// The panel's first group.
    pub first: usize,
    /// The activations' integers from that row and group on, an i32 for each step.
    pub q: *const i32,
    /// i32s from row to row of them.
    pub q_stride: usize,
    /// The first row's part of the output.
    out: &'a mut [f32],
    /// Values from row to row of the output.
    stride: usize,
    /// How many of the panel's rows there are.
    n_rows: usize,
}

impl Tile<'_> {
    /// The accumulators so far, of `N` rows of activations: 0 where the panel begins with the
    /// first group.
    #[inline(always)]
    pub(super) fn load<const N: usize>(&self) -> [[f32; WIDE]; N] {
        let mut acc = [[0.0; WIDE]; N];
        if self.first > 0 {
            for (c, acc) in acc.iter_mut().enumerate() {
                let out = &self.out[c * self.stride..][..self.n_rows];
                // A whole panel is copied in registers, without a call.
                match out.try_into() {
                    Ok(out) => *acc = out,
                    Err(_) => acc[..self.n_rows].copy_from_slice(out),
                }
            }
        }
        acc
    }

    /// Puts them back.
    #[inline(always)]
    pub(super) fn store<const N: usize>(self, acc: &[[f32; WIDE]; N]) {
        for (c, acc) in acc.iter().enumerate() {
            let out = &mut self.out[c * self.stride..][..self.n_rows];
            match <&mut [f32; WIDE]>::try_from(&mut *out) {
                Ok(out) => *out = *acc,
                Err(_) => out.copy_from_slice(&acc[..self.n_rows]),
            }
        }
    }
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
pub(super) unsafe fn beginnings<B: Unpack, M: Micro, const N: usize>(
    x: &Rows<'_>,
    n: usize,
    first: usize,
    depth: usize,
) -> [Beginnings<N>; 2] {
    let mut begin = [[[0; DEPTH]; N]; 2];
    let less = const { -offset::<B>(M::UNSIGNED) };
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
