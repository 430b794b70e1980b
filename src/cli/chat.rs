//! `katari run --chat`: a conversation in the model's own format.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use katari::text::{ChatTemplate, Message, Tokenizer};
use katari_gguf::keys::tokenizer::CHAT_TEMPLATE;

use super::failure::Failure;
use super::generation::Settings;
use super::model::Model;
use super::output;
use super::output::note;
use super::writer::{Report, summarize, write};

/// Answers `first` and then each line of standard input, which is the rest of the conversation.
/// Empty lines are passed over.
pub fn converse(
    model: &mut Model,
    first: Option<String>,
    settings: &Settings,
    json: bool,
) -> Result<(), Failure> {
    let template = template_of(model)?;
    let at_terminal = std::io::stdin().is_terminal();
    if at_terminal {
        note("Write a line and press Enter; end with Ctrl-D.");
    }
    let mut said = Vec::new();
    let mut next = first;
    let mut load_time = Some(model.load_time);
    loop {
        let user = match next.take() {
            Some(text) => text,
            None => match read_line(at_terminal)? {
                Some(line) => line,
                None => return Ok(()),
            },
        };
        if user.trim().is_empty() {
            continue;
        }
        said.push(message("user", &user));
        let ids = prompt(model, &template, &mut said, settings)?;
        let written = write(model, ids, settings, |text| match json {
            true => Ok(()),
            false => output::stream(text),
        })?;
        if json {
            let load_time = load_time.unwrap_or_default();
            output::json(&Report::new(&user, &written, settings.seed, load_time))?;
        } else {
            output::stream("\n")?;
        }
        summarize(&written, settings.seed, load_time.take());
        // At a terminal Ctrl-C ends the answer, and the next one the conversation.
        if written.interrupted() && !at_terminal {
            return Err(Failure::interrupted());
        }
        said.push(message("assistant", written.text.trim_end()));
    }
}

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_string(),
        content: content.to_string(),
    }
}

fn template_of(model: &Model) -> Result<ChatTemplate, Failure> {
    let source: Option<&str> = model.engine.gguf().metadata.opt(CHAT_TEMPLATE)?;
    let source = source.ok_or_else(|| {
        anyhow::anyhow!(
            "the file has no '{CHAT_TEMPLATE}', so the model is not made for conversations; \
             run it without --chat, or quantize it with --chat-template"
        )
    })?;
    Ok(template(source, &model.tokenizer)?)
}

/// The chat template that a file has, with the tokens it may name.
pub fn template(source: &str, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    let piece = |id: Option<u32>| id.map_or("", |id| tokenizer.piece(id));
    let template =
        ChatTemplate::new(source).with_context(|| format!("metadata key '{CHAT_TEMPLATE}'"))?;
    Ok(template
        .with("bos_token", piece(tokenizer.bos()))
        .with("eos_token", piece(tokenizer.eos())))
}

/// The conversation so far as the model reads it. What was said first is left out where it
/// would not fit the context with the answer.
fn prompt(
    model: &Model,
    template: &ChatTemplate,
    said: &mut Vec<Message>,
    settings: &Settings,
) -> Result<Vec<u32>, Failure> {
    // An answer may take up to half the context before it costs memory of the conversation.
    let answer = settings
        .limits
        .max_new
        .unwrap_or(0)
        .min(model.engine.n_ctx() / 2);
    loop {
        let text = template.render(said, true).context("the chat template")?;
        let ids = model.tokenizer.chat_ids(&text);
        if ids.len() + answer <= model.engine.n_ctx() || said.len() < 3 {
            return Ok(ids);
        }
        note("warning: the context is full; the first turn of the conversation is left out");
        said.drain(..2);
    }
}

/// The next line of standard input without its line break, or `None` at its end.
fn read_line(at_terminal: bool) -> Result<Option<String>, Failure> {
    if at_terminal {
        let mut stderr = std::io::stderr();
        let _ = write!(stderr, "> ").and_then(|()| stderr.flush());
    }
    let mut line = String::new();
    let n = (std::io::stdin().lock().read_line(&mut line)).context("cannot read standard input")?;
    if n == 0 {
        if at_terminal {
            note("");
        }
        return Ok(None);
    }
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(Some(line))
}
