//! Activations as integers, which is what quantised weights are multiplied with.
//!
//! A row is cut into groups of 32 values. A group is `scale * q` with `scale = max|x| / 127` and
//! `q = round(x / scale)`, of -127..=127; its integers' sums go with it, for weights with an
//! offset or a min.

use std::ops::Range;

use super::arena::{Arena, Buffer};
use super::lanes::{LANES, Lanes};

/// Values that share a scale, in activations and in every quantised weight format.
pub(super) const GROUP: usize = 32;

/// What is to be subtracted from weights of six bits.
pub(super) const CENTRE: i16 = 32;

/// Rows of activations as integers.
pub(super) struct Quantized {
    /// q i8 `[rows, width]`, then scale f32, `scale * sum` f32, the two half sums i16 and the four
    /// centres i16, `[rows, groups]` each.
    buffer: Buffer,
    rows: usize,
    width: usize,
}

/// Some rows of integers, borrowed.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// How many.
    pub n: usize,
    /// Groups a row.
    pub groups: usize,
    /// `[n, groups * 32]`.
    pub q: &'a [i8],
    /// `[n, groups]`.
    pub scale: &'a [f32],
    /// `scale * sum`, `[n, groups]`.
    pub scaled_sum: &'a [f32],
    /// The sums of the first and the last 16 of each group's integers, `[n, groups]`.
    pub halves: &'a [[i16; 2]],
    /// For each half the sums of the first two and of the last two of each of its fours, times
    /// -[`CENTRE`], `[n, groups]`.
    pub centre: &'a [[[i16; 2]; 2]],
}

impl<'a> Rows<'a> {
    /// Those of `rows`.
    pub(super) fn part(self, rows: Range<usize>) -> Rows<'a> {
        let groups = rows.start * self.groups..rows.end * self.groups;
        Rows {
            n: rows.len(),
            groups: self.groups,
            q: &self.q[groups.start * GROUP..groups.end * GROUP],
            scale: &self.scale[groups.clone()],
            scaled_sum: &self.scaled_sum[groups.clone()],
            halves: &self.halves[groups.clone()],
            centre: &self.centre[groups],
        }
    }
}

/// One row's integers, to write.
pub(super) struct RowMut<'a> {
    pub q: &'a mut [i8],
    pub scale: &'a mut [f32],
    pub scaled_sum: &'a mut [f32],
    pub halves: &'a mut [[i16; 2]],
    pub centre: &'a mut [[[i16; 2]; 2]],
}

/// All rows' integers, to write.
pub(super) struct RowsMut<'a> {
    #[cfg(test)]
    rows: usize,
    pub q: &'a mut [i8],
    pub scale: &'a mut [f32],
    pub scaled_sum: &'a mut [f32],
    pub halves: &'a mut [[i16; 2]],
    pub centre: &'a mut [[[i16; 2]; 2]],
}

impl Quantized {
    /// Room for `[rows, width]`; `width` is a multiple of the group.
    pub(super) fn new(arena: &Arena, rows: usize, width: usize) -> Quantized {
        assert!(
            width.is_multiple_of(GROUP),
            "{width} values are no whole groups"
        );
        let groups = width / GROUP;
        // Every part starts on a cache line of its own.
        let words = line(rows * width / 4) + 3 * line(rows * groups) + line(2 * rows * groups);
        Quantized {
            buffer: arena.take(words),
            rows,
            width,
        }
    }

    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    /// All rows.
    pub(super) fn rows(&self) -> Rows<'_> {
        let groups = self.width / GROUP;
        let (q, rest) = self.buffer.of::<i32>().split_at(line(self.q_words()));
        let (scale, rest) = rest.split_at(line(self.rows * groups));
        let (scaled_sum, rest) = rest.split_at(line(self.rows * groups));
        let (halves, centre) = rest.split_at(line(self.rows * groups));
        Rows {
            n: self.rows,
            groups,
            q: &bytemuck::cast_slice(q)[..self.rows * self.width],
            scale: &bytemuck::cast_slice(scale)[..self.rows * groups],
            scaled_sum: &bytemuck::cast_slice(scaled_sum)[..self.rows * groups],
            halves: &bytemuck::cast_slice(halves)[..self.rows * groups],
            centre: &bytemuck::cast_slice(centre)[..self.rows * groups],
        }
    }

    /// All rows, to write.
    pub(super) fn rows_mut(&mut self) -> RowsMut<'_> {
        let (rows, groups, words) = (self.rows, self.width / GROUP, line(self.q_words()));
        let (q, rest) = self.buffer.of_mut::<i32>().split_at_mut(words);
        let (scale, rest) = rest.split_at_mut(line(rows * groups));
        let (scaled_sum, rest) = rest.split_at_mut(line(rows * groups));
        let (halves, centre) = rest.split_at_mut(line(rows * groups));
        RowsMut {
            #[cfg(test)]
            rows,
            q: &mut bytemuck::cast_slice_mut(q)[..rows * self.width],
            scale: &mut bytemuck::cast_slice_mut(scale)[..rows * groups],
            scaled_sum: &mut bytemuck::cast_slice_mut(scaled_sum)[..rows * groups],
            halves: &mut bytemuck::cast_slice_mut(halves)[..rows * groups],
            centre: &mut bytemuck::cast_slice_mut(centre)[..rows * groups],
        }
    }

    /// i32s that the integers take; whole, since a group is 8 of them.
    fn q_words(&self) -> usize {
        self.rows * self.width / 4
    }
}

impl<'a> RowsMut<'a> {
    /// Row `i` of them.
    #[cfg(test)]
    pub(super) fn row(self, i: usize) -> RowMut<'a> {
        let width = self.q.len() / self.rows;
        let (q, g) = (
            i * width..(i + 1) * width,
            i * width / GROUP..(i + 1) * width / GROUP,
        );
        RowMut {
            q: &mut self.q[q],
            scale: &mut self.scale[g.clone()],
            scaled_sum: &mut self.scaled_sum[g.clone()],
            halves: &mut self.halves[g.clone()],
            centre: &mut self.centre[g],
        }
    }
}

/// `n` 4-byte words, rounded up to whole cache lines.
fn line(n: usize) -> usize {
    n.next_multiple_of(16)
}

/// Quantises one row; the same bits on every instruction set.
#[inline(always)]
pub(super) fn quantize_row<L: Lanes>(x: &[f32], out: RowMut<'_>) {
    let (x, _) = x.as_chunks::<GROUP>();
    let (q, _) = out.q.as_chunks_mut::<GROUP>();
    let scales = out.scale.iter_mut().zip(out.scaled_sum);
    let sums = out.halves.iter_mut().zip(out.centre);
    for (((x, q), (scale, scaled_sum)), (halves, centre)) in x.iter().zip(q).zip(scales).zip(sums) {
        let (x, q) = (x.as_ptr(), q.as_mut_ptr());
        // SAFETY: the instruction set of `L` is there, since kernels that are given out call this;
        // a group is two times the lanes.
        let (d, sums) = unsafe {
            let (low, high) = (L::load(x), L::load(x.add(LANES)));
            let d = low.largest(high) / 127.0;
            // What is not finite is left to the scale: 0 * inf is NaN, as it should be. Of numbers
            // below 2e-36 the scale may be off by half, and they more than 127 of it: they are 0.
            let divisor = if d.is_normal() { d } else { f32::INFINITY };
            let high = high.store_i8(divisor, q.add(LANES));
            (d, [low.store_i8(divisor, q), high])
        };
        *scale = d;
        *halves = sums.map(|[first, last]| first + last);
        *centre = sums.map(|half| half.map(|sum| -CENTRE * sum));
        *scaled_sum = d * f32::from(halves[0] + halves[1]);
    }
}
