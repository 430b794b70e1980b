//! `katari run --chat`: a conversation in the model's own format.

mod command;
mod conversation;
mod lines;

use std::time::Duration;

use anyhow::Context;
use katari::text::ChatTemplate;
use katari_gguf::keys::tokenizer::CHAT_TEMPLATE;

use super::failure::Failure;
use super::generation::Settings;
use super::model::Model;
use super::output;
use super::output::note;
use super::writer::{Report, summarize, write};
use command::Input;
use conversation::Conversation;
use lines::{Line, Lines};

/// Answers `first` and then each line of standard input, which is the rest of the conversation
/// or a command. `json`: an object for each answer in place of text; `keep_history`: what is
/// typed at a terminal can be had again in the next run.
///
/// At a terminal a mistake is told and the conversation goes on; in a pipe, where nobody would
/// read of it, it ends the program.
pub fn converse(
    model: &mut Model,
    first: Option<String>,
    settings: &Settings,
    json: bool,
    keep_history: bool,
) -> Result<(), Failure> {
    let template = template_of(model)?;
    let load_time = Some(model.load_time);
    let mut chat = Chat {
        model,
        template,
        settings: settings.clone(),
        json,
        conversation: Conversation::default(),
        load_time,
    };
    let mut lines = Lines::open(keep_history);
    if lines.at_terminal() {
        note("Say something and press Enter. /help lists commands; Ctrl-D ends.");
    }
    let mut next = (first.filter(|text| !text.trim().is_empty())).map(Input::Say);
    loop {
        let input = match next.take() {
            Some(input) => Ok(input),
            None => match lines.next()? {
                Line::Text(line) => Input::read(&line),
                Line::End => return Ok(()),
                Line::Interrupted => return Err(Failure::interrupted()),
            },
        };
        match input.map_err(Failure::usage).and_then(|i| chat.take(i)) {
            Ok(Outcome::GoOn) => {}
            Ok(Outcome::End) => return Ok(()),
            Ok(Outcome::Interrupted) if lines.at_terminal() => lines.was_interrupted(),
            Ok(Outcome::Interrupted) => return Err(Failure::interrupted()),
            Err(failure) if lines.at_terminal() && failure.has_message() => {
                failure.report();
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// How it goes on after a line.
enum Outcome {
    GoOn,
    End,
    /// Ctrl-C stopped the answer.
    Interrupted,
}

/// A conversation with a model.
struct Chat<'a> {
    model: &'a mut Model,
    template: ChatTemplate,
    /// `seed` is that of the next answer.
    settings: Settings,
    json: bool,
    conversation: Conversation,
    /// What loading took, until it is reported.
    load_time: Option<Duration>,
}

impl Chat<'_> {
    /// Does what a line asks for.
    fn take(&mut self, input: Input) -> Result<Outcome, Failure> {
        match input {
            Input::Say(text) => {
                let before = self.conversation.clone();
                self.conversation.say(&text);
                return self.answer_or(before);
            }
            Input::Retry => {
                let before = self.conversation.clone();
                if !self.conversation.take_answer_back() {
                    return Err(Failure::usage("nothing was said that could be answered"));
                }
                // The same seed would write the same answer.
                self.settings.seed = self.settings.seed.wrapping_add(1);
                return self.answer_or(before);
            }
            Input::Undo => match self.conversation.undo() {
                Some(said) => note(format_args!("taken back: {said}")),
                None => return Err(Failure::usage("nothing was said that could be taken back")),
            },
            Input::New => {
                self.conversation = Conversation::default();
                note("a new conversation");
            }
            Input::Save(path) => {
                self.conversation.save(&path)?;
                let messages = self.conversation.len();
                note(format_args!(
                    "{messages} messages written to {}",
                    path.display()
                ));
            }
            Input::Load(path) => self.load(&path)?,
            Input::Help => note(command::help()),
            Input::Quit => return Ok(Outcome::End),
        }
        Ok(Outcome::GoOn)
    }

    /// Goes on with the conversation in `path`, if the model's format has a place for all of it.
    fn load(&mut self, path: &std::path::Path) -> Result<(), Failure> {
        let loaded = Conversation::load(path)?;
        (self.template.render(&loaded.read_by_model(), true))
            .with_context(|| path.display().to_string())
            .context("the model's chat template refuses the conversation")?;
        self.conversation = loaded;
        let answer = match self.conversation.awaits_answer() {
            true => "; /retry answers the last",
            false => "",
        };
        let messages = self.conversation.len();
        note(format_args!("{messages} messages read{answer}"));
        Ok(())
    }

    /// [`Chat::answer`]; where that fails the conversation is what it was `before`.
    fn answer_or(&mut self, before: Conversation) -> Result<Outcome, Failure> {
        let outcome = self.answer();
        if outcome.is_err() {
            self.conversation = before;
        }
        outcome
    }

    /// Writes the model's answer to what was said last.
    fn answer(&mut self) -> Result<Outcome, Failure> {
        let said = self.conversation.read_by_model();
        let said = said.last().map(|message| message.content.clone());
        let ids = self.prompt()?;
        let json = self.json;
        let written = write(self.model, ids, &self.settings, |text| match json {
            true => Ok(()),
            false => output::stream(text),
        })?;
        let seed = self.settings.seed;
        if json {
            let (said, load_time) = (said.unwrap_or_default(), self.load_time.unwrap_or_default());
            output::json(&Report::new(&said, &written, seed, load_time))?;
        } else {
            output::stream("\n")?;
        }
        summarize(&written, seed, self.load_time.take());
        let text = written.text.trim_end();
        // What Ctrl-C stopped before its first word can still be answered.
        if !(written.interrupted() && text.is_empty()) {
            self.conversation.answer(text);
        }
        Ok(match written.interrupted() {
            true => Outcome::Interrupted,
            false => Outcome::GoOn,
        })
    }

    /// The conversation so far as the model reads it. What was said first is left out where it
    /// would not fit the context with the answer.
    fn prompt(&mut self) -> Result<Vec<u32>, Failure> {
        // An answer may take up to half the context before it costs memory of the conversation.
        let n_ctx = self.model.engine.n_ctx();
        let answer = self.settings.limits.max_new.unwrap_or(0).min(n_ctx / 2);
        let mut has_forgotten = false;
        loop {
            let messages = self.conversation.read_by_model();
            let text = (self.template.render(&messages, true)).context("the chat template")?;
            let ids = self.model.tokenizer.chat_ids(&text);
            if ids.len() + answer <= n_ctx || !self.conversation.forget_turn() {
                if has_forgotten {
                    note("warning: the context is full; the first turns are left out");
                }
                return Ok(ids);
            }
            has_forgotten = true;
        }
    }
}

fn template_of(model: &Model) -> Result<ChatTemplate, Failure> {
    let (_, template) = model.template()?.ok_or_else(|| {
        anyhow::anyhow!(
            "the file has no '{CHAT_TEMPLATE}', so the model is not made for conversations; \
             run it without --chat, or quantize it with --chat-template"
        )
    })?;
    Ok(template)
}
