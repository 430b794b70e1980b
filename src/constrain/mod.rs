//! What a text must look like: JSON, a JSON schema, or a grammar, followed token by token.
//!
//! [`Vocabulary::constraint`] makes the sampler's [`Constraint`] of a [`Rule`]. The work is
//! done by llguidance, whose grammars run over bytes, so that it does not matter how a
//! tokenizer cuts them: what is needed of a token is what it adds to a text. Grammars in
//! llama.cpp's dialect are put into llguidance's by `gbnf.rs`.
//!
//! Rules come from outside, so everything about them is bounded: their length, nesting and
//! repetitions, what is spent to read them and to say what may come next, and the memory of
//! what was worked out.

mod gbnf;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::sampler::{Constraint, Next};
use crate::text::Tokenizer;

/// Bytes of a grammar, or of a schema as JSON.
const MAX_BYTES: usize = 256 << 10;

/// States of the automaton that reads a text: 1 to 2 kB each, so some 40 MB. The schemas of
/// llguidance's own benchmark stay below a few thousand.
const MAX_STATES: usize = 20_000;

/// Bytes of the stack on which rules are read, which goes as deep as rules lead on to each other.
/// Only what is used of it is memory.
const STACK: usize = 128 << 20;

/// White space between the parts of JSON: a space, or a line break and an indent. (JSON allows
/// any amount; a model may never find out of it.)
const JSON_SPACE: &str = r"\x20|\n\x20{0,16}";

/// What a text must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// A JSON object.
    JsonObject,
    /// JSON that satisfies a schema (JSON Schema, draft 2020-12).
    JsonSchema(Value),
    /// What a grammar in llama.cpp's dialect describes, from its rule `root`.
    Grammar(String),
}

/// A rule that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstrainError {
    /// It is larger than `MAX_BYTES`.
    #[error("found {0} bytes, expected at most {MAX_BYTES}")]
    TooLarge(usize),
    /// A grammar that is none.
    #[error("line {line} of the grammar: {message}")]
    Grammar {
        /// The line, from 1.
        line: usize,
        /// What was found and expected.
        message: String,
    },
    /// A schema that asks for what cannot be done, or a rule that nothing satisfies.
    #[error("{0}")]
    Rule(String),
}

/// The tokens of a model, as what they add to a text.
pub struct Vocabulary {
    factory: ParserFactory,
    n_tokens: usize,
}

impl Vocabulary {
    /// Tokens that show nothing are never allowed, nor is the one that stands for unknown text.
    ///
    /// # Errors
    /// What llguidance says of a vocabulary that it cannot take.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, ConstrainError> {
        /// No byte of any text, and what llguidance marks its special tokens with.
        const NEVER: u8 = 0xff;
        let n_tokens = tokenizer.len();
        let usable = |id: u32| tokenizer.is_drawable(id) && tokenizer.unk() != Some(id);
        let bytes = |id: u32| match usable(id) {
            true => Some(tokenizer.token_bytes(id)).filter(|b| !b.contains(&NEVER)),
            false => None,
        };
        let mut words: Vec<Vec<u8>> = (0..n_tokens as u32)
            .map(|id| bytes(id).unwrap_or_default())
            .collect();
        // The end of the text, whichever tokens stand for it.
        words.push(b"\xff<end>".to_vec());
        let info = TokRxInfo::new(words.len() as u32, n_tokens as u32);
        let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let mut factory = ParserFactory::new_simple(&tokens).map_err(told)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = MAX_STATES;
        limits.max_grammar_size = 100_000;
        limits.verbose_errors = false;
        Ok(Vocabulary { factory, n_tokens })
    }

    /// Follows a text from its beginning.
    ///
    /// # Errors
    /// The rule is none, is too large, or asks for what cannot be done.
    pub fn constraint(&self, rule: &Rule) -> Result<Box<dyn Constraint>, ConstrainError> {
        let grammar = match rule {
            Rule::JsonObject => schema(json!({"type": "object"}))?,
            Rule::JsonSchema(value) => schema(value.clone())?,
            Rule::Grammar(text) if text.len() > MAX_BYTES => {
                return Err(ConstrainError::TooLarge(text.len()));
            }
            Rule::Grammar(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
        };
        let read = || {
            let parser = catch_unwind(AssertUnwindSafe(|| self.factory.create_parser(grammar)));
            let mut matcher = Matcher::new(Ok(parser.map_err(told)?));
            if matcher.is_stopped() && !matcher.is_accepting().unwrap_or(false) {
                return Err(ConstrainError::Rule(
                    "no text of the model's tokens satisfies it".into(),
                ));
            }
            let mask = matcher.compute_mask_or_eos().map_err(told)?;
            Ok(Follower {
                matcher,
                mask: Some(mask),
                n_tokens: self.n_tokens as u32,
            })
        };
        let failed = |_| ConstrainError::Rule("it cannot be read".into());
        let follower = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK);
            let thread = thread.spawn_scoped(scope, read).map_err(told)?;
            thread.join().map_err(failed)?
        })?;
        Ok(Box::new(follower))
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary")
            .field("tokens", &self.n_tokens)
            .finish_non_exhaustive()
    }
}

fn schema(mut value: Value) -> Result<TopLevelGrammar, ConstrainError> {
    let bytes = value.to_string().len();
    if bytes > MAX_BYTES {
        return Err(ConstrainError::TooLarge(bytes));
    }
    match &mut value {
        Value::Bool(true) => value = json!({}),
        Value::Object(_) => {}
        other => {
            return Err(ConstrainError::Rule(format!(
                "found {other}, expected a JSON schema, which is an object"
            )));
        }
    }
    let options = JsonCompileOptions {
        whitespace_pattern: Some(JSON_SPACE.into()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut value);
    Ok(TopLevelGrammar::from_json_schema(value))
}

/// What llguidance says, without the state of its parser.
fn told(error: impl std::fmt::Display) -> ConstrainError {
    let message = error.to_string();
    if message.starts_with("NoExtension") {
        return ConstrainError::Rule("no text of the model's tokens satisfies it".into());
    }
    let message = message.split("\n<").next().unwrap_or_default().trim();
    ConstrainError::Rule(message.replace('\n', " ").chars().take(500).collect())
}

/// One text and its rule.
#[derive(Clone)]
struct Follower {
    matcher: Matcher,
    /// What may come next, where it is known.
    mask: Option<SimpleVob>,
    n_tokens: u32,
}

impl Constraint for Follower {
    fn next(&mut self) -> Result<Next<'_>, String> {
        if self.matcher.is_stopped() {
            return match self.matcher.stop_reason().is_ok() {
                true => Ok(Next::End),
                false => Err(self.failure()),
            };
        }
        if self.mask.is_none() {
            self.mask = self.matcher.compute_mask_or_eos().ok();
        }
        match &self.mask {
            Some(mask) => Ok(Next::Tokens {
                allowed: mask.as_slice(),
                may_end: mask.is_allowed(self.n_tokens),
            }),
            None => Err(self.failure()),
        }
    }

    fn take(&mut self, id: u32) {
        self.mask = None;
        // The matcher remembers that it failed.
        let _ = self.matcher.consume_token(id);
    }

    fn boxed(&self) -> Box<dyn Constraint> {
        // They share what the matcher has worked out of the rule, so that many texts of one rule
        // take no more memory than one.
        Box::new(self.clone())
    }
}

impl Follower {
    fn failure(&self) -> String {
        let error = self.matcher.get_error().unwrap_or_default();
        format!("what constrains the text is too complex: {}", told(error))
    }
}
