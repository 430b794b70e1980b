//! Chat templates: a conversation as the text its model was trained on.
//!
//! A template comes with a file and is run in a sandbox: it sees the messages and nothing else,
//! and both its steps and its output are bounded.

use std::io::{self, Write};

use minijinja::{Environment, Error, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};

use super::TextError;

/// Steps a template may take; a long conversation takes some hundred a message.
const FUEL: u64 = 5_000_000;
/// Bytes a template may write.
const MAX_OUTPUT: usize = 16 << 20;
/// Bytes a template may have.
const MAX_SOURCE: usize = 1 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What they say.
    pub content: String,
}

/// A chat template in Jinja, as Hugging Face's tokenizers have it.
///
/// Beside Jinja's own it knows `raise_exception(message)`, `strftime_now(format)` (which is
/// refused: a prompt must not depend on the clock) and Python's string methods.
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    variables: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// It is no valid Jinja, or too long.
    pub fn new(source: &str) -> Result<ChatTemplate, TextError> {
        if source.len() > MAX_SOURCE {
            return Err(TextError::Template(format!(
                "{} bytes (expected at most {MAX_SOURCE})",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(100);
        // As the reference renders them: a tag's line break goes, and the space before it.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_keep_trailing_newline(true);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |_format: String| {
            let refused = "the template asks for the time, which a prompt must not depend on";
            Err::<Value, _>(Error::new(ErrorKind::InvalidOperation, refused))
        });
        environment.add_filter("tojson", to_json);
        environment.template_from_str(source).map_err(explain)?;
        Ok(ChatTemplate {
            source: source.to_string(),
            environment,
            variables: Vec::new(),
        })
    }

    /// Sets a variable that templates use, such as `bos_token`.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// The conversation as text; `add_generation_prompt`: with the beginning of the answer that
    /// is to come.
    ///
    /// # Errors
    /// The template refuses the conversation, runs too long or writes too much.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let variables: Value = self
            .variables
            .iter()
            .map(|(name, value)| (*name, Value::from(value.as_str())))
            .collect();
        let messages = Value::from_serialize(messages);
        let template = self
            .environment
            .template_from_str(&self.source)
            .map_err(explain)?;
        let mut out = Capped(Vec::new());
        template
            .render_captured_to(
                context! { messages, add_generation_prompt, ..variables },
                &mut out,
            )
            .map_err(explain)?;
        String::from_utf8(out.0).map_err(|error| TextError::Template(error.to_string()))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

/// `tojson`: as the reference's, which escapes nothing for HTML.
fn to_json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// The error with what caused it, as one line.
fn explain(error: Error) -> TextError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    TextError::Template(message)
}

/// Output up to [`MAX_OUTPUT`] bytes.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!(
                "the template writes more than {MAX_OUTPUT} bytes"
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
