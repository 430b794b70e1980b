//! The order of the sampler's steps, as clients give it.

use std::collections::HashSet;

use serde_json::Value;

use super::values::strings;
use crate::sampler::Step;

/// What only makes tokens more or less likely, before anything is left out.
pub const PENALTIES: [Step; 5] = [
    Step::repetition_penalty,
    Step::frequency_penalty,
    Step::presence_penalty,
    Step::dry,
    Step::logit_bias,
];

/// The names that clients give steps in `samplers` and `sampler_priority`, and the steps.
const STEP_NAMES: &[(&[&str], &[Step])] = &[
    (
        &["penalties", "repetition_penalty", "e"],
        &[
            Step::repetition_penalty,
            Step::frequency_penalty,
            Step::presence_penalty,
        ],
    ),
    (&["temperature", "temp", "t"], &[Step::temperature]),
    (&["quadratic_sampling"], &[Step::smoothing]),
    (&["top_k", "k"], &[Step::top_k]),
    (&["top_p", "p"], &[Step::top_p]),
    (&["min_p", "m"], &[Step::min_p]),
    (&["typical_p", "typ_p", "typical", "y"], &[Step::typical_p]),
    (&["dry", "d"], &[Step::dry]),
    (&["top_a"], &[Step::top_a]),
    (&["tfs", "tfs_z", "f"], &[Step::tail_free]),
    (&["top_n_sigma", "nsigma", "s"], &[Step::top_n_sigma]),
    (&["xtc", "x"], &[Step::xtc]),
];

/// Names of steps, or llama.cpp's letters for them in one string; unknown ones are passed over.
pub fn of_names(value: &Value) -> Result<Vec<Step>, &'static str> {
    let steps_of = |name: &str| {
        let line = STEP_NAMES.iter().find(|(names, _)| names.contains(&name));
        line.map(|(_, steps)| *steps)
    };
    let names = match value {
        Value::String(letters) if steps_of(letters).is_none() => {
            letters.chars().map(String::from).collect()
        }
        value => strings(value)?,
    };
    let steps = names.iter().filter_map(|name| steps_of(name));
    Ok(order(steps.flatten().copied()))
}

/// KoboldAI's numbers of steps.
pub fn of_kobold(value: &Value) -> Result<Vec<Step>, &'static str> {
    const EXPECTED: &str = "numbers from 0 to 6";
    let numbers = value.as_array().ok_or(EXPECTED)?;
    let mut steps: Vec<Step> = Vec::new();
    for number in numbers {
        steps.extend(match number.as_u64().ok_or(EXPECTED)? {
            0 => &[Step::top_k][..],
            2 => &[Step::top_p, Step::min_p],
            4 => &[Step::typical_p],
            5 => &[Step::temperature, Step::smoothing],
            6 => &[
                Step::repetition_penalty,
                Step::frequency_penalty,
                Step::presence_penalty,
            ],
            1 => &[Step::top_a],
            3 => &[Step::tail_free],
            _ => return Err(EXPECTED),
        });
    }
    Ok(order(steps.into_iter()))
}

/// `named` in their order, each once. What they do not name runs too, in the default order:
/// penalties and bias before them, the others after.
fn order(named: impl Iterator<Item = Step>) -> Vec<Step> {
    let mut seen = HashSet::new();
    let named: Vec<Step> = named.filter(|&step| seen.insert(step)).collect();
    let rest = || {
        Step::ALL
            .iter()
            .filter(|step| !seen.contains(step))
            .copied()
    };
    let first = |step: &Step| PENALTIES.contains(step);
    (rest().filter(first).chain(named))
        .chain(rest().filter(|step| !first(step)))
        .collect()
}
