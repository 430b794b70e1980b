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

#[cfg(test)]
mod tests {
    use super::*;

    /// The format of rinna's instruction models: turns joined by `<NL>`, the answer's beginning
    /// with a space after the colon.
    const RINNA: &str = "{%- for m in messages -%}\n\
        {%- if m['role'] == 'user' -%}ユーザー: {{ m['content'].strip() }}\n\
        {%- elif m['role'] == 'assistant' -%}システム: {{ m['content'] }}\n\
        {%- else -%}{{ raise_exception('no role ' + m['role']) }}\n\
        {%- endif -%}\n\
        {%- if not loop.last or add_generation_prompt -%}<NL>{%- endif -%}\n\
        {%- endfor -%}\n\
        {%- if add_generation_prompt -%}{{ 'システム: ' }}{%- endif -%}";

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }

    #[test]
    fn rinna_format() {
        let template = ChatTemplate::new(RINNA).unwrap();
        let mut messages = vec![message(
            "user",
            " 日本のおすすめの観光地を教えてください。 ",
        )];
        assert_eq!(
            template.render(&messages, true).unwrap(),
            "ユーザー: 日本のおすすめの観光地を教えてください。<NL>システム: "
        );
        messages.push(message("assistant", "どの地域ですか？"));
        messages.push(message("user", "渋谷"));
        assert_eq!(
            template.render(&messages, true).unwrap(),
            "ユーザー: 日本のおすすめの観光地を教えてください。<NL>システム: どの地域ですか？<NL>ユーザー: 渋谷<NL>システム: "
        );
        let without = template.render(&messages, false).unwrap();
        assert!(without.ends_with("渋谷"), "{without}");
    }

    #[test]
    fn a_template_may_refuse() {
        let template = ChatTemplate::new(RINNA).unwrap();
        let error = template.render(&[message("tool", "")], true).unwrap_err();
        assert!(error.to_string().contains("no role tool"), "{error}");
    }

    #[test]
    fn functions_and_variables_of_published_templates() {
        let source = "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}\
            {% set ns.n = ns.n + 1 %}{{ m.role.upper() }} {{ m['content'] | trim | tojson }}\n{% endfor %}{{ ns.n }}\
            {{ messages[-1]['content'].startswith('<') }}";
        let template = ChatTemplate::new(source).unwrap().with("bos_token", "<s>");
        let text = template.render(&[message("user", " <a>\"猫\" ")], false);
        assert_eq!(text.unwrap(), "<s>USER \"<a>\\\"猫\\\"\"\n1False");
    }

    #[test]
    fn endless_and_greedy_templates_end() {
        for source in [
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            "{% for i in range(100000) %}{{ messages[0].content * 1000 }}{% endfor %}",
            "{{ 'x' * 1000000000 }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        ] {
            let template = ChatTemplate::new(source).unwrap();
            let error = template.render(&[message("user", "長い文字列")], true);
            assert!(error.is_err(), "{source}");
        }
        assert!(ChatTemplate::new("{% for %}").is_err());
        assert!(ChatTemplate::new(&"x".repeat(MAX_SOURCE + 1)).is_err());
    }
}
