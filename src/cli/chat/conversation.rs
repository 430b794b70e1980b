//! What was said, apart from any terminal and any model.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use katari::text::Message;
use katari_quantize::temporary::Temporary;
use serde::{Deserialize, Serialize};

/// Bytes that a saved conversation may have.
const MAX_FILE: u64 = 16 << 20;

/// Messages in turn, and how much of their beginning the model no longer reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    messages: Vec<Message>,
    /// Messages left out of what the model reads, after those of the system that come first.
    forgotten: usize,
}

/// A conversation in a file, in the form of a request to OpenAI's chat completions.
#[derive(Serialize, Deserialize)]
struct Saved {
    messages: Vec<Message>,
}

/// What a file may hold: that form, or the bare list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Loaded {
    Request(Saved),
    List(Vec<Message>),
}

impl Conversation {
    /// The user says `text`. What they said before and got no answer to is replaced.
    pub fn say(&mut self, text: &str) {
        if self.awaits_answer() {
            self.messages.pop();
        }
        self.push("user", text);
    }

    /// The model answers.
    pub fn answer(&mut self, text: &str) {
        self.push("assistant", text);
    }

    fn push(&mut self, role: &str, content: &str) {
        self.messages.push(Message {
            role: role.to_string(),
            content: content.to_string(),
        });
    }

    /// Whether the user spoke last.
    pub fn awaits_answer(&self) -> bool {
        self.messages.last().is_some_and(|last| last.role == "user")
    }

    /// Takes back the last answer. False where the user has said nothing that could be answered
    /// again.
    pub fn take_answer_back(&mut self) -> bool {
        let Some(last) = self.last_of_user() else {
            return false;
        };
        self.messages.truncate(last + 1);
        self.remember();
        true
    }

    /// Takes back what the user said last, and all that followed. Returns what they said.
    pub fn undo(&mut self) -> Option<String> {
        let last = self.last_of_user()?;
        let said = self.messages.get(last)?.content.clone();
        self.messages.truncate(last);
        self.remember();
        Some(said)
    }

    fn last_of_user(&self) -> Option<usize> {
        self.messages.iter().rposition(|m| m.role == "user")
    }

    /// After messages were taken back, those that were forgotten may have room again.
    fn remember(&mut self) {
        self.forgotten = 0;
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The messages that the model reads.
    pub fn read_by_model(&self) -> Vec<Message> {
        let (system, rest) = self.messages.split_at(self.system());
        let rest = rest.get(self.forgotten..).unwrap_or_default();
        [system, rest].concat()
    }

    /// How many messages of the system come first; they are never forgotten.
    fn system(&self) -> usize {
        let other = self.messages.iter().position(|m| m.role != "system");
        other.unwrap_or(self.messages.len())
    }

    /// Leaves one more turn out of what the model reads: up to what the user says next. False
    /// where that is the last thing said.
    pub fn forget_turn(&mut self) -> bool {
        let system = self.system();
        let first = system + self.forgotten;
        let next = (self.messages.iter().enumerate().skip(first + 1))
            .find_map(|(i, message)| (message.role == "user").then_some(i));
        match next {
            Some(next) => {
                self.forgotten = next - system;
                true
            }
            None => false,
        }
    }

    /// Writes every message to `path`, whole or not at all. A file there is replaced if it is a
    /// saved conversation.
    pub fn save(&self, path: &Path) -> Result<()> {
        if path.exists()
            && let Err(error) = Conversation::load(path)
        {
            bail!(
                "{} is left as it is, for it is no saved conversation; choose another name \
                 ({error:#})",
                path.display()
            );
        }
        let temporary = Temporary::create(path)?;
        let mut out = BufWriter::new(temporary.file());
        let saved = Saved {
            messages: self.messages.clone(),
        };
        serde_json::to_writer_pretty(&mut out, &saved)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out))
            .and_then(|()| out.flush())
            .with_context(|| format!("cannot write {}", path.display()))?;
        drop(out);
        temporary.keep(true)?;
        Ok(())
    }

    /// Reads what [`save`](Self::save) or a front-end wrote: an object with `messages`, or their
    /// list alone.
    pub fn load(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| path.display().to_string())
    }

    fn read(path: &Path) -> Result<Self> {
        // Asked before it is opened, since opening a pipe would wait for its writer.
        let is_file = std::fs::metadata(path)?.is_file();
        ensure!(is_file, "expected a file with a conversation");
        let mut text = String::new();
        File::open(path)?
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
        ensure!(
            text.len() as u64 <= MAX_FILE,
            "the file has more than the {MAX_FILE} bytes that a conversation may have"
        );
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text).context("no valid JSON")?;
        let (Ok(Loaded::Request(Saved { messages })) | Ok(Loaded::List(messages))) =
            serde_json::from_value(value)
        else {
            bail!(
                "no conversation; expected \
                 {{\"messages\": [{{\"role\": \"user\", \"content\": \"...\"}}, ...]}}"
            );
        };
        for (i, Message { role, .. }) in messages.iter().enumerate() {
            ensure!(
                ["system", "user", "assistant"].contains(&role.as_str()),
                "messages[{i}] has the role {role:?}, expected system, user or assistant"
            );
        }
        Ok(Self {
            messages,
            forgotten: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A conversation of `turns` turns: 1, (1), 2, (2) ...
    fn of(turns: usize) -> Conversation {
        let mut conversation = Conversation::default();
        for turn in 1..=turns {
            conversation.say(&turn.to_string());
            conversation.answer(&format!("({turn})"));
        }
        conversation
    }

    fn contents(conversation: &Conversation) -> Vec<String> {
        let messages = conversation.read_by_model();
        messages.into_iter().map(|m| m.content).collect()
    }

    #[test]
    fn turns_are_taken_back_one_by_one() {
        let mut conversation = of(2);
        assert_eq!(conversation.undo().as_deref(), Some("2"));
        assert_eq!(conversation, of(1));
        assert_eq!(conversation.undo().as_deref(), Some("1"));
        assert_eq!(conversation.undo(), None);
        assert_eq!(conversation, Conversation::default());
    }

    #[test]
    fn an_answer_is_taken_back_and_given_again() {
        let mut conversation = of(2);
        assert!(conversation.take_answer_back());
        assert_eq!(contents(&conversation), ["1", "(1)", "2"]);
        assert!(conversation.awaits_answer());
        // Where the answer never came, there is nothing to take back, and it can still be given.
        assert!(conversation.take_answer_back());
        conversation.answer("(2)");
        assert_eq!(conversation, of(2));
        assert!(!Conversation::default().take_answer_back());
    }

    #[test]
    fn what_got_no_answer_is_replaced() {
        let mut conversation = of(1);
        conversation.say("2");
        conversation.say("3");
        assert_eq!(contents(&conversation), ["1", "(1)", "3"]);
    }

    #[test]
    fn the_first_turns_are_forgotten_but_kept() {
        let mut conversation = Conversation::default();
        conversation.push("system", "s");
        conversation.messages.extend(of(3).messages);
        conversation.say("4");
        assert!(conversation.forget_turn());
        assert_eq!(contents(&conversation), ["s", "2", "(2)", "3", "(3)", "4"]);
        assert!(conversation.forget_turn());
        assert!(conversation.forget_turn());
        assert_eq!(contents(&conversation), ["s", "4"]);
        assert!(!conversation.forget_turn());
        assert_eq!(conversation.len(), 8);
        // With the last turn gone there is room for the first again.
        conversation.undo();
        assert_eq!(contents(&conversation).len(), 7);
    }

    #[test]
    fn a_saved_conversation_is_loaded_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("会話.json");
        let mut conversation = of(3);
        conversation.say("二行\nの「文」");
        conversation.forget_turn();
        conversation.save(&path).unwrap();
        let loaded = Conversation::load(&path).unwrap();
        assert_eq!(loaded.messages, conversation.messages);
        // A saved one is replaced, and nothing else lies beside it.
        of(1).save(&path).unwrap();
        assert_eq!(Conversation::load(&path).unwrap(), of(1));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_but_a_conversation_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, b"GGUF\xff").unwrap();
        let error = format!("{:#}", of(1).save(&path).unwrap_err());
        assert!(error.contains("model.gguf") && error.contains("another name"));
        assert_eq!(std::fs::read(&path).unwrap(), b"GGUF\xff");
        let error = of(1).save(folder.path()).unwrap_err();
        assert!(format!("{error:#}").contains("expected a file"));
        let missing = folder.path().join("no/folder.json");
        let error = format!("{:#}", of(1).save(&missing).unwrap_err());
        assert!(error.contains("folder.json"), "{error}");
    }

    #[test]
    fn what_front_ends_send_is_read_and_what_is_none_is_refused() {
        let list = r#"[{"role": "user", "content": "猫", "name": "x"}]"#;
        let request = format!(r#"{{"model": "m", "messages": {list}, "stream": true}}"#);
        for text in [list, &request] {
            assert_eq!(contents(&Conversation::parse(text).unwrap()), ["猫"]);
        }
        for (text, part) in [
            ("", "JSON"),
            ("[1]", "no conversation"),
            ("{}", "no conversation"),
            (r#"[{"role": "user", "content": null}]"#, "no conversation"),
            (r#"[{"role": "tool", "content": ""}]"#, "\"tool\", expected"),
        ] {
            let error = format!("{:#}", Conversation::parse(text).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
