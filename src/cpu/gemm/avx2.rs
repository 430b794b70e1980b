//! Prefill on AVX2.
//!
//! A panel is 16 rows of weights, as two registers of eight: of each group of 32, register `t` of
//! 8 holds values `4 t..4 t + 4` of row `r` in its lane `r`. Multiplied with the same four values
//! of an activation in every lane (`vpmaddubsw`), sums need never cross lanes. A tile is a panel
//! times up to four rows of activations. Panels are cut along their length to stay in the
//! first-level cache; a tile's f32 accumulators lie in the output in between.

use std::arch::x86_64::*;
use std::cell::RefCell;

use crate::cpu::activation::{GROUP, Rows};
use crate::cpu::arena::Buffer;
use crate::cpu::dot::Weights;
use crate::cpu::dot::avx2::{ROWS, Unpack, offset, panel_rows, products, transpose};

/// Registers of rows in a panel.
const WIDE: usize = 2;
/// Rows of activations in a tile.
const TALL: usize = 4;
/// Groups unpacked before they are used: 16 KiB of integers, half of a first-level cache. A
/// multiple of the groups of every format's block.
const DEPTH: usize = 32;

/// Eight rows' part of one group.
#[derive(Clone, Copy)]
struct Group {
    /// `[step of 4 values][row][4]`.
    q: [__m256i; GROUP / 4],
    scale: __m256,
    min: __m256,
    /// What [`Unpack::factors`] gives: two i16 a row.
    factors: __m256i,
}

/// One group of a panel.
type Slice = [Group; WIDE];

thread_local! {
    /// A worker's panel.
    static PANEL: RefCell<Buffer> = RefCell::default();
}

/// Every row of `w` times every row of `x`.
///
/// # Safety
/// AVX2, FMA and F16C; shapes as the table's type says.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn prefill<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    stride: usize,
) {
    PANEL.with_borrow_mut(|buffer| {
        buffer.reserve(DEPTH * size_of::<Slice>() / 4);
        // Aligned to cache lines, as buffers are.
        let panel = buffer.of_mut::<f32>().as_mut_ptr().cast::<Slice>();
        for start in (0..w.rows).step_by(WIDE * ROWS) {
            let n_rows = (w.rows - start).min(WIDE * ROWS);
            for first in (0..x.groups).step_by(DEPTH) {
                let depth = DEPTH.min(x.groups - first);
                // SAFETY: this function's contract; the buffer has room for `DEPTH` groups, and
                // rows are clamped to those there are.
                let panel = unsafe {
                    for i in 0..WIDE {
                        let rows = panel_rows::<B>(&w, start + i * ROWS);
                        unpack(&rows, first, depth, panel, i);
                    }
                    std::slice::from_raw_parts(panel, depth)
                };
                for n in (0..x.n).step_by(TALL) {
                    let to = Tile {
                        n,
                        first,
                        out: &mut out[n * stride + start..],
                        stride,
                        n_rows,
                    };
                    // SAFETY: this function's contract; the tile's rows are those of `x`.
                    unsafe {
                        match x.n - n {
                            1 => to.add::<B, 1>(panel, &x),
                            2 => to.add::<B, 2>(panel, &x),
                            3 => to.add::<B, 3>(panel, &x),
                            _ => to.add::<B, TALL>(panel, &x),
                        }
                    }
                }
            }
        }
    });
}

/// Unpacks groups `first..first + depth`, whole blocks, of eight rows to part `i` of the panel.
///
/// # Safety
/// AVX2, FMA and F16C; the rows are that long and `panel` has room.
#[inline(always)]
unsafe fn unpack<B: Unpack>(
    rows: &[*const B; ROWS],
    first: usize,
    depth: usize,
    panel: *mut Slice,
    i: usize,
) {
    let groups = B::LEN / GROUP;
    // SAFETY: by this function's contract.
    unsafe {
        for b in 0..depth / groups {
            let blocks: [*const B; ROWS] = std::array::from_fn(|r| rows[r].add(first / groups + b));
            let scales = B::scales(&blocks);
            for step in 0..groups / B::STEP {
                // No closures around intrinsics: they might not be inlined.
                let pairs = [
                    B::unpack(blocks[0], blocks[4], step),
                    B::unpack(blocks[1], blocks[5], step),
                    B::unpack(blocks[2], blocks[6], step),
                    B::unpack(blocks[3], blocks[7], step),
                ];
                for j in 0..B::STEP {
                    let g = step * B::STEP + j;
                    let [p, q, r, s] = &pairs;
                    let first = transpose([p[j][0], q[j][0], r[j][0], s[j][0]]);
                    let second = transpose([p[j][1], q[j][1], r[j][1], s[j][1]]);
                    let to = panel.add(b * groups + g).cast::<Group>().add(i);
                    to.write(Group {
                        q: std::array::from_fn(|t| if t < 4 { first[t] } else { second[t - 4] }),
                        scale: B::scale(&scales, g),
                        min: B::min(&scales, g),
                        factors: B::factors(&scales, g),
                    });
                }
            }
        }
    }
}

/// A panel times some rows of activations.
struct Tile<'a> {
    /// The first row of activations.
    n: usize,
    /// The panel's first group.
    first: usize,
    /// The first row's part of the output.
    out: &'a mut [f32],
    /// Values from row to row of the output.
    stride: usize,
    /// How many of the panel's rows there are.
    n_rows: usize,
}

impl Tile<'_> {
    /// Adds the panel's products with `N` rows of activations to the output (from 0 where the
    /// panel begins with the first group).
    ///
    /// # Safety
    /// AVX2, FMA and F16C; `x` has these rows and the panel's groups.
    #[inline(always)]
    unsafe fn add<B: Unpack, const N: usize>(self, panel: &[Slice], x: &Rows<'_>) {
        // SAFETY: by this function's contract.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); WIDE]; N];
            let mut lanes = [0.0; WIDE * ROWS];
            if self.first > 0 {
                for (c, acc) in acc.iter_mut().enumerate() {
                    let out = &self.out[c * self.stride..][..self.n_rows];
                    lanes[..self.n_rows].copy_from_slice(out);
                    for (i, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm256_loadu_ps(lanes.as_ptr().add(i * ROWS));
                    }
                }
            }
            for (g, group) in panel.iter().enumerate() {
                let at = std::array::from_fn(|c| (self.n + c) * x.groups + self.first + g);
                let sums = group_sums::<B, N>(group, x, &at);
                for c in 0..N {
                    let halves = x.halves.as_ptr().add(at[c]).cast::<i32>().read_unaligned();
                    let halves = _mm256_set1_epi32(halves);
                    let x_scale = _mm256_broadcast_ss(x.scale.get_unchecked(at[c]));
                    let x_sum = _mm256_broadcast_ss(x.scaled_sum.get_unchecked(at[c]));
                    for i in 0..WIDE {
                        let mut sum = sums[c][i];
                        if B::OFFSET != 0 {
                            let offset = offset::<B>(group[i].factors, halves);
                            sum = _mm256_sub_epi32(sum, offset);
                        }
                        let scale = _mm256_mul_ps(group[i].scale, x_scale);
                        acc[c][i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, acc[c][i]);
                        if B::HAS_MIN {
                            acc[c][i] = _mm256_fnmadd_ps(group[i].min, x_sum, acc[c][i]);
                        }
                    }
                }
            }
            for (c, acc) in acc.iter().enumerate() {
                for (i, acc) in acc.iter().enumerate() {
                    _mm256_storeu_ps(lanes.as_mut_ptr().add(i * ROWS), *acc);
                }
                let out = &mut self.out[c * self.stride..][..self.n_rows];
                out.copy_from_slice(&lanes[..self.n_rows]);
            }
        }
    }
}

/// The integer products of a group with groups `at` of the activations.
///
/// # Safety
/// AVX2; the groups are there.
#[inline(always)]
unsafe fn group_sums<B: Unpack, const N: usize>(
    group: &Slice,
    x: &Rows<'_>,
    at: &[usize; N],
) -> [[__m256i; WIDE]; N] {
    // SAFETY: by this function's contract.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); WIDE]; N];
        // What 16-bit sums of each half are multiplied by on their way to 32 bits.
        let mut factor = [[ones; WIDE]; 2];
        if B::FACTORS {
            for (i, group) in group.iter().enumerate() {
                let first = _mm256_slli_epi32::<16>(group.factors);
                let second = _mm256_srli_epi32::<16>(group.factors);
                factor[0][i] = _mm256_or_si256(first, _mm256_srli_epi32::<16>(first));
                factor[1][i] = _mm256_or_si256(second, _mm256_slli_epi32::<16>(second));
            }
        }
        for chain in 0..GROUP / 4 / B::CHAIN {
            let mut short = [[_mm256_setzero_si256(); WIDE]; N];
            for t in chain * B::CHAIN..(chain + 1) * B::CHAIN {
                for c in 0..N {
                    let four = x.q.as_ptr().add(at[c] * GROUP + 4 * t).cast::<i32>();
                    let four = _mm256_set1_epi32(four.read_unaligned());
                    for i in 0..WIDE {
                        let product = products::<B>(group[i].q[t], four);
                        short[c][i] = _mm256_add_epi16(short[c][i], product);
                    }
                }
            }
            for c in 0..N {
                for i in 0..WIDE {
                    let factor = factor[chain * B::CHAIN / 4][i];
                    let long = _mm256_madd_epi16(short[c][i], factor);
                    sums[c][i] = _mm256_add_epi32(sums[c][i], long);
                }
            }
        }
        sums
    }
}
