//! The samplers beyond the reference's, against their published definitions, computed here in
//! f64 in the plainest way.

use std::collections::BTreeMap;

use katari::sampler::{
    Dry, DynamicTemperature, Mirostat, MirostatVersion, Params, Sampler, Smoothing, Step, Xtc,
};
use proptest::prelude::*;

use super::{all_drawable, probabilities};

/// The library computes probabilities in f32.
const TOLERANCE: f64 = 1e-5;
/// How many of f32's roundings a smoothed logit goes through at most.
const ROUNDINGS: f64 = 6.0;

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

/// The softmax of the logits that are kept.
fn kept_softmax(logits: &[f64], keep: impl Fn(usize) -> bool) -> Vec<f64> {
    let kept: Vec<f64> = (logits.iter().enumerate())
        .map(|(i, &x)| if keep(i) { x } else { f64::NEG_INFINITY })
        .collect();
    softmax(&kept)
}

/// Ids, the likeliest first.
fn ranked(p: &[f64]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..p.len()).collect();
    ids.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    ids
}

/// Logits far enough from each other that rounding changes no order.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let step = prop::collection::vec(1..40u32, 4..40);
    (step, any::<u64>()).prop_map(|(steps, seed)| {
        let mut sum = 0;
        let mut values: Vec<f32> = (steps.iter())
            .map(|step| {
                sum += step;
                sum as f32 / 64.0
            })
            .collect();
        let mut random = crate::support::Random(seed);
        for i in (1..values.len()).rev() {
            values.swap(i, random.below(i + 1));
        }
        values
    })
}

fn wide(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&x| f64::from(x)).collect()
}

fn near(found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    for (id, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let found = f64::from(found);
        prop_assert!(
            (found - expected).abs() <= TOLERANCE && (found > 0.0) == (expected > 0.0),
            "id {id} has {found}, expected {expected}"
        );
    }
    Ok(())
}

proptest! {
    /// BlinkDL's top-a: out goes what is below `a * p_max^2`.
    #[test]
    fn top_a(logits in logits(), a in 0.01f32..1.0) {
        let p = softmax(&wide(&logits));
        let limit = f64::from(a) * p.iter().copied().fold(0.0, f64::max).powi(2);
        prop_assume!(p.iter().all(|p| (p / limit - 1.0).abs() > 1e-4));
        let found = probabilities(Params { top_a: a, ..Params::default() }, &logits, &[], 0);
        near(&found, &kept_softmax(&wide(&logits), |i| p[i] >= limit))?;
    }

    /// Tang et al. 2024: in stays what is at least `max - n * sigma`, whatever the temperature.
    #[test]
    fn top_n_sigma(logits in logits(), n in 0.1f32..3.0, temperature in 0.5f32..2.0) {
        let x = wide(&logits);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let sigma = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt();
        let limit = x.iter().copied().fold(f64::MIN, f64::max) - f64::from(n) * sigma;
        prop_assume!(x.iter().all(|x| (x - limit).abs() > 1e-4));
        let params = Params { top_n_sigma: n, temperature, ..Params::default() };
        let heated: Vec<f64> = x.iter().map(|x| x / f64::from(temperature)).collect();
        near(&probabilities(params, &logits, &[], 0), &kept_softmax(&heated, |i| x[i] >= limit))?;
    }

    /// Phénix and Egan 2019, as KoboldAI has it: of the sorted probabilities the absolute second
    /// differences, normalised; out goes what is after their sum passed z, and the last.
    #[test]
    fn tail_free(logits in logits(), z in 0.05f32..0.99) {
        let p = softmax(&wide(&logits));
        let order = ranked(&p);
        let sorted: Vec<f64> = order.iter().map(|&i| p[i]).collect();
        let first: Vec<f64> = sorted.windows(2).map(|w| w[1] - w[0]).collect();
        let second: Vec<f64> = first.windows(2).map(|w| (w[1] - w[0]).abs()).collect();
        let total: f64 = second.iter().sum();
        let mut sum = 0.0;
        let cdf: Vec<f64> = second.iter().map(|d| { sum += d / total; sum }).collect();
        prop_assume!(cdf.iter().all(|c| (c - f64::from(z)).abs() > 1e-4));
        let mut keep = vec![false; p.len()];
        keep[order[0]] = true;
        for (i, cdf) in cdf.iter().enumerate() {
            keep[order[i + 1]] = *cdf <= f64::from(z);
        }
        let found = probabilities(Params { tail_free: z, ..Params::default() }, &logits, &[], 0);
        near(&found, &kept_softmax(&wide(&logits), |i| keep[i]))?;
    }

    /// kalomaze's dynamic temperature: from the entropy relative to the highest one.
    #[test]
    fn dynamic_temperature(
        logits in logits(), low in 0.2f32..1.0, high in 1.0f32..3.0, exponent in 0.3f32..2.0,
    ) {
        let x = wide(&logits);
        let entropy: f64 = softmax(&x).iter().map(|p| -p * p.ln()).sum();
        let relative = entropy / (x.len() as f64).ln();
        let (low_, high_) = (f64::from(low), f64::from(high));
        let t = low_ + (high_ - low_) * relative.powf(f64::from(exponent));
        let params = Params {
            dynamic_temperature: Some(DynamicTemperature { low, high, exponent }),
            ..Params::default()
        };
        let heated: Vec<f64> = x.iter().map(|x| x / t).collect();
        near(&probabilities(params, &logits, &[], 0), &softmax(&heated))?;
    }

    /// kalomaze's quadratic sampling and its curve: from the distance to the highest logit, after
    /// the temperature.
    #[test]
    fn smoothing(
        logits in logits(), factor in 0.05f32..2.0, curve in 0.0f32..4.0, temperature in 0.5f32..2.0,
    ) {
        let x: Vec<f64> = wide(&logits).iter().map(|x| x / f64::from(temperature)).collect();
        let max = x.iter().copied().fold(f64::MIN, f64::max);
        let (factor_, curve_) = (f64::from(factor), f64::from(curve));
        let (k, s) = ((3.0 - curve_) / 2.0, (curve_ - 1.0) / 2.0);
        let smooth: Vec<f64> = (x.iter().map(|x| x - max))
            .map(|d| -(k * factor_ * d.powi(2)) + s * factor_ * d.powi(3) + max)
            .collect();
        let params = Params {
            smoothing: Some(Smoothing { factor, curve }),
            temperature,
            ..Params::default()
        };
        let found = probabilities(params, &logits, &[], 0);
        let expected = softmax(&smooth);
        // Of a curve below 1 the cube lifts what is far below the highest, to logits of thousands
        // where f32 has steps of 1e-4. What is rounded is each term: d (which the cube takes
        // thrice), the two coefficients, the products and the sum.
        let errors: Vec<f64> = (x.iter().map(|x| max - x))
            .map(|d| max.abs() + factor_ * (k.abs() * d.powi(2) + s.abs() * d.powi(3)))
            .map(|terms| ROUNDINGS * f64::from(f32::EPSILON) / 2.0 * terms)
            .collect();
        // A softmax passes on the errors of its logits by their probabilities.
        let mean: f64 = expected.iter().zip(&errors).map(|(p, error)| p * error).sum();
        for ((&found, p), error) in found.iter().zip(&expected).zip(&errors) {
            // A steep curve may leave a probability below what f32 has.
            let tolerance = TOLERANCE + p * (error + mean);
            prop_assert!((f64::from(found) - p).abs() <= tolerance);
        }
    }

    /// koboldcpp's slope: of the window's tokens, those only in its older half (the larger one
    /// of an odd number) are punished less.
    #[test]
    fn repetition_slope(
        logits in logits(), history in prop::collection::vec(0..6u32, 0..30),
        penalty in 0.5f32..2.0, slope in 0.0f32..=1.0, window in prop::option::of(0..40usize),
    ) {
        let n = history.len().min(window.unwrap_or(usize::MAX));
        let seen = &history[history.len() - n..];
        let mut x: Vec<f64> = wide(&logits).iter().map(|x| x - 5.0).collect();
        let shifted: Vec<f32> = logits.iter().map(|x| x - 5.0).collect();
        for (id, x) in x.iter_mut().enumerate() {
            let Some(last) = seen.iter().rposition(|&t| t as usize == id) else { continue };
            let mut this = f64::from(penalty);
            if 2 * last < n && this > 1.0 {
                this = 1.0 + (this - 1.0) * f64::from(slope);
            }
            *x = if *x < 0.0 { *x * this } else { *x / this };
        }
        let params = Params {
            repetition_penalty: penalty,
            repetition_window: window,
            repetition_slope: slope,
            ..Params::default()
        };
        near(&probabilities(params, &shifted, &history, 0), &softmax(&x))?;
    }

    /// p-e-w's XTC: out go all tokens at or above the threshold but the least likely of them.
    #[test]
    fn xtc(logits in logits(), threshold in 0.01f32..0.5) {
        let p = softmax(&wide(&logits));
        prop_assume!(p.iter().all(|p| (p / f64::from(threshold) - 1.0).abs() > 1e-4));
        let order = ranked(&p);
        // A token is out if the one after it is still above.
        let mut keep = vec![true; p.len()];
        for pair in order.windows(2) {
            keep[pair[0]] = p[pair[1]] < f64::from(threshold);
        }
        let params = |probability| Params {
            xtc: Xtc { probability, threshold },
            ..Params::default()
        };
        let found = probabilities(params(1.0), &logits, &[], 0);
        near(&found, &kept_softmax(&wide(&logits), |i| keep[i]))?;
        near(&probabilities(params(0.0), &logits, &[], 0), &p)?;
    }

    /// Basu et al. 2021, algorithm 1 (Zipf) and its successor (Bound), several tokens on: the
    /// bound follows `mu -= eta * (surprise - tau)`.
    #[test]
    fn mirostat(
        logits in logits(), target in 0.5f32..4.0, rate in 0.05f32..1.0, zipf: bool, seed: u64,
    ) {
        let x = wide(&logits);
        let p = softmax(&x);
        let order = ranked(&p);
        let params = Params {
            mirostat: Some(Mirostat {
                version: if zipf { MirostatVersion::Zipf } else { MirostatVersion::Bound },
                target,
                rate,
            }),
            ..Params::default()
        };
        let mut sampler = Sampler::new(params, all_drawable(x.len()), seed).unwrap();
        let mut history = Vec::new();
        let mut mu = 2.0 * f64::from(target);
        for _ in 0..8 {
            let exact = if zipf {
                let m = order.len().min(100);
                let t: Vec<f64> = (1..m).map(|i| ((i + 1) as f64 / i as f64).ln()).collect();
                let b: Vec<f64> = (1..m).map(|i| (p[order[i - 1]] / p[order[i]]).ln()).collect();
                let s = t.iter().zip(&b).map(|(t, b)| t * b).sum::<f64>()
                    / t.iter().map(|t| t * t).sum::<f64>();
                let e = s - 1.0;
                (e * 2f64.powf(mu) / (1.0 - (p.len() as f64).powf(-e))).powf(1.0 / s)
            } else {
                prop_assume!(p.iter().all(|p| (-p.log2() - mu).abs() > 1e-4));
                order.iter().take_while(|&&i| -p[i].log2() <= mu).count() as f64
            };
            // Where rounding decides, the next tokens say nothing.
            prop_assume!(exact.is_finite() && (exact.fract() - 0.5).abs() > 1e-3);
            let k = (exact.round() as usize).clamp(1, p.len());
            let kept = &order[..k];
            let mut found = vec![0.0; p.len()];
            for c in sampler.probabilities(&logits, &history, 0) {
                found[c.id as usize] = c.p;
            }
            near(&found, &kept_softmax(&x, |i| kept.contains(&i)))?;
            let drawn = sampler.sample(&logits, &history, 0).unwrap();
            history.push(drawn);
            mu -= f64::from(rate) * (-p[drawn as usize].log2() - f64::from(target));
        }
    }

    /// p-e-w's DRY, word for word: for each earlier place of the last token, how long is what
    /// came before both the same, without sequence breakers?
    #[test]
    fn dry(
        history in prop::collection::vec(0..5u32, 0..40), allowed_length in 1..4usize,
        multiplier in 0.1f32..2.0, window in prop::option::of(1..40usize),
    ) {
        let breaker = 4;
        let seen = &history[history.len().saturating_sub(window.unwrap_or(usize::MAX))..];
        let mut penalty: BTreeMap<u32, f64> = BTreeMap::new();
        if seen.last().is_some_and(|last| *last != breaker) {
            let n = seen.len();
            for i in (0..n - 1).filter(|&i| seen[i] == seen[n - 1] && seen[i + 1] != breaker) {
                let mut length = 1;
                while length <= i
                    && seen[i - length] == seen[n - 1 - length]
                    && seen[i - length] != breaker
                {
                    length += 1;
                }
                if length >= allowed_length {
                    let power = (length - allowed_length) as i32;
                    let this = f64::from(multiplier) * 1.75f64.powi(power);
                    let entry = penalty.entry(seen[i + 1]).or_default();
                    *entry = entry.max(this);
                }
            }
        }
        let logits = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2];
        let penalised: Vec<f64> = (logits.iter().zip(0..))
            .map(|(&x, id)| f64::from(x) - penalty.get(&id).unwrap_or(&0.0))
            .collect();
        let params = Params {
            dry: Dry {
                multiplier,
                allowed_length,
                window,
                breakers: [breaker].into(),
                ..Dry::default()
            },
            ..Params::default()
        };
        let found = probabilities(params, &logits, &history, 0);
        for (&found, expected) in found.iter().zip(softmax(&penalised)) {
            // A long repetition may leave a probability below what f32 has.
            prop_assert!((f64::from(found) - expected).abs() <= TOLERANCE);
        }
    }
}

/// XTC strikes as often as it should, and at the same places for the same seed.
#[test]
fn xtc_strikes_by_chance() {
    let logits = [2.0, 1.9, 0.0];
    let strikes = |seed| -> Vec<bool> {
        let params = Params {
            xtc: Xtc {
                probability: 0.3,
                threshold: 0.2,
            },
            ..Params::default()
        };
        let mut sampler = Sampler::new(params, all_drawable(3), seed).unwrap();
        (0..2000)
            .map(|n| {
                let history = vec![2; n];
                sampler.probabilities(&logits, &history, 0).len() == 2
            })
            .collect()
    };
    let struck = strikes(1);
    let count = struck.iter().filter(|s| **s).count();
    // 600 are expected, with a standard deviation of 20.
    assert!((500..700).contains(&count), "{count} of 2000");
    assert_eq!(struck, strikes(1));
    assert_ne!(struck, strikes(2));
}

/// With a threshold of 0 all but one of those that may be drawn are left out.
#[test]
fn xtc_leaves_a_token_that_is_not_banned() {
    let params = Params {
        xtc: Xtc {
            probability: 1.0,
            threshold: 0.0,
        },
        banned: vec![vec![0], vec![3]],
        ..Params::default()
    };
    assert_eq!(
        probabilities(params, &[2.0, 1.0, 0.0, -1.0], &[1], 0),
        [0.0, 0.0, 1.0, 0.0]
    );
}

/// Quotients beyond f32 do not make unlikely tokens as likely as others.
#[test]
fn a_temperature_near_0_is_greedy() {
    for logits in [[1.0, 3.0, 2.0], [-3.0, -1.0, -2.0], [-1.0, 0.0, -0.5]] {
        let params = Params {
            temperature: 1e-40,
            ..Params::default()
        };
        let expected = [0.0, 1.0, 0.0];
        assert_eq!(probabilities(params, &logits, &[1], 0), expected);
    }
}

#[test]
fn what_is_off_changes_nothing() {
    let logits = [1.0, 3.0, 2.0, 0.5];
    let plain = Params {
        order: Vec::new(),
        ..Params::default()
    };
    let expected = probabilities(plain, &logits, &[1, 2, 1], 0);
    assert_eq!(
        probabilities(Params::default(), &logits, &[1, 2, 1], 0),
        expected
    );
    assert!(Params::default().order.contains(&Step::mirostat));
}
