//! What a line means: something to say, or a command.

use std::path::PathBuf;

/// A command's name, what it takes, and what it does.
pub struct Entry {
    pub name: &'static str,
    pub takes: &'static str,
    pub does: &'static str,
}

/// Every command there is.
pub const COMMANDS: [Entry; 7] = [
    entry("/retry", "", "answer again, with another seed"),
    entry("/undo", "", "take back what you said last and its answer"),
    entry("/new", "", "begin a new conversation"),
    entry("/save", "FILE", "write the conversation to a file, as JSON"),
    entry("/load", "FILE", "go on with a saved conversation"),
    entry("/help", "", "list the commands"),
    entry("/quit", "", "end; Ctrl-D does too"),
];

const fn entry(name: &'static str, takes: &'static str, does: &'static str) -> Entry {
    Entry { name, takes, does }
}

/// What a line of the user means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Say(String),
    Retry,
    Undo,
    New,
    Save(PathBuf),
    Load(PathBuf),
    Help,
    Quit,
}

impl Input {
    /// Reads `line`, which is not blank. A command begins with `/` in the first column; a line
    /// that begins with `//` is said with one of them.
    ///
    /// # Errors
    /// What is wrong with the command, in words.
    pub fn read(line: &str) -> Result<Input, String> {
        if !line.starts_with('/') {
            return Ok(Input::Say(line.to_string()));
        }
        if line.starts_with("//") {
            return Ok(Input::Say(line[1..].to_string()));
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let Some(entry) = COMMANDS.iter().find(|entry| entry.name == name) else {
            return Err(format!(
                "there is no command {name}; /help lists those there are, \
                 and // begins a text that is to begin with /"
            ));
        };
        match (entry.takes, rest) {
            ("", "") => {}
            ("", _) => return Err(format!("{name} takes nothing, found {rest:?}")),
            (takes, "") => return Err(format!("{name} takes a {takes}: {name} {takes}")),
            _ => {}
        }
        Ok(match name {
            "/retry" => Input::Retry,
            "/undo" => Input::Undo,
            "/new" => Input::New,
            "/save" => Input::Save(PathBuf::from(rest)),
            "/load" => Input::Load(PathBuf::from(rest)),
            "/quit" => Input::Quit,
            _ => Input::Help,
        })
    }
}

/// What `/help` says.
pub fn help() -> String {
    let mut text = String::new();
    for Entry { name, takes, does } in &COMMANDS {
        let usage = format!("{name} {takes}");
        text += &format!("{usage:<12} {does}\n");
    }
    text + "A line is sent with Enter; Alt-Enter, or a \\ at its end, begins another line of \
            the same text.\nCtrl-C stops an answer, or discards the text that is being typed. \
            // begins a text\nthat is to begin with /."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_said_and_commands_are_read() {
        let say = |text: &str| Ok(Input::Say(text.to_string()));
        for text in ["昔々", "a /retry", " /retry", "1/2"] {
            assert_eq!(Input::read(text), say(text));
        }
        assert_eq!(Input::read("//retry"), say("/retry"));
        assert_eq!(Input::read("/retry"), Ok(Input::Retry));
        assert_eq!(Input::read("/undo  "), Ok(Input::Undo));
        let path = PathBuf::from("昔 話.json");
        assert_eq!(Input::read("/save 昔 話.json "), Ok(Input::Save(path)));
    }

    #[test]
    fn every_command_of_the_list_is_its_own() {
        let mut read = Vec::new();
        for entry in &COMMANDS {
            let line = format!("{} {}", entry.name, entry.takes);
            let input = Input::read(&line).unwrap();
            assert!(!read.contains(&input), "{line}: {input:?}");
            assert!(help().contains(entry.name));
            read.push(input);
        }
    }

    #[test]
    fn what_is_wrong_with_a_command_is_said() {
        for (line, part) in [
            ("/", "no command /;"),
            ("/savee x", "no command /savee"),
            ("/* a comment\nand more", "no command /*"),
            ("/undo 3", "takes nothing, found \"3\""),
            ("/save", "/save FILE"),
        ] {
            let error = Input::read(line).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
