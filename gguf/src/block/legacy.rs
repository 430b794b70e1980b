//! What the formats of 32 values share: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.
//!
//! The scans give what one pass in order would, signs of zeros and NaNs included, but are
//! written so that the compiler can work on several values at once.

/// Values in a block.
pub(super) const LEN: usize = 32;

/// How many values a scan works on at once.
const LANES: usize = 8;

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = f32::INFINITY.to_bits();

/// What `pick` leaves of all lanes, half of them against the other half each time.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], pick: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] = pick(lanes[i], lanes[i + n]);
        }
        n /= 2;
    }
    lanes[0]
}

/// The value of greatest magnitude, the first of them; 0 where there is none. NaNs are passed
/// over.
#[inline(always)]
pub(super) fn peak(x: &[f32]) -> f32 {
    let (mut mins, mut maxs) = ([0.0; LANES], [0.0; LANES]);
    for x in x.chunks_exact(LANES) {
        for ((min, max), &x) in mins.iter_mut().zip(&mut maxs).zip(x) {
            *min = if x < *min { x } else { *min };
            *max = if x > *max { x } else { *max };
        }
    }
    let min = halve(mins, |a, b| if b < a { b } else { a });
    let max = halve(maxs, |a, b| if b > a { b } else { a });
    if max == -min {
        // Of both signs, which is rare, or all zeros.
        let first = x.iter().find(|&&x| x.abs() == max && x != 0.0);
        return first.copied().unwrap_or(0.0);
    }
    if max > -min { max } else { min }
}

/// The greatest magnitude. A NaN is forgotten with the next value, so that only one at the end
/// counts.
#[inline(always)]
pub(super) fn magnitude(x: &[f32]) -> f32 {
    let bits = x.iter().map(|x| (x.to_bits() & !SIGN) as i32);
    let greatest = bits.fold(0, i32::max) as u32;
    if greatest <= INFINITY {
        return f32::from_bits(greatest);
    }
    x.iter().fold(0.0, |max, x| {
        let x = x.abs();
        if max > x { max } else { x }
    })
}

/// The least and the greatest value, the first of equals (which matters for zeros' signs). NaNs
/// are passed over; where nothing else is, the range is the one turned inside out.
#[inline(always)]
pub(super) fn range(x: &[f32]) -> (f32, f32) {
    let (mut mins, mut maxs) = ([f32::MAX; LANES], [f32::MIN; LANES]);
    for x in x.chunks_exact(LANES) {
        for ((min, max), &x) in mins.iter_mut().zip(&mut maxs).zip(x) {
            *min = if x < *min { x } else { *min };
            *max = if x > *max { x } else { *max };
        }
    }
    let mut min = halve(mins, |a, b| if b < a { b } else { a });
    let mut max = halve(maxs, |a, b| if b > a { b } else { a });
    if min == 0.0 {
        min = x.iter().copied().find(|&x| x == 0.0).unwrap_or(min);
        max = if max == 0.0 { min } else { max };
    }
    (min, max)
}

/// `1 / d`, or 0 for 0.
#[inline(always)]
pub(super) fn inverse(d: f32) -> f32 {
    if d != 0.0 { 1.0 / d } else { 0.0 }
}

/// The low byte of `x` cut to an integer, as x86-64 converts: what does not fit 32 bits, and
/// NaN, becomes -2^31, whose low byte is 0.
#[inline(always)]
pub(super) fn truncate(x: f32) -> i8 {
    const LIMIT: f32 = 2147483648.0;
    (if x < LIMIT { x as i32 } else { i32::MIN }) as i8
}

/// The low nibbles of `q`: value `i` below, value `i + 16` above in byte `i`.
#[inline(always)]
pub(super) fn pack_nibbles(q: &[u8; LEN]) -> [u8; LEN / 2] {
    std::array::from_fn(|i| (q[i] & 0xf) | (q[i + LEN / 2] << 4))
}

/// The other way.
pub(super) fn unpack_nibbles(qs: &[u8; LEN / 2]) -> [u8; LEN] {
    std::array::from_fn(|i| {
        let byte = qs[i % (LEN / 2)];
        if i < LEN / 2 { byte & 0xf } else { byte >> 4 }
    })
}

/// The fifth bit of each of `q`: value `i`'s in bit `i`.
#[inline(always)]
pub(super) fn pack_fifth(q: &[u8; LEN]) -> [u8; LEN / 8] {
    std::array::from_fn(|i| (0..8).fold(0, |byte, bit| byte | (((q[i * 8 + bit] >> 4) & 1) << bit)))
}

/// Puts the fifth bits back above the nibbles.
pub(super) fn unpack_fifth(q: &mut [u8; LEN], qh: &[u8; LEN / 8]) {
    for (i, q) in q.iter_mut().enumerate() {
        *q |= ((qh[i / 8] >> (i % 8)) & 1) << 4;
    }
}
