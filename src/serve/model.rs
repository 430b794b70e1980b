//! The model as the protocols see it: everything but the engine, which is the worker's.

use std::sync::OnceLock;

use crate::constrain::{ConstrainError, Rule, Vocabulary};
use crate::sampler::{Constraint, Params};
use crate::text::{ChatTemplate, Message, SpecialTokens, Tokenizer};

use super::refusal::Refusal;
use super::turns;

/// A model that is served.
#[derive(Debug)]
pub struct Model {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The form of its conversations, where it is made for them.
    pub chat: Option<Chat>,
    facts: Facts,
    texts: OnceLock<Vec<String>>,
    vocabulary: OnceLock<Result<Vocabulary, ConstrainError>>,
}

/// A chat template and its source.
#[derive(Debug)]
pub struct Chat {
    /// Renders conversations.
    pub template: ChatTemplate,
    /// As the file has it; clients look at it.
    pub source: String,
}

/// What a [`Model`] is beside its tokenizer.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What clients call it.
    pub name: String,
    /// How to choose tokens where a request does not say: the file's card.
    pub sampling: Params,
    /// How many tokens to write on where a request does not say: the file's card.
    pub max_new: Option<usize>,
    /// The longest a text may grow, prompt included.
    pub n_ctx: usize,
    /// What the model was trained with.
    pub n_ctx_train: usize,
    /// Rows of the embedding.
    pub n_vocab: usize,
    /// Architecture, as the file names it.
    pub architecture: String,
    /// The mix of formats, as `q4_k_m`.
    pub file_type: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Weights and biases.
    pub n_parameters: u64,
    /// Width of the hidden state.
    pub n_embd: usize,
}

/// A model's facts read as its own.
impl std::ops::Deref for Model {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl Model {
    /// Puts a model together.
    pub fn new(tokenizer: Tokenizer, chat: Option<Chat>, facts: Facts) -> Self {
        Model {
            tokenizer,
            chat,
            facts,
            texts: OnceLock::new(),
            vocabulary: OnceLock::new(),
        }
    }

    /// How many tokens to write on from a text where a request does not say, as `run` has it.
    pub fn text_len(&self) -> usize {
        self.max_new.unwrap_or(256)
    }

    /// What makes a text look as `rule` says.
    pub fn constraint(&self, rule: &Rule) -> Result<Box<dyn Constraint>, ConstrainError> {
        let vocabulary = (self.vocabulary).get_or_init(|| Vocabulary::new(&self.tokenizer));
        vocabulary.as_ref().map_err(Clone::clone)?.constraint(rule)
    }

    /// The source of the chat template; empty where there is none.
    pub fn template_source(&self) -> &str {
        self.chat.as_ref().map_or("", |chat| &chat.source)
    }

    /// The tokens whose text contains `text`.
    pub fn tokens_with(&self, text: &str) -> impl Iterator<Item = u32> {
        let texts = self.texts.get_or_init(|| {
            (0..self.tokenizer.len() as u32)
                .map(|id| self.tokenizer.token_text(id))
                .collect()
        });
        let containing = (0..).zip(texts).filter(move |(_, t)| t.contains(text));
        containing.map(|(id, _)| id)
    }

    /// The ids of a prompt, which are never none.
    pub fn prompt_ids(&self, text: &str) -> Result<Vec<u32>, Refusal> {
        let mut ids = self.tokenizer.prompt_ids(text);
        if ids.is_empty() {
            // A text from nothing begins with bos, where the model has one.
            ids.extend(self.tokenizer.bos());
        }
        match ids.is_empty() {
            true => Err(Refusal::Invalid(
                "the prompt is empty, and the model has no token that begins a text".into(),
            )),
            false => Ok(ids),
        }
    }

    /// The ids of words that are never to be written.
    pub fn word_ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, SpecialTokens::Parse)
    }

    /// The conversation as text, with the beginning of the answer.
    pub fn chat_text(&self, messages: &[Message]) -> Result<String, Refusal> {
        let chat = self.chat.as_ref().ok_or_else(|| {
            Refusal::Invalid(
                "the model has no chat template, so it is not made for conversations; ask for a \
                 plain completion, or quantize it with --chat-template"
                    .into(),
            )
        })?;
        (chat.template.render(messages, true)).map_err(|error| Refusal::Invalid(error.to_string()))
    }

    /// The ids of a conversation. What was said first (but not by `system`) is left out where
    /// it would not fit `room` tokens; the last message always stays.
    pub fn chat_ids(&self, messages: &[Message], room: usize) -> Result<Vec<u32>, Refusal> {
        if messages.is_empty() {
            return Err(Refusal::Invalid(
                "messages: found none, expected at least one".into(),
            ));
        }
        let ids = turns::ids_within(messages, room, |messages| {
            Ok(self.tokenizer.chat_ids(&self.chat_text(messages)?))
        })?;
        match ids.is_empty() {
            true => Err(Refusal::Invalid("the conversation has no text".into())),
            false => Ok(ids),
        }
    }
}
