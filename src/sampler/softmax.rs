//! The softmax over a vocabulary, which every token needs at least once. Loops that a compiler
//! makes vectors of: no calls, no branches, sums in lanes.

/// Partial sums or maxima side by side: more than registers have, so that there is no waiting.
const LANES: usize = 16;

/// The largest of `logits`, none of which is NaN; minus infinity where there are none.
pub(super) fn largest(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for logits in whole {
        for (lane, &logit) in lanes.iter_mut().zip(logits) {
            *lane = larger(*lane, logit);
        }
    }
    let rest = rest.iter().copied();
    lanes
        .into_iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, larger)
}

/// The sum, always in the same order.
fn sum(p: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (whole, rest) = p.as_chunks::<LANES>();
    for p in whole {
        for (lane, &p) in lanes.iter_mut().zip(p) {
            *lane += f64::from(p);
        }
    }
    let rest = rest.iter().map(|&p| f64::from(p));
    lanes.into_iter().chain(rest).sum()
}

/// Writes the probability of each of `logits` to `p`. Where logits are plus infinity, those share
/// it; where all are minus infinity, every probability is 0.
pub(super) fn softmax(logits: &[f32], p: &mut [f32]) {
    let max = largest(logits);
    if max == f32::NEG_INFINITY {
        p.fill(0.0);
        return;
    }
    for (p, &logit) in p.iter_mut().zip(logits) {
        // Also where both are infinite.
        let below = if logit == max { 0.0 } else { logit - max };
        *p = exp(below);
    }
    // At least 1.
    let factor = (1.0 / sum(p)) as f32;
    for p in p {
        *p *= factor;
    }
}

/// `e^x` for `x` up to 0, within 2 ulp; below the normal numbers it is 0.
///
/// `x = n ln 2 + r` with n whole, so `e^x = 2^n e^r` with `|r| <= ln 2 / 2`; there the Taylor
/// series to the 7th power is within 6e-9. (Without fused multiply-adds, which the processors
/// that this is compiled for need not have.)
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it leaves the rounded sum in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
    /// ln 2 in two parts, the first short enough that `n * LN2_HI` is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.336_54; // ln of the least normal number
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * LN2_HI - n * LN2_LO;
    let series = [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let p = (series.into_iter()).fold(1.0f32 / 5040.0, |p, coefficient| p * r + coefficient);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LOWEST { 0.0 } else { p * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two units in the last place of a number just above a power of two.
    const EXP_TOLERANCE: f64 = 2.4e-7;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in 0..=873_000 {
            let x = i as f32 * -1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < EXP_TOLERANCE, "{x}: {} {exact}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    /// Of any number of logits, whole lanes or not.
    #[test]
    fn probabilities_are_those_of_f64() {
        for n in [1, 2, 15, 16, 17, 63, 1000] {
            // Their differences are exact.
            let logits: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 / 4.0 - 9.0).collect();
            let exps: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
            let total: f64 = exps.iter().sum();
            let mut p = vec![f32::NAN; n];
            softmax(&logits, &mut p);
            for (p, exp) in p.iter().zip(exps) {
                assert!((f64::from(*p) * total / exp - 1.0).abs() < 2.0 * EXP_TOLERANCE);
            }
        }
    }

    #[test]
    fn infinite_logits_share_or_have_nothing() {
        let (up, down) = (f32::INFINITY, f32::NEG_INFINITY);
        for (logits, expected) in [
            ([up, 3.0, up, down], [0.5, 0.0, 0.5, 0.0]),
            ([down; 4], [0.0; 4]),
            ([down, 2.0, down, down], [0.0, 1.0, 0.0, 0.0]),
        ] {
            let mut p = [f32::NAN; 4];
            softmax(&logits, &mut p);
            assert_eq!(p, expected);
        }
        softmax(&[], &mut []);
    }
}
