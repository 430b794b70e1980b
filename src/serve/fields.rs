//! Every spelling of every field that says how to write, in one table; all protocols read it.
//!
//! A field that no line names passes unread. A null or empty value is as good as none. Of two
//! spellings of one field the one named first counts. Numbers beyond a field's range are
//! clamped to it, but `n` and token ids, which are refused there, as values of another type are.

use serde_json::Value;

use super::endpoints::Kind;
use super::model::Model;
use super::order;
use super::refusal::Refusal;
use super::values::{
    MAX_ENTRIES, Object, breakers, count, flag, id, is_nothing, number, schema, seed, set, strings,
    wrong,
};
use crate::constrain::Rule;
use crate::sampler::{
    self, Constraint, DynamicTemperature, Mirostat, MirostatVersion, Params, Smoothing, Step,
};
use crate::schedule::{Limits, Request};

/// Texts that one request may ask for.
const MAX_TEXTS: usize = 16;
/// Likely tokens that one request may ask for at each place.
const MAX_LOGPROBS: usize = 100;
/// What a request says of how to write.
pub struct Draft<'a> {
    model: &'a Model,
    /// How each token is chosen.
    pub sampling: Params,
    /// Most new tokens; as many as fit where `None`.
    pub max_new: Option<usize>,
    /// The longest text, prompt included.
    pub context: usize,
    /// What the text never has.
    phrases: Vec<String>,
    /// What ends the text.
    pub stop: Vec<String>,
    /// The seed; a random one where `None`.
    pub seed: Option<u64>,
    /// How many texts.
    pub n: usize,
    /// Likely tokens to tell for each place; the drawn one is told even where it is 0.
    pub logprobs: Option<usize>,
    /// Whether the answer comes in pieces, where the request says.
    pub stream: Option<bool>,
    /// What each text must look like.
    constraint: Option<Box<dyn Constraint>>,
    /// The same as it was asked for, by the field of this name.
    rule: Option<(&'static str, Rule)>,
    dry_breakers: Vec<String>,
    dynamic: Dynamic,
    smoothing: Smoothing,
    /// The version, tau and eta.
    mirostat: (Option<usize>, f32, f32),
}

/// What is said of dynamic temperature, in two ways: around the temperature (`range`), or from
/// `low` to `high`, which counts where `on` says so.
struct Dynamic {
    on: Option<bool>,
    range: f32,
    low: f32,
    high: f32,
    exponent: f32,
}

/// Sets a field of the draft from a value that is not null, or says what was expected.
pub type Set = fn(&mut Draft<'_>, &Value) -> Result<(), &'static str>;

/// The spellings of a field, what it holds, and what it sets.
pub type Field = (&'static [&'static str], Kind, Set);

/// The table.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    // How much.
    (&["max_completion_tokens", "max_tokens", "max_new_tokens", "max_length", "n_predict", "num_predict"], Kind::Count,
        |d, v| { d.max_new = count(v)?; Ok(()) }),
    (&["min_tokens", "min_new_tokens"], Kind::Count,
        |d, v| { d.sampling.min_new_tokens = count(v)?.unwrap_or(0).min(d.model.n_ctx); Ok(()) }),
    (&["max_context_length", "truncation_length", "num_ctx"], Kind::Count,
        |d, v| { d.context = count(v)?.filter(|&n| n > 0).unwrap_or(d.context).min(d.model.n_ctx); Ok(()) }),
    (&["n"], Kind::Count,
        |d, v| {
            d.n = count(v)?.filter(|n| (1..=MAX_TEXTS).contains(n)).ok_or("a count from 1 to 16")?;
            Ok(())
        }),
    (&["stream"], Kind::Flag, |d, v| { d.stream = Some(flag(v)?); Ok(()) }),
    // What ends it.
    (&["stop", "stop_sequence", "stopping_strings", "stop_sequences"], Kind::Texts,
        |d, v| { d.stop = strings(v)?; Ok(()) }),
    (&["ignore_eos", "ban_eos_token", "use_default_badwordsids"], Kind::Flag,
        |d, v| { d.sampling.ignore_eos |= flag(v)?; Ok(()) }),
    // What is told.
    (&["n_probs", "top_logprobs"], Kind::Count,
        |d, v| { d.logprobs = count(v)?.filter(|&n| n > 0).map(|n| n.min(MAX_LOGPROBS)).or(d.logprobs); Ok(()) }),
    (&["logprobs"], Kind::Other,
        |d, v| {
            d.logprobs = match v {
                Value::Bool(false) => None,
                Value::Bool(true) => d.logprobs.or(Some(0)),
                v => count(v)?.map(|n| n.min(MAX_LOGPROBS)),
            };
            Ok(())
        }),
    // The draw.
    (&["seed", "sampler_seed"], Kind::Count, |d, v| { d.seed = seed(v)?; Ok(()) }),
    // Penalties.
    (&["rep_pen", "repetition_penalty", "repeat_penalty"], Kind::Number,
        |d, v| set(&mut d.sampling.repetition_penalty, v, 0.01, 100.0)),
    // llama.cpp's 0 means no tokens, that of the others all; who sends both names means these.
    (&["repeat_last_n"], Kind::Count, |d, v| { d.sampling.repetition_window = count(v)?; Ok(()) }),
    (&["rep_pen_range", "repetition_penalty_range"], Kind::Count,
        |d, v| { d.sampling.repetition_window = count(v)?.filter(|&n| n > 0); Ok(()) }),
    (&["rep_pen_slope"], Kind::Number, slope),
    (&["presence_penalty"], Kind::Number, |d, v| set(&mut d.sampling.presence_penalty, v, -100.0, 100.0)),
    (&["frequency_penalty"], Kind::Number, |d, v| set(&mut d.sampling.frequency_penalty, v, -100.0, 100.0)),
    (&["logit_bias"], Kind::Other, biases),
    (&["banned_tokens", "custom_token_bans"], Kind::Other, bans),
    (&["banned_phrases", "banned_strings"], Kind::Texts, |d, v| { d.phrases.extend(strings(v)?); Ok(()) }),
    // The chain.
    (&["temperature", "temp"], Kind::Number, |d, v| set(&mut d.sampling.temperature, v, 0.0, 100.0)),
    (&["top_k"], Kind::Count, |d, v| { d.sampling.top_k = count(v)?.unwrap_or(0); Ok(()) }),
    (&["top_p"], Kind::Number, |d, v| set(&mut d.sampling.top_p, v, 0.0, 1.0)),
    (&["min_p"], Kind::Number, |d, v| set(&mut d.sampling.min_p, v, 0.0, 1.0)),
    (&["typical", "typical_p", "typ_p"], Kind::Number, |d, v| set(&mut d.sampling.typical_p, v, 0.0, 1.0)),
    (&["top_a"], Kind::Number, |d, v| set(&mut d.sampling.top_a, v, 0.0, 1.0)),
    (&["tfs", "tfs_z"], Kind::Number, |d, v| set(&mut d.sampling.tail_free, v, 0.0, 1.0)),
    (&["nsigma", "top_n_sigma"], Kind::Number, |d, v| set(&mut d.sampling.top_n_sigma, v, 0.0, 100.0)),
    (&["xtc_probability"], Kind::Number, |d, v| set(&mut d.sampling.xtc.probability, v, 0.0, 1.0)),
    (&["xtc_threshold"], Kind::Number, |d, v| set(&mut d.sampling.xtc.threshold, v, 0.0, 1.0)),
    (&["dry_multiplier"], Kind::Number, |d, v| set(&mut d.sampling.dry.multiplier, v, 0.0, 100.0)),
    (&["dry_base"], Kind::Number, |d, v| set(&mut d.sampling.dry.base, v, 1.0, 10.0)),
    (&["dry_allowed_length"], Kind::Count,
        |d, v| { d.sampling.dry.allowed_length = count(v)?.unwrap_or(2).max(1); Ok(()) }),
    (&["dry_penalty_last_n", "dry_range"], Kind::Count,
        // Nobody asks for DRY over no tokens: 0 is all of them, as in koboldcpp.
        |d, v| { d.sampling.dry.window = count(v)?.filter(|&n| n > 0); Ok(()) }),
    (&["dry_sequence_breakers"], Kind::Texts, |d, v| { d.dry_breakers = breakers(v)?; Ok(()) }),
    (&["dynamic_temperature"], Kind::Flag, |d, v| { d.dynamic.on = Some(flag(v)?); Ok(()) }),
    (&["dynatemp_range"], Kind::Number, |d, v| set(&mut d.dynamic.range, v, 0.0, 100.0)),
    (&["dynatemp_low"], Kind::Number, |d, v| set(&mut d.dynamic.low, v, 0.0, 100.0)),
    (&["dynatemp_high"], Kind::Number, |d, v| set(&mut d.dynamic.high, v, 0.0, 100.0)),
    (&["dynatemp_exponent"], Kind::Number, |d, v| set(&mut d.dynamic.exponent, v, 0.0, 100.0)),
    (&["smoothing_factor"], Kind::Number, |d, v| set(&mut d.smoothing.factor, v, 0.0, 100.0)),
    (&["smoothing_curve"], Kind::Number, |d, v| set(&mut d.smoothing.curve, v, 0.0, 10.0)),
    (&["mirostat", "mirostat_mode"], Kind::Count, |d, v| { d.mirostat.0 = count(v)?; Ok(()) }),
    (&["mirostat_tau"], Kind::Number, |d, v| set(&mut d.mirostat.1, v, 0.01, 100.0)),
    (&["mirostat_eta"], Kind::Number, |d, v| set(&mut d.mirostat.2, v, 0.0, 10.0)),
    // What it must look like.
    (&["grammar", "grammar_string"], Kind::Text,
        |d, v| d.rule(Rule::Grammar(v.as_str().ok_or("a grammar in GBNF")?.into()))),
    (&["json_schema"], Kind::Other, |d, v| d.rule(Rule::JsonSchema(schema(v)?))),
    (&["response_format"], Kind::Object, response_format),
    (&["format"], Kind::Other, |d, v| match v.as_str() {
        Some("json") => d.rule(Rule::JsonObject),
        _ => d.rule(Rule::JsonSchema(schema(v)?)),
    }),
    // The order.
    (&["sampler_order"], Kind::Ids, |d, v| { d.sampling.order = order::of_kobold(v)?; Ok(()) }),
    (&["samplers", "sampler_priority"], Kind::Texts, |d, v| { d.sampling.order = order::of_names(v)?; Ok(()) }),
];

impl<'a> Draft<'a> {
    /// Reads `bodies`, the later ones before the earlier. `max_new`: how many new tokens where
    /// they do not say.
    ///
    /// # Errors
    /// The first field whose value is of a wrong type.
    pub fn read(
        model: &'a Model,
        bodies: &[&Object],
        max_new: Option<usize>,
    ) -> Result<Self, Refusal> {
        let mut draft = Draft {
            model,
            sampling: model.sampling.clone(),
            max_new,
            context: model.n_ctx,
            phrases: Vec::new(),
            stop: Vec::new(),
            seed: None,
            n: 1,
            logprobs: None,
            stream: None,
            constraint: None,
            rule: None,
            dry_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            dynamic: Dynamic {
                on: None,
                range: 0.0,
                low: 1.0,
                high: 1.0,
                exponent: 1.0,
            },
            smoothing: Smoothing {
                factor: 0.0,
                curve: 1.0,
            },
            // The defaults of llama.cpp.
            mirostat: (None, 5.0, 0.1),
        };
        let value = |name: &str| {
            let mut values = bodies.iter().rev().filter_map(|body| body.get(name));
            values.find(|value| !is_nothing(value))
        };
        for (names, _, set) in FIELDS {
            let Some((name, value)) = names.iter().find_map(|n| Some((n, value(n)?))) else {
                continue;
            };
            let had_rule = draft.rule.is_some();
            set(&mut draft, value).map_err(|expected| wrong(name, value, expected))?;
            match &mut draft.rule {
                Some((of, _)) if !had_rule => *of = name,
                _ => {}
            }
        }
        if let Some((name, rule)) = draft.rule.take() {
            let told = |error| Refusal::Invalid(format!("{name}: {error}"));
            draft.constraint = Some(model.constraint(&rule).map_err(told)?);
        }
        draft.settle();
        Ok(draft)
    }

    fn rule(&mut self, rule: Rule) -> Result<(), &'static str> {
        match self.rule.replace(("", rule)) {
            Some(_) => Err("one field that says what the text must look like, not several"),
            None => Ok(()),
        }
    }

    /// What several fields say together.
    fn settle(&mut self) {
        let sampling = &mut self.sampling;
        if sampling.dry.multiplier > 0.0 {
            let tokens = (self.dry_breakers.iter()).flat_map(|text| self.model.tokens_with(text));
            sampling.dry.breakers = tokens.collect();
        }
        let dynamic = &self.dynamic;
        let bounds = match dynamic.on {
            Some(true) => Some((dynamic.low, dynamic.high)),
            Some(false) => None,
            None => (dynamic.range > 0.0).then(|| {
                let middle = sampling.temperature;
                (middle - dynamic.range, middle + dynamic.range)
            }),
        };
        if let Some((low, high)) = bounds {
            sampling.dynamic_temperature = Some(DynamicTemperature {
                low: low.clamp(0.01, 100.0),
                high: high.clamp(0.01, 100.0),
                exponent: dynamic.exponent,
            });
            // In place of the other.
            sampling
                .order
                .retain(|step| *step != Step::dynamic_temperature);
            for step in &mut sampling.order {
                if *step == Step::temperature {
                    *step = Step::dynamic_temperature;
                }
            }
        }
        if self.smoothing.factor > 0.0 {
            sampling.smoothing = Some(self.smoothing.clone());
        }
        let (version, target, rate) = self.mirostat;
        let version = match version {
            Some(1) => MirostatVersion::Zipf,
            Some(2) => MirostatVersion::Bound,
            _ => return,
        };
        sampling.mirostat = Some(Mirostat {
            version,
            target,
            rate,
        });
        // In place of all other truncation.
        let heat = match sampling.dynamic_temperature {
            Some(_) => Step::dynamic_temperature,
            None => Step::temperature,
        };
        sampling.order = (order::PENALTIES.iter().copied())
            .chain([heat, Step::smoothing, Step::mirostat])
            .collect();
    }

    /// Tokens of the longest prompt that leaves room for the answer. (An answer may take up to
    /// half the context before it costs memory of what was said.)
    pub fn prompt_room(&self) -> usize {
        let answer = self.max_new.unwrap_or(self.context / 4);
        (self.context - answer.min(self.context / 2)).max(1)
    }

    /// Cuts the beginning of a prompt that is too long, but for a first bos and for `kept`
    /// tokens after it; says whether it did.
    pub fn fit(&self, prompt: &mut Vec<u32>, kept: usize) -> bool {
        let (len, room) = (prompt.len(), self.prompt_room());
        if len <= room {
            return false;
        }
        let bos = usize::from(prompt.first().copied() == self.model.tokenizer.bos());
        let kept = (bos + kept).min(room.saturating_sub(1));
        prompt.drain(kept..kept + len - room);
        true
    }

    /// The requests: `n` texts of `prompt`, which [`fit`](Draft::fit) has cut, with a seed each.
    /// Gives the first seed too.
    pub fn requests(&self, prompt: Vec<u32>) -> Result<(Vec<Request>, u64), Refusal> {
        self.sampling.validate().map_err(invalid)?;
        self.sampling
            .validate_ids(self.model.n_vocab)
            .map_err(invalid)?;
        // The last token is written without being read.
        let room = self.context.saturating_add(1).saturating_sub(prompt.len());
        let seed = self.seed.unwrap_or_else(sampler::random_seed);
        let request = Request {
            prompt,
            sampling: self.sampling.clone(),
            limits: Limits {
                max_new: Some(self.max_new.unwrap_or(room).min(room)),
                max_length: None,
            },
            stop: self.stop.clone(),
            banned_phrases: self.phrases.clone(),
            logprobs: self.logprobs,
            constraint: self.constraint.clone(),
            ..Request::default()
        };
        let requests = (0..self.n as u64).map(|i| Request {
            seed: seed.wrapping_add(i),
            ..request.clone()
        });
        Ok((requests.collect(), seed))
    }
}

fn invalid(error: sampler::Invalid) -> Refusal {
    Refusal::Invalid(error.to_string())
}

/// `{"id": bias}` or `[[id or text, bias or false]]`; false bans.
fn biases(draft: &mut Draft<'_>, value: &Value) -> Result<(), &'static str> {
    const EXPECTED: &str = "biases by token id, at most 1024";
    let pairs: Vec<(Value, &Value)> = match value {
        Value::Object(map) => (map.iter())
            .map(|(id, bias)| (Value::String(id.clone()), bias))
            .collect(),
        Value::Array(list) => (list.iter())
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([token, bias]) => Ok((token.clone(), bias)),
                _ => Err(EXPECTED),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(EXPECTED),
    };
    if pairs.len() > MAX_ENTRIES {
        return Err(EXPECTED);
    }
    for (token, bias) in pairs {
        let ids = match &token {
            Value::String(text) => match text.trim().parse() {
                Ok(id) => vec![id],
                Err(_) => draft.model.word_ids(text),
            },
            token => vec![id(token).ok_or(EXPECTED)?],
        };
        for id in ids {
            match bias {
                Value::Bool(false) => draft.sampling.banned.push(vec![id]),
                bias => {
                    let mut value = 0.0;
                    set(&mut value, bias, -100.0, 100.0)?;
                    draft.sampling.logit_bias.insert(id, value);
                }
            }
        }
    }
    Ok(())
}

/// As koboldcpp has it: what is out of range counts for nothing.
fn slope(draft: &mut Draft<'_>, value: &Value) -> Result<(), &'static str> {
    let slope = number(value)? as f32;
    let in_range = slope > 0.0 && slope <= 1.0;
    draft.sampling.repetition_slope = if in_range { slope } else { 1.0 };
    Ok(())
}

/// Texts or ids that are never written: a list of either, or ids joined by commas.
fn bans(draft: &mut Draft<'_>, value: &Value) -> Result<(), &'static str> {
    const EXPECTED: &str = "texts or token ids, at most 1024";
    let list = match value {
        Value::Array(list) => list.clone(),
        Value::String(text) => (text.split(','))
            .map(|id| id.trim().parse::<u32>().map(Value::from))
            .collect::<Result<_, _>>()
            .map_err(|_| EXPECTED)?,
        _ => return Err(EXPECTED),
    };
    if list.len() > MAX_ENTRIES {
        return Err(EXPECTED);
    }
    for item in &list {
        match item {
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => draft.phrases.push(text.clone()),
            item => (draft.sampling.banned).push(vec![id(item).ok_or(EXPECTED)?]),
        }
    }
    Ok(())
}

/// `{"type": "text" | "json_object" | "json_schema", ...}`; the schema stands in `schema` or, as
/// OpenAI has it, in `json_schema.schema`.
fn response_format(draft: &mut Draft<'_>, value: &Value) -> Result<(), &'static str> {
    let given = value.get("json_schema").unwrap_or(value).get("schema");
    let given = given.filter(|schema| !is_nothing(schema));
    match (value.get("type").and_then(Value::as_str), given) {
        (Some("text"), _) => Ok(()),
        (Some("json_object"), None) => draft.rule(Rule::JsonObject),
        (Some("json_object" | "json_schema"), Some(given)) => {
            draft.rule(Rule::JsonSchema(schema(given)?))
        }
        _ => Err("{\"type\": ...} of text, json_object or json_schema with its schema"),
    }
}
