//! What the K formats share: super-blocks of 256 values in groups with scales of their own, the
//! groups' scales quantised in turn (after the method of llama.cpp's k-quants).
//!
//! The reference fits one group after another, each sum in order of its values. Here the groups
//! of a super-block are fitted side by side, one a lane: each lane adds in the same order, so
//! that the bits are the same, and the compiler works on several lanes at once. What the
//! reference skips by a branch is computed and not selected.

use bytemuck::{Pod, Zeroable};

/// Values in a super-block.
pub(super) const LEN: usize = 256;

/// One number of each of `N` groups.
type Lanes<const N: usize> = [f32; N];

/// A number for each group.
#[inline(always)]
fn lanes<const N: usize>(of: impl Fn(usize) -> f32) -> Lanes<N> {
    std::array::from_fn(of)
}

/// `yes` where `is` holds, else `no`; without a branch, so that lanes stay side by side.
#[inline(always)]
fn select<const N: usize>(is: [bool; N], yes: Lanes<N>, no: Lanes<N>) -> Lanes<N> {
    lanes(|g| if is[g] { yes[g] } else { no[g] })
}

/// Below this, a group of Q6_K counts as zeros.
pub(super) const TINY: f32 = 1e-15;

/// To the nearest integer, ties to even, by adding what leaves no bits for a fraction. Meant for
/// magnitudes below 2^22; gives an arbitrary but fixed integer for others, as ggml does.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    const MAGIC: f32 = 12582912.0; // 1.5 * 2^23
    ((x + MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The groups of a super-block side by side: `[position][group]`.
#[inline(always)]
pub(super) fn interleave<const G: usize, const N: usize>(x: &[f32]) -> [Lanes<N>; G] {
    std::array::from_fn(|i| std::array::from_fn(|group| x[group * G + i]))
}

/// Groups fitted side by side, before their scales are quantised.
pub(super) struct Fit<const G: usize, const N: usize> {
    pub scale: Lanes<N>,
    /// What is subtracted: `value = scale * q - min`.
    pub min: Lanes<N>,
    /// `[position][group]`, unsigned.
    pub q: [[u8; N]; G],
}

/// What the search for the best scale and least value of a group tries.
pub(super) struct Search {
    /// The greatest integer: 15 or 31.
    pub greatest: i32,
    /// The integers' range is tried at `greatest + first + 0.1 * step` ...
    pub first: f32,
    /// ... for steps from 0 to this.
    pub steps: i32,
}

/// Groups of Q4_K and Q5_K.
pub(super) const GROUP: usize = 32;
/// How many there are in a super-block.
pub(super) const GROUPS: usize = LEN / GROUP;

/// Fits scale and least value of each group: for each tried range, integers, then the weighted
/// least squares for them, keeping the lowest weighted squared error. A value's weight is its
/// magnitude plus the group's root mean square.
#[inline(always)]
pub(super) fn fit_range(x: &[Lanes<GROUPS>; GROUP], search: &Search) -> Fit<GROUP, GROUPS> {
    type Row = Lanes<GROUPS>;
    const ZERO: Row = [0.0; GROUPS];

    let mut sum_x2 = ZERO;
    for x in x {
        for g in 0..GROUPS {
            sum_x2[g] += x[g] * x[g];
        }
    }
    let rms = sum_x2.map(|s| (s / GROUP as f32).sqrt());
    let mut weight = [ZERO; GROUP];
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (ZERO, ZERO);
    for (x, weight) in x.iter().zip(&mut weight) {
        for g in 0..GROUPS {
            weight[g] = rms[g] + x[g].abs();
            min[g] = if x[g] < min[g] { x[g] } else { min[g] };
            max[g] = if x[g] > max[g] { x[g] } else { max[g] };
            sum_w[g] += weight[g];
            sum_x[g] += weight[g] * x[g];
        }
    }
    // Where the integers begin; moves to each better least value found. A group of one value not
    // above 0 has no extent: its inverse is infinite, its scale 0, and every integer, of 0 times
    // infinity, 0.
    let mut low = min.map(|min| if min > 0.0 { 0.0 } else { min });
    let inverse_for = |range: f32, low: &Row| -> Row { lanes(|g| range / (max[g] - low[g])) };
    let integer = |x: f32, low: f32, inverse: f32| {
        nearest(inverse * (x - low)).clamp(0, search.greatest) as f32
    };

    let mut best_low = low;
    let mut best_inverse = inverse_for(search.greatest as f32, &low);
    let mut scale = best_inverse.map(|inverse| 1.0 / inverse);
    let mut best_error = ZERO;
    for (x, w) in x.iter().zip(&weight) {
        for g in 0..GROUPS {
            let q = integer(x[g], low[g], best_inverse[g]);
            let diff = scale[g] * q + low[g] - x[g];
            best_error[g] += w[g] * (diff * diff);
        }
    }

    let mut q = [ZERO; GROUP];
    for step in 0..=search.steps {
        let range = search.first + 0.1 * step as f32 + search.greatest as f32;
        let inverse = inverse_for(range, &low);
        let (mut sum_q, mut sum_q2, mut sum_qx) = (ZERO, ZERO, ZERO);
        for ((x, w), q) in x.iter().zip(&weight).zip(&mut q) {
            for g in 0..GROUPS {
                q[g] = integer(x[g], low[g], inverse[g]);
                let wq = w[g] * q[g];
                sum_q[g] += wq;
                sum_q2[g] += wq * q[g];
                sum_qx[g] += wq * x[g];
            }
        }
        let determinant: Row = lanes(|g| sum_w[g] * sum_q2[g] - sum_q[g] * sum_q[g]);
        let free_scale = lanes(|g| (sum_w[g] * sum_qx[g] - sum_x[g] * sum_q[g]) / determinant[g]);
        let free_min = lanes(|g| (sum_q2[g] * sum_x[g] - sum_q[g] * sum_qx[g]) / determinant[g]);
        let bound_scale = lanes(|g| sum_qx[g] / sum_q2[g]);
        let is_bound = free_min.map(|min| min > 0.0);
        let this_scale = select(is_bound, bound_scale, free_scale);
        let this_min = select(is_bound, ZERO, free_min);

        let mut error = ZERO;
        for ((x, w), q) in x.iter().zip(&weight).zip(&q) {
            for g in 0..GROUPS {
                let diff = this_scale[g] * q[g] + this_min[g] - x[g];
                error[g] += w[g] * (diff * diff);
            }
        }
        let is_better =
            std::array::from_fn(|g| (determinant[g] > 0.0) & (error[g] < best_error[g]));
        best_error = select(is_better, error, best_error);
        best_low = select(is_better, low, best_low);
        best_inverse = select(is_better, inverse, best_inverse);
        scale = select(is_better, this_scale, scale);
        low = select(is_better, this_min, low);
    }

    let mut fit = Fit {
        scale,
        min: low.map(|low| -low),
        q: [[0; GROUPS]; GROUP],
    };
    for (x, q) in x.iter().zip(&mut fit.q) {
        for g in 0..GROUPS {
            q[g] = integer(x[g], best_low[g], best_inverse[g]) as u8;
        }
    }
    fit
}

/// Groups of Q6_K.
pub(super) const SMALL_GROUP: usize = 16;
/// How many there are in a super-block.
pub(super) const SMALL_GROUPS: usize = LEN / SMALL_GROUP;

/// What is added to the integers of Q6_K: they are from `-HALF` to `HALF - 1`.
pub(super) const HALF: i32 = 32;
/// The ranges around `HALF` that are tried for a scale, in tenths and in order: the plain one
/// first, which wins where no other is better.
#[rustfmt::skip]
pub(super) const SCALE_STEPS: [i8; 19] =
    [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Groups of Q6_K with a scale each, before those are quantised.
pub(super) struct ScaleFit {
    /// 0 in a group of zeros.
    pub scale: Lanes<SMALL_GROUPS>,
    /// What the values were multiplied with to get the integers that the scale was fitted to.
    pub inverse: Lanes<SMALL_GROUPS>,
    /// The greatest of the group.
    pub magnitude: Lanes<SMALL_GROUPS>,
}

/// Fits a scale (of either sign) to each group of 16 values for integers in `-HALF..HALF`: tries
/// ranges around it and keeps the least squared error, each value weighted with its square.
#[inline(always)]
pub(super) fn fit_scale(x: &[f32]) -> ScaleFit {
    type Row = Lanes<SMALL_GROUPS>;
    const ZERO: Row = [0.0; SMALL_GROUPS];

    let x: [Row; SMALL_GROUP] = interleave(x);
    let (mut magnitude, mut peak) = (ZERO, ZERO);
    for x in &x {
        for g in 0..SMALL_GROUPS {
            let greater = x[g].abs() > magnitude[g];
            magnitude[g] = if greater { x[g].abs() } else { magnitude[g] };
            peak[g] = if greater { x[g] } else { peak[g] };
        }
    }

    let mut best_inverse = ZERO;
    let (mut scale, mut best) = (ZERO, ZERO);
    for step in SCALE_STEPS {
        let range = HALF as f32 + 0.1 * f32::from(step);
        let inverse = peak.map(|peak| -range / peak);
        let (mut sum_qx, mut sum_q2) = (ZERO, ZERO);
        for x in &x {
            for g in 0..SMALL_GROUPS {
                let q = small_integer(inverse[g] * x[g]) as f32;
                let w = x[g] * x[g];
                sum_qx[g] += w * x[g] * q;
                sum_q2[g] += w * q * q;
            }
        }
        let is_better = std::array::from_fn(|g| {
            (step == 0) | ((sum_q2[g] > 0.0) & (sum_qx[g] * sum_qx[g] > best[g] * sum_q2[g]))
        });
        let ratio = lanes(|g| sum_qx[g] / sum_q2[g]);
        let this_scale = select(sum_q2.map(|sum| sum != 0.0), ratio, ZERO);
        scale = select(is_better, this_scale, scale);
        best = select(is_better, lanes(|g| this_scale[g] * sum_qx[g]), best);
        best_inverse = select(is_better, inverse, best_inverse);
    }
    ScaleFit {
        scale: select(magnitude.map(|m| m < TINY), ZERO, scale),
        inverse: best_inverse,
        magnitude,
    }
}

/// The nearest integer of Q6_K.
#[inline(always)]
pub(super) fn small_integer(x: f32) -> i32 {
    nearest(x).clamp(-HALF, HALF - 1)
}

/// The scales and mins of Q4_K's and Q5_K's eight groups, 6 bits each in 12 bytes.
///
/// Of groups 0 to 3, bytes 0 to 3 hold the scales and bytes 4 to 7 the mins in their low 6 bits;
/// of groups 4 to 7, bytes 8 to 11 hold the low nibbles of scale (below) and min (above), and
/// the upper 2 bits of bytes 0 to 7 the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct PackedScales(pub [u8; 12]);

impl PackedScales {
    /// Packs 6-bit scales and mins; higher bits are not allowed.
    #[inline(always)]
    pub fn pack(scale: [u8; GROUPS], min: [u8; GROUPS]) -> Self {
        Self(std::array::from_fn(|i| match i {
            0..4 => scale[i] | ((scale[i + 4] >> 4) << 6),
            4..8 => min[i - 4] | ((min[i] >> 4) << 6),
            _ => (scale[i - 4] & 0xf) | ((min[i - 4] & 0xf) << 4),
        }))
    }

    /// The scale and min of a group, 0 to 63.
    #[inline(always)]
    pub fn get(&self, group: usize) -> (u8, u8) {
        let Self(b) = self;
        match group {
            0..4 => (b[group] & 63, b[group + 4] & 63),
            _ => (
                (b[group + 4] & 0xf) | ((b[group - 4] >> 6) << 4),
                (b[group + 4] >> 4) | ((b[group] >> 6) << 4),
            ),
        }
    }
}

/// A super-block of Q4_K or Q5_K, quantised but for the packing of its integers.
pub(super) struct Quants {
    pub d: super::Half,
    pub dmin: super::Half,
    pub scales: PackedScales,
    /// In order of the values.
    pub q: [u8; LEN],
}

/// Quantises a super-block of Q4_K or Q5_K: fits the groups, quantises their scales and mins to
/// 6 bits, then the values anew with those.
#[inline(always)]
pub(super) fn quantize_range(x: &[f32], search: &Search) -> Quants {
    let interleaved = interleave(x);
    let fit = fit_range(&interleaved, search);
    let greatest = |v: &[f32]| v.iter().fold(0.0, |max, &v| if v > max { v } else { max });
    let (max_scale, max_min) = (greatest(&fit.scale), greatest(&fit.min));
    let six_bits = |v: Lanes<GROUPS>, max: f32| {
        let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
        v.map(|v| (nearest(inverse * v) as u8).min(63))
    };
    let scales = PackedScales::pack(six_bits(fit.scale, max_scale), six_bits(fit.min, max_min));
    let (d, dmin) = (
        super::Half::new(max_scale / 63.0),
        super::Half::new(max_min / 63.0),
    );

    let mut q = [0; LEN];
    for (group, (x, q)) in x.chunks(GROUP).zip(q.chunks_mut(GROUP)).enumerate() {
        let (scale, min) = scales.get(group);
        let scale = d.to_f32() * f32::from(scale);
        let min = dmin.to_f32() * f32::from(min);
        for (i, (x, q)) in x.iter().zip(q).enumerate() {
            *q = if scale != 0.0 {
                nearest((x + min) / scale).clamp(0, search.greatest) as u8
            } else {
                fit.q[i][group]
            };
        }
    }
    Quants { d, dmin, scales, q }
}

/// Writes the groups' scales and mins of Q4_K or Q5_K in f32.
pub(super) fn range_scales(
    d: super::Half,
    dmin: super::Half,
    scales: &PackedScales,
    scale: &mut [f32],
    min: &mut [f32],
) {
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    for (group, (scale, min)) in scale.iter_mut().zip(min).enumerate() {
        let (s, m) = scales.get(group);
        (*scale, *min) = (d * f32::from(s), dmin * f32::from(m));
    }
}

/// The low nibbles of 256 values: of each run of 64, the first 32 below and the others above.
#[inline(always)]
pub(super) fn pack_nibbles(q: &[u8; LEN]) -> [u8; LEN / 2] {
    std::array::from_fn(|i| {
        let at = i / 32 * 64 + i % 32;
        (q[at] & 0xf) | (q[at + 32] << 4)
    })
}

/// The other way: value `i`'s nibble.
pub(super) fn nibble(qs: &[u8; LEN / 2], i: usize) -> u8 {
    let byte = qs[i / 64 * 32 + i % 32];
    if i % 64 < 32 { byte & 0xf } else { byte >> 4 }
}
