//! How to write: the sampling flags, and the loop that runs one request.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use katari::constrain::{Rule, Vocabulary};
use katari::sampler::{self, Constraint, Params, Step};
use katari::schedule::{Limits, WhenContextIsFull};
use katari::text::{SpecialTokens, Tokenizer};

use super::card::Card;
use super::failure::Failure;
use super::model::{Model, read_text};

/// How many tokens are written where neither the command line nor the file's card says.
const DEFAULT_NEW_TOKENS: usize = 256;

/// How to choose tokens and when to stop. What is not given is as the file's card recommends,
/// or else off.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Writing")]
pub struct GenerationArgs {
    /// Write at most N tokens [default: the card's, or else 256]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// Write until the text has N tokens, the prompt included
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_length: Option<u32>,
    /// Do not end the text before N new tokens
    #[arg(long, value_name = "N")]
    min_new_tokens: Option<u32>,
    /// Do not end the text before it has N tokens, the prompt included
    #[arg(long, value_name = "N")]
    min_length: Option<u32>,
    /// Stop where TEXT would be written; may be given more than once
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Never end the text before its full length
    #[arg(long)]
    ignore_eos: bool,
    /// Go on when the context is full: forget the older half of the text
    #[arg(long)]
    shift: bool,
    /// With --shift, never forget the first N tokens
    #[arg(long, value_name = "N", requires = "shift", default_value_t = 0)]
    keep: u32,
    /// Write only what the grammar in PATH allows (GBNF, as llama.cpp has it)
    #[arg(long, value_name = "PATH", conflicts_with = "json_schema")]
    grammar: Option<PathBuf>,
    /// Write only JSON that satisfies the JSON schema in PATH
    #[arg(long, value_name = "PATH")]
    json_schema: Option<PathBuf>,
    /// Seed of the draw: the same seed writes the same text [default: random, and reported]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Divide the logits by T: below 1 bolder, above 1 wilder; 0 always takes the likeliest
    #[arg(long, visible_alias = "temp", value_name = "T", help_heading = SAMPLING)]
    temperature: Option<f32>,
    /// Draw among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", help_heading = SAMPLING)]
    top_k: Option<u32>,
    /// Draw among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", help_heading = SAMPLING)]
    top_p: Option<f32>,
    /// Draw among tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", help_heading = SAMPLING)]
    min_p: Option<f32>,
    /// Draw among the tokens of most typical surprise that together have probability P
    #[arg(long, visible_alias = "typical", value_name = "P", help_heading = SAMPLING)]
    typical_p: Option<f32>,
    /// Make tokens of the prompt and the text so far less likely; 1 is off
    #[arg(long, visible_alias = "repeat-penalty", value_name = "R", help_heading = SAMPLING)]
    repetition_penalty: Option<f32>,
    /// The repetition penalty looks at the last N tokens [default: all]
    #[arg(long, visible_alias = "repeat-last-n", value_name = "N", help_heading = SAMPLING)]
    repetition_window: Option<u32>,
    /// Take R from the logit of each token that was written
    #[arg(long, value_name = "R", allow_negative_numbers = true, help_heading = SAMPLING)]
    presence_penalty: Option<f32>,
    /// Take R from the logit of a written token for each time it was
    #[arg(long, value_name = "R", allow_negative_numbers = true, help_heading = SAMPLING)]
    frequency_penalty: Option<f32>,
    /// Add BIAS to the logit of token ID; may be given more than once
    #[arg(long, value_name = "ID=BIAS", help_heading = SAMPLING)]
    logit_bias: Vec<Bias>,
    /// Never write the tokens that TEXT is made of, in this order; may be given more than once
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new(), help_heading = SAMPLING)]
    ban: Vec<String>,
    /// The steps to run and their order, as top_k,top_p,temperature
    #[arg(long, value_name = "STEPS", value_delimiter = ',', help_heading = SAMPLING, long_help = order_help())]
    order: Option<Vec<Step>>,
}

const SAMPLING: &str = "Sampling";

fn order_help() -> String {
    let steps: Vec<_> = Step::ALL.iter().map(|step| step.name()).collect();
    format!(
        "The steps to run and their order; those left out do not run \
         [default: {}]",
        steps.join(",")
    )
}

/// One `--logit-bias`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bias(u32, f32);

impl FromStr for Bias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        (text.split_once('='))
            .and_then(|(id, bias)| Some(Self(id.trim().parse().ok()?, bias.trim().parse().ok()?)))
            .ok_or_else(|| format!("found {text:?}, expected ID=BIAS, as 42=-1.5"))
    }
}

/// How one text is to be written.
#[derive(Debug, Clone)]
pub struct Settings {
    pub params: Params,
    pub limits: Limits,
    pub stop: Vec<String>,
    pub seed: u64,
    pub when_full: WhenContextIsFull,
    /// What each text must look like.
    pub constraint: Option<Box<dyn Constraint>>,
}

impl GenerationArgs {
    /// What the flags say, and the card where they do not.
    pub fn settings(&self, model: &Model) -> Result<Settings, Failure> {
        let n_vocab = model.engine.n_vocab();
        let card = Card::read(&model.engine.gguf().metadata, n_vocab)?;
        let params = self.params(card.params, &model.tokenizer);
        params.validate().map_err(Failure::usage)?;
        params.validate_ids(n_vocab).map_err(Failure::usage)?;
        // Asking for one maximum puts the card's other one out of force.
        let given = self.max_new_tokens.is_some() || self.max_length.is_some();
        let (mut max_new, mut max_length) = (count(self.max_new_tokens), count(self.max_length));
        if !given {
            (max_new, max_length) = (card.max_new_tokens, card.max_length);
        }
        if max_new.is_none() && max_length.is_none() {
            max_new = Some(DEFAULT_NEW_TOKENS);
        }
        check_limits("new-tokens", count(self.min_new_tokens), max_new, given)?;
        check_limits("length", count(self.min_length), max_length, given)?;
        Ok(Settings {
            limits: Limits {
                max_new,
                max_length,
            },
            params,
            stop: self.stop.clone(),
            seed: self.seed.unwrap_or_else(sampler::random_seed),
            when_full: match self.shift {
                true => WhenContextIsFull::Shift {
                    keep: self.keep as usize,
                },
                false => WhenContextIsFull::Stop,
            },
            constraint: self.constraint(&model.tokenizer)?,
        })
    }

    /// What the grammar or the schema asks for.
    fn constraint(&self, tokenizer: &Tokenizer) -> Result<Option<Box<dyn Constraint>>, Failure> {
        let (path, rule) = match (&self.grammar, &self.json_schema) {
            (Some(path), _) => (path, Rule::Grammar(read_text(path)?)),
            (None, Some(path)) => {
                let wrong = |e| Failure::usage(format_args!("{}: no JSON: {e}", path.display()));
                let schema = serde_json::from_str(&read_text(path)?).map_err(wrong)?;
                (path, Rule::JsonSchema(schema))
            }
            (None, None) => return Ok(None),
        };
        let constraint = Vocabulary::new(tokenizer).and_then(|v| v.constraint(&rule));
        (constraint.map(Some))
            .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))
    }

    /// `params` with what the flags change.
    fn params(&self, mut params: Params, tokenizer: &Tokenizer) -> Params {
        fn set<T>(field: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *field = value;
            }
        }
        set(&mut params.temperature, self.temperature);
        set(&mut params.top_k, count(self.top_k));
        set(&mut params.top_p, self.top_p);
        set(&mut params.min_p, self.min_p);
        set(&mut params.typical_p, self.typical_p);
        set(&mut params.repetition_penalty, self.repetition_penalty);
        set(&mut params.presence_penalty, self.presence_penalty);
        set(&mut params.frequency_penalty, self.frequency_penalty);
        set(&mut params.order, self.order.clone());
        set(&mut params.min_new_tokens, count(self.min_new_tokens));
        set(&mut params.min_length, count(self.min_length));
        if self.repetition_window.is_some() {
            params.repetition_window = count(self.repetition_window);
        }
        params.ignore_eos |= self.ignore_eos;
        params.logit_bias = self
            .logit_bias
            .iter()
            .map(|b| (b.0, b.1))
            .collect::<BTreeMap<_, _>>();
        let banned = self
            .ban
            .iter()
            .map(|text| tokenizer.encode(text, SpecialTokens::Parse));
        params.banned.extend(banned.filter(|ids| !ids.is_empty()));
        params
    }
}

fn count(flag: Option<u32>) -> Option<usize> {
    flag.map(|n| n as usize)
}

/// A least number above the most is a mistake; `max_given` says who named the most.
fn check_limits(
    of: &str,
    min: Option<usize>,
    max: Option<usize>,
    max_given: bool,
) -> Result<(), Failure> {
    match (min, max) {
        (Some(min), Some(max)) if min > max => {
            let whose = if max_given { "" } else { " of the file's card" };
            Err(Failure::usage(format_args!(
                "--min-{of} {min} is more than the --max-{of} {max}{whose}; \
                 give --max-{of} too"
            )))
        }
        _ => Ok(()),
    }
}
