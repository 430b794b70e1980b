use super::elementwise::mean;
use super::functions::{exp, gelu_erf, gelu_tanh};
use super::*;

/// Values over the whole useful range, dense around 0.
fn samples() -> Vec<f32> {
    (-40_000..=40_000)
        .map(|i| {
            let x = i as f32 / 4000.0;
            x * x.abs()
        })
        .collect()
}

/// erf by its Maclaurin series, or for large arguments the continued fraction of erfc.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut fraction = 0.0;
    for k in (1..60).rev() {
        fraction = f64::from(k) / 2.0 / (x.abs() + fraction);
    }
    let erfc = (-x * x).exp() / ((x.abs() + fraction) * std::f64::consts::PI.sqrt());
    (1.0 - erfc).copysign(x)
}

/// A bound on |approximation - exact| / max(1, |x|), under 2 ulp; goldens allow 2e-3 on logits
/// after several layers.
const GELU_TOLERANCE: f64 = 2e-7;

#[test]
fn gelu_is_close_to_exact() {
    for x in samples().into_iter().filter(|x| x.abs() < 5.0) {
        let d = f64::from(x);
        let tolerance = GELU_TOLERANCE * d.abs().max(1.0);
        let exact = d / 2.0 * (1.0 + erf(d / 2f64.sqrt()));
        let error = (f64::from(gelu_erf(x)) - exact).abs();
        assert!(error < tolerance, "erf {x}: {} {exact}", gelu_erf(x));
        let u = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
        let exact = d / 2.0 * (1.0 + u.tanh());
        let error = (f64::from(gelu_tanh(x)) - exact).abs();
        assert!(error < tolerance, "tanh {x}: {} {exact}", gelu_tanh(x));
    }
}

#[test]
fn gelu_far_out_is_the_identity_or_nothing() {
    for f in [gelu_erf, gelu_tanh] {
        assert_eq!(f(0.0), 0.0);
        for x in [20.0, 1e4, 1e30] {
            assert_eq!(f(x), x);
            assert_eq!(f(-x), 0.0);
        }
        assert!(f(f32::NAN).is_nan());
    }
}

#[test]
fn exp_is_within_two_ulp() {
    for x in samples().into_iter().filter(|x| (-87.0..88.0).contains(x)) {
        let exact = f64::from(x).exp();
        let error = (f64::from(exp(x)) - exact).abs() / exact;
        assert!(error < 2.4e-7, "{x}: {} {exact}", exp(x));
    }
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn norm_has_mean_0_and_variance_1() {
    let x: Vec<f32> = (0..83).map(|i| 100.0 + (i * i % 31) as f32).collect();
    let (ones, mut out) = (vec![1.0; x.len()], vec![0.0; x.len()]);
    layer_norm(&x, &ones, None, 0.0, &mut out);
    assert!(mean(&out, |x| x).abs() < 1e-6);
    assert!((mean(&out, |x| x * x) - 1.0).abs() < 1e-6);
    let twos = vec![2.0; x.len()];
    let mut shifted = vec![0.0; x.len()];
    layer_norm(&x, &twos, Some(&ones), 0.0, &mut shifted);
    for (a, b) in out.iter().zip(&shifted) {
        assert_eq!(a.mul_add(2.0, 1.0), *b);
    }
}

/// A softmax in chunks is the softmax of all at once, whatever the first chunk holds.
#[test]
fn chunks_merge() {
    for (first, step) in [(-50.0, 0.3), (40.0, -0.3)] {
        let scores: Vec<f32> = (0..150)
            .map(|i| ((i * 37 % 101) as f32 + first) * step)
            .collect();
        let (mut total, mut acc) = (Softmax::EMPTY, [0.0f32]);
        let mut start = 0;
        for n in [64, 1, 85] {
            let mut chunk = [f32::NAN; 96];
            chunk[..n].copy_from_slice(&scores[start..start + n]);
            let part = softmax(&mut chunk, n, 0.5);
            let whole = n.next_multiple_of(LANES);
            assert!(chunk[n..whole].iter().all(|&w| w == 0.0));
            assert_eq!(part.sum, {
                let mut lanes = [0.0; LANES];
                for (i, w) in chunk[..whole].iter().enumerate() {
                    lanes[i % LANES] += w;
                }
                tree(lanes)
            });
            let sum = (0..n).map(|i| chunk[i] * (start + i) as f32).sum();
            merge(&mut total, &mut acc, part, &[sum]);
            start += n;
        }
        let weights = scores.iter().map(|&s| f64::from(s * 0.5).exp());
        let sum: f64 = weights.clone().sum();
        let expected: f64 = weights.enumerate().map(|(i, w)| w / sum * i as f64).sum();
        let found = f64::from(acc[0] / total.sum);
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

/// The first chunk is merged into nothing without rounding, so one that is alone is as it was.
#[test]
fn one_chunk_stays_as_it_is() {
    let part = Softmax {
        max: -3.25,
        sum: 1.7,
    };
    let (mut total, mut acc) = (Softmax::EMPTY, [0.0; 2]);
    merge(&mut total, &mut acc, part, &[0.1, -0.3]);
    assert_eq!((total, acc), (part, [0.1, -0.3]));
}

#[test]
fn rotation_turns_pairs() {
    let (cos, sin) = ([0.0, 1.0], [1.0, 0.0]);
    let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
    rotate(&mut head, &cos, &sin, RopePairs::Adjacent);
    assert_eq!(head, [-2.0, 1.0, 3.0, 4.0, 5.0]);
    let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
    rotate(&mut head, &cos, &sin, RopePairs::Halves);
    assert_eq!(head, [-3.0, 2.0, 1.0, 4.0, 5.0]);
}
