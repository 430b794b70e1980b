//! The sampler against the probabilities that the reference's processors leave, and its laws.

mod definitions;

use std::sync::Arc;

use katari::sampler::{Params, Sampler, Step};
use proptest::prelude::*;
use serde_json::Value;

/// How far a probability may be from the reference's: both are f32 softmaxes of logits that
/// went through a few f32 operations, so they differ by some units in the last place of 1.
const PROBABILITY_TOLERANCE: f32 = 1e-6;

fn all_drawable(n: usize) -> Arc<[bool]> {
    vec![true; n].into()
}

/// The golden file writes parameters as `generate()` names them.
fn params(reference: &Value) -> Params {
    let mut map = reference.as_object().unwrap().clone();
    if let Some(words) = map.remove("bad_words_ids") {
        map.insert("banned".into(), words);
    }
    if let Some(eos) = map.remove("eos") {
        map.insert("eos".into(), vec![eos].into());
    }
    serde_json::from_value(Value::Object(map)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn probabilities_equal_the_reference() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("golden/sampler.json")).unwrap();
    assert!(golden.len() >= 21);
    for case in &golden {
        let name = case["name"].as_str().unwrap();
        let logits = floats(&case["logits"]);
        let expected = floats(&case["probs"]);
        let mut sampler =
            Sampler::new(params(&case["params"]), all_drawable(logits.len()), 0).unwrap();
        let mut found = vec![0.0; logits.len()];
        let prompt_len = case["prompt_len"].as_u64().unwrap() as usize;
        for c in sampler.probabilities(&logits, &ids(&case["history"]), prompt_len) {
            found[c.id as usize] = c.p;
        }
        for (id, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(
                *found > 0.0,
                *expected > 0.0,
                "{name}: id {id} has {found}, the reference {expected}"
            );
            assert!(
                (found - expected).abs() <= PROBABILITY_TOLERANCE,
                "{name}: id {id} has {found}, the reference {expected}"
            );
        }
    }
}

/// Probabilities of `logits` under `params`, with the text so far.
fn probabilities(params: Params, logits: &[f32], history: &[u32], prompt_len: usize) -> Vec<f32> {
    let mut sampler = Sampler::new(params, all_drawable(logits.len()), 0).unwrap();
    let mut p = vec![0.0; logits.len()];
    for c in sampler.probabilities(logits, history, prompt_len) {
        p[c.id as usize] = c.p;
    }
    p
}

/// Logits whose softmax is `p`.
fn logits_of(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln()).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= PROBABILITY_TOLERANCE;
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "found {found:?}, expected {expected:?}"
    );
}

#[test]
fn a_window_hides_what_is_further_back_from_the_repetition_penalty() {
    let logits = [2.0, 2.0, 2.0];
    let windowed = Params {
        repetition_penalty: 2.0,
        repetition_window: Some(1),
        ..Params::default()
    };
    let p = probabilities(windowed.clone(), &logits, &[0, 1], 0);
    assert!(p[0] == p[2] && p[1] < p[0], "{p:?}");
    let all = Params {
        repetition_window: None,
        ..windowed
    };
    let p = probabilities(all, &logits, &[0, 1], 0);
    assert!(p[0] == p[1] && p[0] < p[2], "{p:?}");
}

#[test]
fn presence_and_frequency_count_what_was_generated() {
    let half = 0.5f32.ln().abs();
    let logits = [0.0; 4];
    let history = [3, 0, 0, 1]; // the prompt is [3]
    let presence = Params {
        presence_penalty: half,
        ..Params::default()
    };
    assert_near(
        &probabilities(presence, &logits, &history, 1),
        &[0.5 / 3.0, 0.5 / 3.0, 1.0 / 3.0, 1.0 / 3.0],
    );
    let frequency = Params {
        frequency_penalty: half,
        ..Params::default()
    };
    assert_near(
        &probabilities(frequency, &logits, &history, 1),
        &[0.25 / 2.75, 0.5 / 2.75, 1.0 / 2.75, 1.0 / 2.75],
    );
}

#[test]
fn logit_bias_is_added() {
    let params = Params {
        logit_bias: [(1, 3f32.ln())].into(),
        ..Params::default()
    };
    assert_near(&probabilities(params, &[0.0, 0.0], &[], 0), &[0.25, 0.75]);
}

#[test]
fn the_order_is_kept() {
    let logits = logits_of(&[0.4, 0.3, 0.2, 0.1]);
    let params = |order: &[Step]| Params {
        temperature: 0.25,
        top_p: 0.6,
        order: order.to_vec(),
        ..Params::default()
    };
    let count = |p: Vec<f32>| p.iter().filter(|p| **p > 0.0).count();
    let cooled_first = params(&[Step::temperature, Step::top_p]);
    assert_eq!(count(probabilities(cooled_first, &logits, &[], 0)), 1);
    let cut_first = params(&[Step::top_p, Step::temperature]);
    assert_eq!(count(probabilities(cut_first, &logits, &[], 0)), 2);
    let left_out = params(&[Step::temperature]);
    assert_eq!(count(probabilities(left_out, &logits, &[], 0)), 4);
}

#[test]
fn min_length_counts_the_prompt_and_min_new_tokens_does_not() {
    let eos_allowed = |params: Params, history: &[u32], prompt_len| {
        let params = Params {
            eos: vec![1],
            ..params
        };
        probabilities(params, &[0.0, 0.0], history, prompt_len)[1] > 0.0
    };
    let min_length = Params {
        min_length: 3,
        ..Params::default()
    };
    assert!(!eos_allowed(min_length.clone(), &[0, 0], 2));
    assert!(eos_allowed(min_length, &[0, 0, 0], 3));
    let min_new_tokens = Params {
        min_new_tokens: 1,
        ..Params::default()
    };
    assert!(!eos_allowed(min_new_tokens.clone(), &[0, 0, 0], 3));
    assert!(eos_allowed(min_new_tokens, &[0, 0, 0], 2));
    let ignore = Params {
        ignore_eos: true,
        ..Params::default()
    };
    assert!(!eos_allowed(ignore, &[0; 100], 1));
}

#[test]
fn temperature_zero_takes_the_lowest_of_equal_ids() {
    let params = Params {
        temperature: 0.0,
        ..Params::default()
    };
    assert_eq!(
        probabilities(params, &[1.0, 3.0, 3.0, 2.0], &[], 0),
        [0.0, 1.0, 0.0, 0.0]
    );
}

#[test]
fn logits_that_are_no_numbers_do_not_panic() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let everything = Params {
        temperature: 0.7,
        top_k: 2,
        top_p: 0.9,
        min_p: 0.1,
        typical_p: 0.9,
        repetition_penalty: 1.1,
        ..Params::default()
    };
    let sample = |params: &Params, logits: &[f32]| {
        let mut sampler = Sampler::new(params.clone(), all_drawable(logits.len()), 1).unwrap();
        sampler.sample(logits, &[0, 1], 1)
    };
    for params in [&everything, &Params::default()] {
        assert_eq!(sample(params, &[nan, nan, nan]), None);
        assert_eq!(sample(params, &[-inf, nan, -inf]), None);
        assert_eq!(sample(params, &[nan, 1.0, -inf]), Some(1));
        assert_eq!(sample(params, &[1.0, 2.0, inf]), Some(2));
        assert_eq!(sample(params, &[]), None);
    }
}

#[test]
fn nothing_is_drawn_where_every_token_is_banned() {
    let params = Params {
        banned: vec![vec![0], vec![1]],
        ..Params::default()
    };
    let mut sampler = Sampler::new(params, all_drawable(2), 1).unwrap();
    assert_eq!(sampler.sample(&[0.0, 1.0], &[], 0), None);
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    let refused = |params: Params| {
        Sampler::new(params, all_drawable(10), 0)
            .unwrap_err()
            .to_string()
    };
    let d = Params::default;
    let cases = [
        (
            Params {
                temperature: -1.0,
                ..d()
            },
            ["temperature", "-1"],
        ),
        (
            Params {
                temperature: f32::NAN,
                ..d()
            },
            ["temperature", "NaN"],
        ),
        (Params { top_p: 1.5, ..d() }, ["top_p", "1.5"]),
        (Params { min_p: -0.1, ..d() }, ["min_p", "-0.1"]),
        (
            Params {
                typical_p: f32::INFINITY,
                ..d()
            },
            ["typical_p", "inf"],
        ),
        (
            Params {
                repetition_penalty: 0.0,
                ..d()
            },
            ["repetition_penalty", "0"],
        ),
        (
            Params {
                presence_penalty: f32::NAN,
                ..d()
            },
            ["presence_penalty", "NaN"],
        ),
        (
            Params {
                frequency_penalty: 1e9,
                ..d()
            },
            ["frequency_penalty", "1000000000"],
        ),
        (
            Params {
                logit_bias: [(3, f32::NAN)].into(),
                ..d()
            },
            ["logit_bias", "NaN"],
        ),
        (
            Params {
                logit_bias: [(10, 1.0)].into(),
                ..d()
            },
            ["logit_bias", "10"],
        ),
        (
            Params {
                banned: vec![vec![3, 11]],
                ..d()
            },
            ["banned", "11"],
        ),
        (
            Params {
                banned: vec![vec![]],
                ..d()
            },
            ["banned", "empty"],
        ),
        (
            Params {
                eos: vec![12],
                ..d()
            },
            ["eos", "12"],
        ),
        (
            Params {
                order: vec![Step::top_k; 2],
                ..d()
            },
            ["order", "top_k twice"],
        ),
        (
            Params {
                repetition_slope: 1.5,
                ..d()
            },
            ["repetition_slope", "1.5"],
        ),
    ];
    for (params, parts) in cases {
        let error = refused(params);
        for part in parts {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
        assert!(error.contains("expected"), "{error:?}");
    }
    assert!("top-k".parse::<Step>() == Ok(Step::top_k));
    assert!("topk".parse::<Step>().is_err());
}

#[test]
fn params_go_through_json() {
    let params = Params {
        top_k: 3,
        logit_bias: [(7, -1.5)].into(),
        order: vec![Step::top_k, Step::temperature],
        ..Params::default()
    };
    let json = serde_json::to_string(&params).unwrap();
    assert_eq!(serde_json::from_str::<Params>(&json).unwrap(), params);
    assert!(serde_json::from_str::<Params>(r#"{"top-k": 3}"#).is_err());
}

/// The draw is part of the product: a seed must give the same text in the next version too.
#[test]
fn the_generator_is_what_it_says() {
    let mut sampler = Sampler::new(Params::default(), all_drawable(1000), 42).unwrap();
    let logits = [0.0; 1000];
    let mut history = vec![];
    for _ in 0..8 {
        history.push(sampler.sample(&logits, &history, 0).unwrap());
    }
    assert_eq!(history, [526, 542, 636, 405, 34, 414, 737, 849]);
}

fn any_params() -> impl Strategy<Value = Params> {
    (
        (0.0f32..3.0, 0usize..70, 0.0f32..=1.0, 0.0f32..0.5),
        (0.0f32..=1.0, 0.5f32..3.0, -2.0f32..2.0, -2.0f32..2.0),
        proptest::collection::btree_map(0u32..64, -20.0f32..20.0, 0..5),
        Just(Step::ALL.to_vec()).prop_shuffle(),
    )
        .prop_map(|(a, b, logit_bias, order)| Params {
            temperature: a.0,
            top_k: a.1,
            top_p: a.2,
            min_p: a.3,
            typical_p: b.0,
            repetition_penalty: b.1,
            frequency_penalty: b.2,
            presence_penalty: b.3,
            logit_bias,
            order,
            ..Params::default()
        })
}

proptest! {
    #[test]
    fn surplus_rows_are_never_drawn(
        mut params in any_params(),
        logits in proptest::collection::vec(-20.0f32..20.0, 64),
        seed: u64,
        bias in 0.0f32..1e30,
    ) {
        // The surplus rows are the likeliest by far.
        let drawable: Arc<[bool]> = (0..64).map(|id| id % 3 == 0 && id < 60).collect();
        params.logit_bias.insert(61, bias);
        let mut sampler = Sampler::new(params, drawable.clone(), seed).unwrap();
        let mut history = vec![61, 5];
        for _ in 0..4 {
            let id = sampler.sample(&logits, &history, 2).unwrap();
            prop_assert!(drawable[id as usize]);
            history.push(id);
        }
    }

    #[test]
    fn probabilities_add_up_and_their_order_survives(
        params in any_params(),
        logits in proptest::collection::vec(-20.0f32..20.0, 64),
    ) {
        let mut sampler = Sampler::new(params, all_drawable(64), 0).unwrap();
        let left = sampler.probabilities(&logits, &[1, 2, 3, 2], 2);
        let sum: f64 = left.iter().map(|c| f64::from(c.p)).sum();
        prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        prop_assert!(left.windows(2).all(|pair| pair[0].id < pair[1].id));
    }

    #[test]
    fn same_seed_same_text_wherever_it_is_taken_up(
        params in any_params(),
        logits in proptest::collection::vec(-5.0f32..5.0, 64),
        seed: u64,
        taken_up in 1usize..12,
    ) {
        let write = |mut history: Vec<u32>| {
            let mut sampler = Sampler::new(params.clone(), all_drawable(64), seed).unwrap();
            while history.len() < 14 {
                history.push(sampler.sample(&logits, &history, 2).unwrap());
            }
            history
        };
        let text = write(vec![4, 2]);
        prop_assert_eq!(&write(text[..2 + taken_up].to_vec()), &text);
    }

    /// The partial selections against plain sorting.
    #[test]
    fn top_k_and_top_p_equal_a_full_sort(
        logits in proptest::collection::vec((-40i32..40).prop_map(|l| l as f32 / 4.0), 1..2000),
        k in 1usize..300,
        top_p in 0.01f32..0.999,
    ) {
        let mut sorted: Vec<usize> = (0..logits.len()).collect();
        sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let least = logits[sorted[k.min(logits.len()) - 1]];
        let found = probabilities(Params { top_k: k, ..Params::default() }, &logits, &[], 0);
        for (logit, p) in logits.iter().zip(&found) {
            prop_assert_eq!(*logit >= least, *p > 0.0);
        }

        let plain = probabilities(Params::default(), &logits, &[], 0);
        let found = probabilities(Params { top_p, ..Params::default() }, &logits, &[], 0);
        let mut sum = 0.0;
        for &id in &sorted {
            prop_assert_eq!(sum < f64::from(top_p), found[id] > 0.0);
            sum += f64::from(plain[id]);
        }
    }
}

/// What is drawn in place of a token that was taken back has the share it has without that token.
#[test]
fn the_draw_follows_the_probabilities_after_a_token_was_taken_back() {
    let logits = logits_of(&[0.5, 0.2, 0.3]);
    let mut counts = [0u32; 3];
    const DRAWS: u32 = 10_000;
    for seed in 0..DRAWS {
        let mut sampler = Sampler::new(Params::default(), all_drawable(3), seed.into()).unwrap();
        let mark = sampler.mark();
        let mut drawn = sampler.sample(&logits, &[], 0).unwrap();
        if drawn == 0 {
            sampler.take_back(mark, 0);
            drawn = sampler.sample(&logits, &[], 0).unwrap();
            // Only there.
            assert!(sampler.probabilities(&logits, &[drawn], 0)[0].p > 0.4);
        }
        counts[drawn as usize] += 1;
    }
    let deviation = (f64::from(DRAWS) * 0.4 * 0.6).sqrt();
    assert_eq!(counts[0], 0);
    assert!(
        (f64::from(counts[1]) - 0.4 * f64::from(DRAWS)).abs() < 5.0 * deviation,
        "{counts:?}"
    );
}

#[test]
fn the_draw_follows_the_probabilities() {
    let logits = logits_of(&[0.5, 0.3, 0.2]);
    let mut counts = [0u32; 3];
    const DRAWS: u32 = 20_000;
    let mut sampler = Sampler::new(Params::default(), all_drawable(3), 7).unwrap();
    let mut history = Vec::new();
    for _ in 0..DRAWS {
        let id = sampler.sample(&logits, &history, 0).unwrap();
        counts[id as usize] += 1;
        history.push(id);
    }
    for (count, p) in counts.iter().zip([0.5, 0.3, 0.2]) {
        // Five standard deviations of a binomial.
        let deviation = (f64::from(DRAWS) * p * (1.0 - p)).sqrt();
        assert!(
            (f64::from(*count) - f64::from(DRAWS) * p).abs() < 5.0 * deviation,
            "{counts:?}"
        );
    }
}
