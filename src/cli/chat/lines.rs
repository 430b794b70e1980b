//! Where the user's lines come from: an editor at a terminal, else standard input as it is.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use rustyline::completion::Completer;
use rustyline::config::{Behavior, BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ConditionalEventHandler, Context, Editor, Event, EventContext, EventHandler, Helper,
    KeyCode, KeyEvent, Modifiers, RepeatCount,
};

use super::command::COMMANDS;
use crate::cli::failure::Failure;
use crate::cli::folders;
use crate::cli::output::note;

const PROMPT: &str = "> ";
/// Lines that the history keeps.
const HISTORY: usize = 1000;

/// What comes of asking for a line.
pub enum Line {
    Text(String),
    /// Standard input is at its end, or Ctrl-D was pressed.
    End,
    /// Ctrl-C, twice.
    Interrupted,
}

/// Reads line by line.
pub struct Lines {
    source: Source,
    /// Ctrl-C was the last thing that happened: pressed again it ends the program.
    interrupted: bool,
}

enum Source {
    /// Standard input is no terminal.
    Piped,
    /// A terminal that can do no more than show lines.
    Plain,
    Edited(Box<Edited>),
}

struct Edited {
    editor: Editor<Commands, FileHistory>,
    /// Where the history is kept between runs, if it is.
    history: Option<PathBuf>,
    /// Ctrl-C found something typed, and discards that alone.
    discards: Arc<AtomicBool>,
}

impl Lines {
    /// Reads standard input; `keep_history`: lines typed at a terminal are kept for the next run.
    pub fn open(keep_history: bool) -> Self {
        let source = if !std::io::stdin().is_terminal() {
            Source::Piped
        } else {
            // Whatever an editor lacks here, lines can be read without one.
            let edited = Edited::open(keep_history);
            edited.map_or(Source::Plain, |edited| Source::Edited(Box::new(edited)))
        };
        Self {
            source,
            interrupted: false,
        }
    }

    /// Whether a person is there to read what goes wrong and go on.
    pub fn at_terminal(&self) -> bool {
        !matches!(self.source, Source::Piped)
    }

    /// Ctrl-C has stopped an answer.
    pub fn was_interrupted(&mut self) {
        self.interrupted = true;
    }

    /// The next line that is not blank, without its line break.
    pub fn next(&mut self) -> Result<Line, Failure> {
        loop {
            let line = match &mut self.source {
                Source::Piped => read_line()?,
                Source::Plain => {
                    let mut stderr = std::io::stderr();
                    let _ = write!(stderr, "{PROMPT}").and_then(|()| stderr.flush());
                    let line = read_line()?;
                    if matches!(line, Line::End) {
                        note("");
                    }
                    line
                }
                Source::Edited(edited) => match edited.next()? {
                    Line::Interrupted if edited.discards.load(Ordering::Relaxed) => {
                        self.interrupted = false;
                        continue;
                    }
                    Line::Interrupted if !self.interrupted => {
                        self.interrupted = true;
                        note("Ctrl-C again ends the conversation; so does Ctrl-D");
                        continue;
                    }
                    line => line,
                },
            };
            match line {
                Line::Text(text) if text.trim().is_empty() => {}
                line => {
                    self.interrupted = false;
                    return Ok(line);
                }
            }
        }
    }
}

/// A line of standard input as it is.
fn read_line() -> Result<Line, Failure> {
    let mut line = String::new();
    let n = (std::io::stdin().lock().read_line(&mut line)).context("cannot read standard input")?;
    if n == 0 {
        return Ok(Line::End);
    }
    line.truncate(line.trim_end_matches(['\n', '\r']).len());
    Ok(Line::Text(line))
}

impl Edited {
    /// `None` where the terminal cannot be edited in.
    fn open(keep_history: bool) -> Option<Self> {
        let terminal = std::env::var("TERM").unwrap_or_default();
        if ["dumb", "cons25", "emacs"].contains(&terminal.as_str()) {
            return None;
        }
        // Where answers go to a file, the prompt goes to the terminal all the same.
        let behavior = match std::io::stdout().is_terminal() {
            true => Behavior::Stdio,
            false => Behavior::PreferTerm,
        };
        let config = Config::builder()
            .behavior(behavior)
            .bell_style(BellStyle::None)
            .max_history_size(HISTORY)
            .ok()?
            .build();
        let mut editor = Editor::with_config(config).ok()?;
        editor.set_helper(Some(Commands));
        let discards = Arc::new(AtomicBool::new(false));
        editor.bind_sequence(KeyEvent::ctrl('C'), conditional(CtrlC(discards.clone())));
        for enter in [KeyEvent::from('\r'), KeyEvent::ctrl('M')] {
            editor.bind_sequence(enter, conditional(Enter));
        }
        let alt_enter = KeyEvent(KeyCode::Enter, Modifiers::ALT);
        editor.bind_sequence(alt_enter, EventHandler::Simple(Cmd::Newline));
        let history = match keep_history {
            true => folders::state(|name| std::env::var_os(name)),
            false => None,
        };
        let history = history.map(|folder| folder.join("chat-history"));
        if let Some(path) = &history {
            // There is none before the first run, and one that cannot be read is done without.
            let _ = editor.load_history(path);
        }
        Some(Self {
            editor,
            history,
            discards,
        })
    }

    fn next(&mut self) -> Result<Line, Failure> {
        self.discards.store(false, Ordering::Relaxed);
        match self.editor.readline(PROMPT) {
            Ok(line) => {
                let line = line.replace("\\\n", "\n");
                self.remember(&line);
                Ok(Line::Text(line))
            }
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(error) => Err(anyhow::Error::new(error)
                .context("cannot read from the terminal")
                .into()),
        }
    }

    /// Puts `line` into the history. Where it cannot be written, the next run lacks it.
    fn remember(&mut self, line: &str) {
        let added = self.editor.add_history_entry(line);
        if let (Ok(true), Some(path)) = (added, &self.history) {
            if let Some(folder) = path.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            // Made so that its owner alone may read it.
            let _ = self.editor.append_history(path);
        }
    }
}

fn conditional(handler: impl ConditionalEventHandler + 'static) -> EventHandler {
    EventHandler::Conditional(Box::new(handler))
}

/// Notes whether there is anything that Ctrl-C discards.
struct CtrlC(Arc<AtomicBool>);

impl ConditionalEventHandler for CtrlC {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        self.0.store(!context.line().is_empty(), Ordering::Relaxed);
        Some(Cmd::Interrupt)
    }
}

/// After a `\` at the end of a text that is to be said, Enter begins another line of it.
struct Enter;

impl ConditionalEventHandler for Enter {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        let line = context.line();
        let is_command = line.starts_with('/') && !line.starts_with("//");
        let goes_on = line.ends_with('\\') && context.pos() == line.len() && !is_command;
        goes_on.then_some(Cmd::Newline)
    }
}

/// Completes the commands' names.
struct Commands;

impl Completer for Commands {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = line.get(..pos).unwrap_or_default();
        let names = COMMANDS.iter().filter(|_| begun.starts_with('/'));
        let names = names.filter(|entry| entry.name.starts_with(begun));
        let completed = names.map(|entry| match entry.takes {
            "" => entry.name.to_string(),
            _ => format!("{} ", entry.name),
        });
        Ok((0, completed.collect()))
    }
}

impl Hinter for Commands {
    type Hint = String;
}
impl Highlighter for Commands {}
impl Validator for Commands {}
impl Helper for Commands {}
