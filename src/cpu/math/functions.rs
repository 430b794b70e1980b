//! The exponential and what is made of it.

/// `e^x` within 2 ulp. Results below the normal numbers are 0, above 2^127.5 they are infinite.
///
/// `x = n ln 2 + r` with n whole, so `e^x = 2^n e^r` with `|r| <= ln 2 / 2`; there the Taylor
/// series to the 7th power is within 6e-9.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves the rounded sum in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
    /// ln 2 in two parts, the first short enough that `n * LN2_HI` is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.336_54; // ln of the least normal number
    let clamped = if x > 89.0 { 89.0 } else { x };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, clamped));
    let p = (1.0f32 / 5040.0)
        .mul_add(r, 1.0 / 720.0)
        .mul_add(r, 1.0 / 120.0)
        .mul_add(r, 1.0 / 24.0)
        .mul_add(r, 1.0 / 6.0)
        .mul_add(r, 0.5)
        .mul_add(r, 1.0)
        .mul_add(r, 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LOWEST { 0.0 } else { p * power }
}

/// `x Phi(x)`, Phi the normal distribution; error below 2e-7 max(1, |x|).
///
/// `Phi(-t) = e^(-t^2/2) y P(y)` with `y = 1 / (1 + 0.35 t)`: the form of Abramowitz and Stegun
/// 7.1.26, with a polynomial of degree 8 fitted by interpolation at Chebyshev nodes for t in
/// 0..13 (relative error 4e-8).
#[inline(always)]
pub(super) fn gelu_erf(x: f32) -> f32 {
    let t = x.abs();
    let y = 1.0 / t.mul_add(0.35, 1.0);
    let p = (-2.952_030_8e-2f32)
        .mul_add(y, 1.458_046_6e-1)
        .mul_add(y, -2.595_086_6e-1)
        .mul_add(y, 1.634_932_6e-1)
        .mul_add(y, -2.605_236_6e-2)
        .mul_add(y, 1.067_301_8e-1)
        .mul_add(y, 1.195_322_9e-1)
        .mul_add(y, 1.399_016_9e-1)
        .mul_add(y, 1.396_192_4e-1);
    let tail = x * (exp(-0.5 * t * t) * (y * p));
    if x < 0.0 { tail } else { x - tail }
}

/// `x/2 (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, as `x / (1 + e^(-2u))`.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = x * (0.044_715 * x).mul_add(x, 1.0);
    x / (1.0 + exp(-TWICE_SQRT_2_OVER_PI * u))
}

#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}
