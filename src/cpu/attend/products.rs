//! Attention's two products, queries times keys and weights times values.
//!
//! A score is the sum over the head's dimensions in [`LANES`] partial sums and their tree. A
//! column of the result is summed cell after cell. Stored values count as the f32 they stand for,
//! which are exact (8 and 4 bit integers times a scale of 11 bits), so that one row of queries,
//! which takes keys and values as they are stored, and many, which take them unpacked, have the
//! same sums to the bit.

use katari_gguf::block::{BlockQ4_0, BlockQ8_0};

use crate::cpu::ahead::ask_for;
use crate::cpu::lanes::{LANES, Lanes};
use crate::kv::KvType;

/// One head of some cells, as stored.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Stored<'a> {
    /// How.
    pub kind: KvType,
    /// `[n, row_bytes]`.
    pub bytes: &'a [u8],
    /// Bytes a cell.
    pub row_bytes: usize,
}

impl<'a> Stored<'a> {
    /// How many cells.
    pub(in crate::cpu) fn n(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// These in parts of `n` cells.
    pub(in crate::cpu) fn parts(self, n: usize) -> impl Iterator<Item = Stored<'a>> {
        let parts = self.bytes.chunks(n * self.row_bytes);
        parts.map(move |bytes| Stored { bytes, ..self })
    }

    /// Cells `start..` of these.
    #[inline(always)]
    fn from(&self, start: usize) -> *const u8 {
        self.bytes[start * self.row_bytes..].as_ptr()
    }

    /// The values a cell that are whole units of some [`Row`].
    fn whole(&self) -> usize {
        match self.kind {
            KvType::F32 => self.row_bytes / 4,
            KvType::F16 => self.row_bytes / 2,
            KvType::Q8_0 | KvType::Q4_0 => {
                self.row_bytes / self.kind.block_bytes() * self.kind.block_len()
            }
        }
    }
}

/// A row of values of one type.
trait Row {
    /// How many [`Lanes`] are unpacked at once, 1 or 2.
    const STEP: usize;
    /// Whether unpacking takes so long that rows are asked for ahead: a processor looks ahead only
    /// as far as the instructions that it has begun.
    const ASKED: bool = Self::STEP == 2;

    /// Unpacks values `i * STEP * LANES..`; with a step of 1 the second is not to be used.
    ///
    /// # Safety
    /// The instruction set of `L`; the row is that long.
    unsafe fn unpack<L: Lanes>(row: *const u8, i: usize) -> [L; 2];
}

struct F32;
struct F16;
struct Q8_0;
struct Q4_0;

impl Row for F32 {
    const STEP: usize = 1;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(row: *const u8, i: usize) -> [L; 2] {
        // SAFETY: by the trait's contract.
        unsafe { [L::load(row.cast::<f32>().add(i * LANES)); 2] }
    }
}

impl Row for F16 {
    const STEP: usize = 1;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(row: *const u8, i: usize) -> [L; 2] {
        // SAFETY: by the trait's contract.
        unsafe { [L::load_f16(row.add(i * 2 * LANES)); 2] }
    }
}

impl Row for Q8_0 {
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(row: *const u8, i: usize) -> [L; 2] {
        // SAFETY: by the trait's contract.
        unsafe { L::load_q8_0(row.cast::<BlockQ8_0>().add(i)) }
    }
}

impl Row for Q4_0 {
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn unpack<L: Lanes>(row: *const u8, i: usize) -> [L; 2] {
        // SAFETY: by the trait's contract.
        unsafe { L::load_q4_0(row.cast::<BlockQ4_0>().add(i)) }
    }
}

/// Bytes that keys and values are asked for ahead. Behind a head's last ones lie those of the next
/// head, which presumably the same thread takes next.
const AHEAD: usize = 4096;

/// The scores of one query `[width]`, which is padded with zeros to whole lanes.
#[inline(always)]
pub(in crate::cpu) fn score<L: Lanes>(q: &[f32], keys: Stored<'_>, out: &mut [f32]) {
    assert!(q.len().is_multiple_of(LANES) && q.len() <= keys.whole() && out.len() <= keys.n());
    // SAFETY: `L` belongs to a table that was given out for this processor; checked just now.
    unsafe {
        match keys.kind {
            KvType::F32 => score_rows::<L, F32>(q, keys, out),
            KvType::F16 => score_rows::<L::Halfs, F16>(q, keys, out),
            KvType::Q8_0 => score_rows::<L, Q8_0>(q, keys, out),
            KvType::Q4_0 => score_rows::<L, Q4_0>(q, keys, out),
        }
    }
}

/// # Safety
/// As [`score`] checks.
#[inline(always)]
unsafe fn score_rows<L: Lanes, R: Row>(q: &[f32], keys: Stored<'_>, out: &mut [f32]) {
    for (four, out) in out.chunks_mut(4).enumerate() {
        // Where fewer are left the last one again.
        let row = |i: usize| keys.from(4 * four + i.min(out.len() - 1));
        let rows = [row(0), row(1), row(2), row(3)];
        if R::ASKED {
            ask_for(rows[0].wrapping_add(AHEAD), 4 * keys.row_bytes);
        }
        // SAFETY: by this function's contract.
        let sums = unsafe {
            let mut acc = [L::splat(0.0); 4];
            for i in 0..q.len() / LANES / R::STEP {
                let x = q.as_ptr().add(i * R::STEP * LANES);
                for (acc, row) in acc.iter_mut().zip(rows) {
                    let k = R::unpack::<L>(row, i);
                    *acc = acc.fma(k[0], L::load(x));
                    if R::STEP == 2 {
                        *acc = acc.fma(k[1], L::load(x.add(LANES)));
                    }
                }
            }
            L::trees(acc)
        };
        write(out, sums);
    }
}

/// The first of `sums`, as many as fit. (Whole ones without a call.)
#[inline(always)]
fn write<const N: usize>(out: &mut [f32], sums: [f32; N]) {
    match <&mut [f32; N]>::try_from(&mut *out) {
        Ok(out) => *out = sums,
        Err(_) => {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum;
            }
        }
    }
}

/// `acc += sum over cells of weights[cell] * values[cell]`, cell after cell; `acc` is `[width]`,
/// whole lanes.
#[inline(always)]
pub(in crate::cpu) fn weigh<L: Lanes>(weights: &[f32], values: Stored<'_>, acc: &mut [f32]) {
    assert!(
        acc.len().is_multiple_of(LANES)
            && acc.len() <= values.whole()
            && weights.len() <= values.n()
    );
    // SAFETY: as in `score`.
    unsafe {
        match values.kind {
            KvType::F32 => weigh_rows::<L, F32>(weights, values, acc),
            KvType::F16 => weigh_rows::<L::Halfs, F16>(weights, values, acc),
            KvType::Q8_0 => weigh_rows::<L, Q8_0>(weights, values, acc),
            KvType::Q4_0 => weigh_rows::<L, Q4_0>(weights, values, acc),
        }
    }
}

/// Cells of which all columns are done before the next: so few that a processor sees all of them
/// at once and reads from memory in one stream, although registers do not hold all columns.
const NEAR: usize = 4;

/// # Safety
/// As [`weigh`] checks.
#[inline(always)]
unsafe fn weigh_rows<L: Lanes, R: Row>(weights: &[f32], values: Stored<'_>, acc: &mut [f32]) {
    let units = acc.len() / LANES / R::STEP;
    let wide = 4 / R::STEP;
    for (near, weights) in weights.chunks(NEAR).enumerate() {
        let values = Stored {
            bytes: &values.bytes[near * NEAR * values.row_bytes..],
            ..values
        };
        let mut unit = 0;
        while unit < units {
            // SAFETY: by this function's contract; units are below those there are.
            unsafe {
                if unit + wide <= units {
                    if R::STEP == 1 {
                        weigh_columns::<L, R, 4>(weights, values, acc, unit);
                    } else {
                        weigh_columns::<L, R, 2>(weights, values, acc, unit);
                    }
                    unit += wide;
                } else {
                    weigh_columns::<L, R, 1>(weights, values, acc, unit);
                    unit += 1;
                }
            }
        }
    }
}

/// `N` units of columns from `unit` on.
///
/// # Safety
/// As [`weigh`] checks; the units are there.
#[inline(always)]
unsafe fn weigh_columns<L: Lanes, R: Row, const N: usize>(
    weights: &[f32],
    values: Stored<'_>,
    acc: &mut [f32],
    unit: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let at = acc.as_mut_ptr().add(unit * R::STEP * LANES);
        let mut sums = [[L::splat(0.0); 2]; N];
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate().take(R::STEP) {
                *sum = L::load(at.add((i * R::STEP + j) * LANES));
            }
        }
        let mut row = values.bytes.as_ptr();
        for &weight in weights {
            let weight = L::splat(weight);
            if R::ASKED && unit == 0 {
                ask_for(row.wrapping_add(AHEAD), values.row_bytes);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let v = R::unpack::<L>(row, unit + i);
                sums[0] = sums[0].fma(weight, v[0]);
                if R::STEP == 2 {
                    sums[1] = sums[1].fma(weight, v[1]);
                }
            }
            row = row.wrapping_add(values.row_bytes);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate().take(R::STEP) {
                sum.store(at.add((i * R::STEP + j) * LANES));
            }
        }
    }
}

/// Unpacks every cell to `width` values, of which the first `whole` are stored and the others 0.
#[inline(always)]
pub(in crate::cpu) fn unpack<L: Lanes>(from: Stored<'_>, width: usize, out: &mut [f32]) {
    let stored = from.whole();
    assert!(width.is_multiple_of(LANES) && stored <= width && width - stored < LANES);
    assert!(out.len() == from.n() * width);
    let rows = from.bytes.chunks_exact(from.row_bytes);
    for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
        // SAFETY: as in `score`.
        unsafe {
            match from.kind {
                KvType::F32 => unpack_row::<L, F32>(row, stored, out),
                KvType::F16 => unpack_row::<L, F16>(row, stored, out),
                KvType::Q8_0 => unpack_row::<L, Q8_0>(row, stored, out),
                KvType::Q4_0 => unpack_row::<L, Q4_0>(row, stored, out),
            }
        }
    }
}

/// # Safety
/// As [`unpack`] checks.
#[inline(always)]
unsafe fn unpack_row<L: Lanes, R: Row>(row: &[u8], stored: usize, out: &mut [f32]) {
    let unit = R::STEP * LANES;
    let (whole, rest) = out.split_at_mut(stored / unit * unit);
    // SAFETY: by this function's contract.
    unsafe {
        for (i, out) in whole.chunks_exact_mut(unit).enumerate() {
            let values = R::unpack::<L>(row.as_ptr(), i);
            values[0].store(out.as_mut_ptr());
            if R::STEP == 2 {
                values[1].store(out[LANES..].as_mut_ptr());
            }
        }
        if !rest.is_empty() {
            // A float type; the rest of the row, where a whole unit can be read.
            let mut padded = [0u8; 4 * LANES];
            let left = &row[row.len() / stored * whole.len()..];
            padded[..left.len()].copy_from_slice(left);
            R::unpack::<L>(padded.as_ptr(), 0)[0].store(rest.as_mut_ptr());
        }
    }
}

/// Many queries `[n, width]` times unpacked keys `[cells, width]`, to `out` `[n, stride]`: row
/// `i` has at least the scores of the first `seen + i` keys.
#[inline(always)]
pub(in crate::cpu) fn score_block<L: Lanes>(
    q: &[f32],
    seen: usize,
    keys: &[f32],
    width: usize,
    out: &mut [f32],
    stride: usize,
) {
    let (n, cells) = (q.len() / width, keys.len() / width);
    assert!(width.is_multiple_of(LANES) && cells <= stride);
    assert!(n == 0 || out.len() >= (n - 1) * stride + cells);
    let tall = if L::MANY { 4 } else { 2 };
    for k in (0..cells).step_by(tall) {
        let key = |i: usize| keys[(k + i).min(cells - 1) * width..].as_ptr();
        let count = (cells - k).min(tall);
        let mut row = (k + 1).saturating_sub(seen);
        while row < n {
            let query = |i: usize| q[(row + i).min(n - 1) * width..].as_ptr();
            // Where there are fewer the last ones are done again and not written.
            // SAFETY: as in `score`; each pointer is to `width` values.
            unsafe {
                if L::MANY {
                    let keys = [key(0), key(1), key(2), key(3)];
                    let queries = [query(0), query(1), query(2), query(3)];
                    let sums = score_tile::<L, 4, 4>(queries, keys, width);
                    for (i, sums) in sums.into_iter().enumerate().take(n - row) {
                        write(&mut out[(row + i) * stride + k..][..count], L::trees(sums));
                    }
                    row += 4;
                } else {
                    let queries = [query(0), query(1), query(2)];
                    let [a, b, c] = score_tile::<L, 3, 2>(queries, [key(0), key(1)], width);
                    let ab = L::trees([a[0], a[1], b[0], b[1]]);
                    let c = L::trees([c[0], c[1], c[0], c[1]]);
                    let sums = [[ab[0], ab[1]], [ab[2], ab[3]], [c[0], c[1]]];
                    for (i, sums) in sums.into_iter().enumerate().take(n - row) {
                        write(&mut out[(row + i) * stride + k..][..count], sums);
                    }
                    row += 3;
                }
            }
        }
    }
}

/// `Q` times `K` dot products in lanes.
///
/// # Safety
/// The instruction set of `L`; all rows are `width` long, whole lanes.
#[inline(always)]
unsafe fn score_tile<L: Lanes, const Q: usize, const K: usize>(
    queries: [*const f32; Q],
    keys: [*const f32; K],
    width: usize,
) -> [[L; K]; Q] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut acc = [[L::splat(0.0); K]; Q];
        for i in (0..width).step_by(LANES) {
            let mut x = [L::splat(0.0); K];
            for (x, key) in x.iter_mut().zip(keys) {
                *x = L::load(key.add(i));
            }
            for (acc, query) in acc.iter_mut().zip(queries) {
                let q = L::load(query.add(i));
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = acc.fma(x, q);
                }
            }
        }
        acc
    }
}

/// For many rows, `acc[i] += sum over its first seen + i cells of weights[i][cell] *
/// values[cell]`, cell after cell: weights `[n, stride]`, unpacked values `[cells, width]`, acc
/// `[n, width]`.
#[inline(always)]
pub(in crate::cpu) fn weigh_block<L: Lanes>(
    weights: &[f32],
    stride: usize,
    seen: usize,
    values: &[f32],
    width: usize,
    acc: &mut [f32],
) {
    let (n, cells) = (acc.len() / width, values.len() / width);
    assert!(width.is_multiple_of(LANES) && cells <= stride);
    assert!(n == 0 || weights.len() >= (n - 1) * stride + cells);
    // As many accumulators as registers hold, with fewer loads than multiplications.
    let (tall, wide) = if L::MANY { (4, 4) } else { (6, 1) };
    let lanes = width / LANES;
    for row in (0..n).step_by(tall) {
        let common = (seen + row).min(cells);
        let is_whole = n - row >= tall;
        let weights = &weights[row * stride..];
        let mut lane = 0;
        while lane < lanes {
            let wide = if lane + wide <= lanes { wide } else { 1 };
            let tile = Tile {
                values: values[lane * LANES..].as_ptr(),
                acc: acc[row * width + lane * LANES..].as_mut_ptr(),
                width,
            };
            // SAFETY: as in `score`; rows, cells and lanes are below those there are.
            unsafe {
                if is_whole {
                    match (tall, wide) {
                        (4, 4) => tile.add::<L, 4, 4>(weights, stride, 0..common),
                        (4, _) => tile.add::<L, 4, 1>(weights, stride, 0..common),
                        _ => tile.add::<L, 6, 1>(weights, stride, 0..common),
                    }
                }
                for i in 0..tall.min(n - row) {
                    let from = if is_whole { common } else { 0 };
                    let cells = from..(seen + row + i).min(cells);
                    let (tile, weights) = (tile.row(i), &weights[i * stride..]);
                    match wide {
                        4 => tile.add::<L, 1, 4>(weights, stride, cells),
                        _ => tile.add::<L, 1, 1>(weights, stride, cells),
                    }
                }
            }
            lane += wide;
        }
    }
}

/// Some columns of some rows of [`weigh_block`].
struct Tile {
    /// The first of these columns of `[cells, width]`.
    values: *const f32,
    /// The first of these columns of `[rows, width]`.
    acc: *mut f32,
    width: usize,
}

impl Tile {
    /// The same from row `i` on.
    #[inline(always)]
    fn row(&self, i: usize) -> Tile {
        Tile {
            acc: self.acc.wrapping_add(i * self.width),
            ..*self
        }
    }

    /// `R` rows, `N` lanes of columns.
    ///
    /// # Safety
    /// The instruction set of `L`; rows, columns and `cells` are there.
    #[inline(always)]
    unsafe fn add<L: Lanes, const R: usize, const N: usize>(
        &self,
        weights: &[f32],
        stride: usize,
        cells: std::ops::Range<usize>,
    ) {
        if cells.is_empty() {
            return;
        }
        // SAFETY: by this function's contract.
        unsafe {
            let mut sums = [[L::splat(0.0); N]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(self.acc.add(r * self.width + i * LANES));
                }
            }
            for cell in cells {
                let mut v = [L::splat(0.0); N];
                for (i, v) in v.iter_mut().enumerate() {
                    *v = L::load(self.values.add(cell * self.width + i * LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let weight = L::splat(*weights.get_unchecked(r * stride + cell));
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum = sum.fma(weight, v);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    sum.store(self.acc.add(r * self.width + i * LANES));
                }
            }
        }
    }
}
