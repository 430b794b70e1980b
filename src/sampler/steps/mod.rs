//! The steps of the chain, each in its file, and their parameters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Context;
use super::candidates::Candidates;

pub use dry::Dry;
pub use dynamic_temperature::DynamicTemperature;
pub use mirostat::{Mirostat, MirostatVersion};
pub use smoothing::Smoothing;
pub use xtc::Xtc;

/// A parameter out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sampling parameter {field}: found {found}, expected {expected}")]
pub struct Invalid {
    /// The field of [`Params`].
    pub field: &'static str,
    /// What it holds.
    pub found: String,
    /// What it may hold.
    pub expected: String,
}

/// From one line a step, `name: type = off-value;`, makes the step's module, its field in
/// [`Params`], its name in [`Step`] and its place in the default order. The module `name` has
///
/// - `fn check(&type) -> bool` and `const EXPECTED: &str`: what values are allowed;
/// - `fn apply(&type, &Context, &mut Candidates)`: changes logits, or removes candidates.
macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => {
        $(mod $name;)*

        /// How to choose the next token. The default draws from the plain softmax.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Params {
            $($(#[$doc])* pub $name: $type,)*
            /// How many of the last tokens the repetition penalty looks at; all where `None`.
            pub repetition_window: Option<usize>,
            /// How much of the repetition penalty the older half of those tokens gets, from 0 to
            /// 1 (koboldcpp's `rep_pen_slope`). 1 is all of it.
            pub repetition_slope: f32,
            /// Token sequences that are never written: the last token of one is ruled out where
            /// the others have just been written.
            pub banned: Vec<Vec<u32>>,
            /// The tokens that end a text.
            pub eos: Vec<u32>,
            /// Never draw a token of `eos`.
            pub ignore_eos: bool,
            /// No token of `eos` before the text has this many tokens, the prompt included.
            pub min_length: usize,
            /// No token of `eos` before this many tokens were generated.
            pub min_new_tokens: usize,
            /// The steps in the order they run in; one that is left out does not run.
            pub order: Vec<Step>,
        }

        impl Default for Params {
            fn default() -> Self {
                Self {
                    $($name: $default,)*
                    repetition_window: None,
                    repetition_slope: 1.0,
                    banned: Vec::new(),
                    eos: Vec::new(),
                    ignore_eos: false,
                    min_length: 0,
                    min_new_tokens: 0,
                    order: Step::ALL.to_vec(),
                }
            }
        }

        impl Params {
            /// Checks every value against its range.
            ///
            /// # Errors
            /// The first field that is out of range.
            pub fn validate(&self) -> Result<(), Invalid> {
                $(if !$name::check(&self.$name) {
                    return Err(Invalid {
                        field: stringify!($name),
                        found: format!("{:?}", self.$name),
                        expected: $name::EXPECTED.to_string(),
                    });
                })*
                if !(0.0..=1.0).contains(&self.repetition_slope) {
                    return Err(Invalid {
                        field: "repetition_slope",
                        found: format!("{:?}", self.repetition_slope),
                        expected: "a number from 0 to 1".to_string(),
                    });
                }
                self.validate_order()
            }
        }

        /// A step of the chain, named as its parameter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[allow(non_camel_case_types, missing_docs)] // each is the field of its name
        pub enum Step {
            $($name,)*
        }

        impl Step {
            /// Every step, in the default order.
            pub const ALL: &'static [Step] = &[$(Step::$name),*];

            /// Its name, as in [`Params`].
            pub fn name(self) -> &'static str {
                match self {
                    $(Step::$name => stringify!($name),)*
                }
            }

            pub(super) fn apply(self, context: &Context, candidates: &mut Candidates) {
                match self {
                    $(Step::$name => {
                        $name::apply(&context.params.$name, context, candidates)
                    })*
                }
            }
        }
    };
}

steps! {
    /// Makes the tokens of prompt and generated text less likely: a positive logit is divided
    /// by this, a negative one multiplied (Keskar et al. 2019, CTRL). 1 is off.
    repetition_penalty: f32 = 1.0;
    /// Taken from the logit of a generated token once for each time it was generated. 0 is off.
    frequency_penalty: f32 = 0.0;
    /// Taken from the logit of each token that was generated. 0 is off.
    presence_penalty: f32 = 0.0;
    /// Makes tokens less likely that would go on a repetition, the more the longer it is ("Don't
    /// Repeat Yourself", p-e-w 2024, text-generation-webui pull request 5677).
    dry: Dry = Dry::default();
    /// Added to the logits of these ids.
    logit_bias: BTreeMap<u32, f32> = BTreeMap::new();
    /// Divides the logits; 0 takes the likeliest token, the lowest id among equals. 1 is off.
    temperature: f32 = 1.0;
    /// Divides the logits by a temperature that grows with the entropy (kalomaze 2023, dynamic
    /// temperature in koboldcpp). `None` is off.
    dynamic_temperature: Option<DynamicTemperature> = None;
    /// Takes from each logit by the square, and the cube, of its distance from the highest
    /// (kalomaze 2024, quadratic sampling, text-generation-webui pull request 5403). `None` is
    /// off.
    smoothing: Option<Smoothing> = None;
    /// Keeps tokens whose logits are at most this many standard deviations below the highest
    /// (Tang et al. 2024, Top-n-sigma). 0 is off.
    top_n_sigma: f32 = 0.0;
    /// Keeps the likeliest `top_k` tokens, and those as likely as the last of them. 0 is off.
    top_k: usize = 0;
    /// Keeps the likeliest tokens that together reach this probability (Holtzman et al. 2020,
    /// nucleus sampling). 1 is off.
    top_p: f32 = 1.0;
    /// Keeps tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024).
    /// 0 is off.
    min_p: f32 = 0.0;
    /// Keeps the tokens whose surprise is nearest to the expected one and that together reach
    /// this probability (Meister et al. 2023, locally typical sampling). 1 is off.
    typical_p: f32 = 1.0;
    /// Keeps tokens at least as likely as this times the square of the likeliest's probability
    /// (Peng Bo 2022, RWKV-LM). 0 is off.
    top_a: f32 = 0.0;
    /// Keeps the likeliest tokens up to where the second differences of their sorted
    /// probabilities reach this fraction of their sum (Phénix and Egan 2019, tail-free
    /// sampling). 1 is off.
    tail_free: f32 = 1.0;
    /// Now and then leaves out the likeliest tokens but one ("Exclude Top Choices", p-e-w 2024,
    /// text-generation-webui pull request 6335, as llama.cpp has it: without exceptions).
    xtc: Xtc = Xtc::default();
    /// Holds the text's surprise near a target (Basu et al. 2021, Mirostat), in place of other
    /// truncation. `None` is off.
    mirostat: Option<Mirostat> = None;
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Step {
    type Err = Invalid;

    /// Reads a step's name, with `-` or `_`.
    fn from_str(name: &str) -> Result<Self, Invalid> {
        let wanted = name.replace('-', "_");
        (Step::ALL.iter().copied())
            .find(|step| step.name() == wanted)
            .ok_or_else(|| Invalid {
                field: "order",
                found: format!("{name:?}"),
                expected: format!(
                    "steps among {}",
                    Step::ALL
                        .iter()
                        .map(|s| s.name())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            })
    }
}

impl Params {
    /// Checks that each step is in the order at most once.
    fn validate_order(&self) -> Result<(), Invalid> {
        for (i, step) in self.order.iter().enumerate() {
            if self.order[..i].contains(step) {
                return Err(Invalid {
                    field: "order",
                    found: format!("{step} twice"),
                    expected: "each step at most once".to_string(),
                });
            }
        }
        Ok(())
    }

    /// Checks that every id is one of the embedding's `n_vocab` rows, and that no banned word
    /// is empty.
    ///
    /// # Errors
    /// The first field that names another id.
    pub fn validate_ids(&self, n_vocab: usize) -> Result<(), Invalid> {
        let mut ids = (self.logit_bias.keys().map(|&id| ("logit_bias", id)))
            .chain(self.eos.iter().map(|&id| ("eos", id)))
            .chain(self.banned.iter().flatten().map(|&id| ("banned", id)))
            .chain(self.dry.breakers.iter().map(|&id| ("dry.breakers", id)));
        if let Some((field, id)) = ids.find(|&(_, id)| id as usize >= n_vocab) {
            return Err(Invalid {
                field,
                found: format!("the id {id}"),
                expected: format!("ids below {n_vocab}, the rows of the embedding"),
            });
        }
        if self.banned.iter().any(Vec::is_empty) {
            return Err(Invalid {
                field: "banned",
                found: "an empty sequence".to_string(),
                expected: "sequences of at least one token".to_string(),
            });
        }
        Ok(())
    }
}
