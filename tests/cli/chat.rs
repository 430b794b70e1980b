//! `run --chat`: commands through a pipe, and the editor in a terminal of its own.

use super::*;

/// Lines through a pipe to the demo that converses.
fn converse(more: &[&str], lines: &str) -> Output {
    let file = demo_chat();
    let args = ["run", &file, "--chat", "-n", "8", "--seed", "1"];
    with_stdin(&[&args, more].concat(), lines.as_bytes())
}

#[track_caller]
fn answers(lines: &str) -> Vec<Value> {
    let output = converse(&["--json"], lines);
    assert!(output.status.success(), "{}", stderr_of(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn an_answer_is_given_again_with_another_seed() {
    let given = answers("こんにちは\n/retry\n");
    assert_eq!(given.len(), 2);
    assert_eq!(given[1]["prompt"], "こんにちは");
    assert_eq!(given[0]["prompt_tokens"], given[1]["prompt_tokens"]);
    assert_eq!(
        (&given[0]["seed"], &given[1]["seed"]),
        (&1.into(), &2.into())
    );
    assert_ne!(given[0]["ids"], given[1]["ids"]);
}

#[test]
fn what_is_taken_back_was_never_said() {
    let plain = answers("こんにちは\n元気？\n");
    let undone = answers("こんにちは\n猫が好き。\n/undo\n元気？\n");
    assert_eq!(undone.len(), 3);
    assert_eq!(plain[1]["ids"], undone[2]["ids"]);
    assert_ne!(plain[1]["prompt_tokens"], undone[1]["prompt_tokens"]);
    let anew = answers("元気？\n/new\nこんにちは\n/quit\n猫\n");
    assert_eq!(anew.len(), 2);
    assert_eq!(plain[0]["ids"], anew[1]["ids"]);
}

#[test]
fn a_conversation_is_saved_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("会話 一.json");
    let path = path.to_str().unwrap();
    let all = answers(&format!(
        "こんにちは\n/save {path}\n//quit は命令。\n/save {path}.2\n"
    ));
    assert_eq!(all[1]["prompt"], "/quit は命令。");
    let saved: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(saved["messages"][0]["role"], "user");
    assert_eq!(saved["messages"][0]["content"], "こんにちは");
    assert_eq!(saved["messages"][1]["role"], "assistant");
    assert_eq!(saved["messages"].as_array().unwrap().len(), 2);
    let gone_on = answers(&format!("/load {path}\n//quit は命令。\n"));
    assert_eq!(gone_on[0]["ids"], all[1]["ids"]);
}

#[test]
fn a_mistake_in_a_pipe_ends_the_program() {
    let model = demo_chat();
    let foreign = scratch("chat-foreign.json");
    fs::write(
        &foreign,
        r#"[{"role": "system", "content": "日本語で答えて。"}]"#,
    )
    .unwrap();
    let foreign = foreign.to_str().unwrap();
    for (line, code, parts) in [
        ("/savee x", 2, &["/savee", "/help"][..]),
        ("/undo", 2, &["nothing was said"]),
        ("/retry", 2, &["nothing was said"]),
        ("/save", 2, &["/save FILE"]),
        (&format!("/save {model}"), 1, &[&model, "another name"]),
        (&format!("/load {model}"), 1, &[&model]),
        (&format!("/load {foreign}"), 0, &[]),
    ] {
        let output = converse(&[], &format!("{line}\n"));
        match code {
            0 => assert!(output.status.success(), "{}", stderr_of(&output)),
            _ => assert_fails(&output, code, parts),
        }
    }
    let help = converse(&[], "/help\n");
    assert!(help.status.success() && help.stdout.is_empty());
    for command in ["/retry", "/undo", "/save FILE", "/load FILE", "/quit"] {
        assert!(stderr_of(&help).contains(command), "{}", stderr_of(&help));
    }
}

/// `script` of util-linux makes a terminal and needs none.
#[cfg(target_os = "linux")]
mod terminal {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, ChildStdin};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::*;

    /// How long what is expected may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    struct Terminal {
        child: Child,
        keys: ChildStdin,
        shown: Arc<Mutex<Vec<u8>>>,
        /// How much of it was looked at.
        seen: usize,
    }

    impl Terminal {
        /// The program in a terminal with its state in `state`, or `None` where there is no
        /// `script`.
        fn start(state: &Path, more: &str) -> Option<Self> {
            if Command::new("script").arg("--version").output().is_err() {
                eprintln!("skipped: there is no `script` to make a terminal");
                return None;
            }
            let (program, model) = (env!("CARGO_BIN_EXE_katari"), demo_chat());
            let command = format!("'{program}' run '{model}' --chat --seed 1 {more}");
            let mut child = Command::new("script")
                .args(["-qec", &command, "/dev/null"])
                .env("XDG_STATE_HOME", state)
                .env("TERM", "xterm")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let shown = Arc::new(Mutex::new(Vec::new()));
            let (into, mut out) = (shown.clone(), child.stdout.take().unwrap());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = out.read(&mut buffer) {
                    into.lock().unwrap().extend(&buffer[..n]);
                }
            });
            let keys = child.stdin.take().unwrap();
            let mut terminal = Self {
                child,
                keys,
                shown,
                seen: 0,
            };
            terminal.expect("> ");
            Some(terminal)
        }

        fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).unwrap();
            self.keys.flush().unwrap();
        }

        /// Waits until the terminal shows `text`, and returns what it showed before.
        #[track_caller]
        fn expect(&mut self, text: &str) -> String {
            let start = Instant::now();
            loop {
                let shown = self.shown.lock().unwrap()[self.seen..].to_vec();
                let shown = String::from_utf8_lossy(&shown);
                if let Some(at) = shown.find(text) {
                    self.seen += at + text.len();
                    return shown[..at].to_string();
                }
                let late = start.elapsed() > PATIENCE;
                assert!(!late, "{text:?} was not shown, but {shown:?}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }

        /// Sends a line and waits for its answer and the prompt after it.
        fn say(&mut self, line: &str) {
            self.press(&format!("{line}\r"));
            self.expect("generated");
            self.expect("> ");
        }

        fn end(mut self) -> Option<i32> {
            let start = Instant::now();
            while start.elapsed() < PATIENCE {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("it does not end");
        }
    }

    impl Drop for Terminal {
        /// A test that fails leaves no program behind.
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// What the user said, as `/save` writes it.
    fn said(path: &Path) -> Vec<String> {
        let messages = support::json(path)["messages"].clone();
        (messages.as_array().unwrap().iter())
            .filter(|m| m["role"] == "user")
            .map(|m| m["content"].as_str().unwrap().to_string())
            .collect()
    }

    #[test]
    fn lines_are_edited_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let Some(mut terminal) = Terminal::start(state, "-n 4") else {
            return;
        };
        const LEFT: &str = "\x1b[D";
        const UP: &str = "\x1b[A";
        // One key takes back a whole wide character, and moves over one.
        terminal.say(&format!("昔話々\x7f\x7f々{LEFT}昔{LEFT}{LEFT}"));
        // Alt-Enter and a \ go on in another line, as does a pasted line break.
        terminal.say("一\x1b\r二\\\r\x1b[200~三\r四\x1b[201~");
        terminal.press("/wrong\r");
        terminal.expect("no command /wrong");
        terminal.expect("> ");
        terminal.say(&format!("{UP}{UP}"));
        let path = state.join("saved.json");
        terminal.press(&format!("/sa\t{}\r", path.display()));
        terminal.expect("messages written");
        terminal.expect("> ");
        terminal.press("\x04");
        assert_eq!(terminal.end(), Some(0));
        let lines = "一\n二\n三\n四";
        assert_eq!(said(&path), ["昔昔々", lines, lines]);

        let history = state.join("katari/chat-history");
        let mode = fs::metadata(&history).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // The next run has the history, another may do without.
        let mut terminal = Terminal::start(state, "-n 4").unwrap();
        terminal.say(&format!("{UP}{UP}"));
        terminal.press(&format!("/save {}\r", path.display()));
        terminal.expect("messages written");
        terminal.press("\r/quit\r");
        assert_eq!(terminal.end(), Some(0));
        assert_eq!(said(&path), [lines]);
        let kept = fs::read(&history).unwrap();
        let mut terminal = Terminal::start(state, "-n 4 --no-history").unwrap();
        terminal.say(&format!("{UP}猫"));
        terminal.press("\x04");
        assert_eq!(terminal.end(), Some(0));
        assert_eq!(fs::read(&history).unwrap(), kept);
    }

    #[test]
    fn ctrl_c_ends_the_answer_and_then_the_program() {
        let folder = tempfile::tempdir().unwrap();
        // Where a history cannot be written, there is none, and no error.
        let state = folder.path().join("a file");
        fs::write(&state, "").unwrap();
        let endless = "-n 1000000 --ignore-eos --shift";
        let Some(mut terminal) = Terminal::start(&state, endless) else {
            return;
        };
        terminal.press("長い話をして。\r");
        terminal.expect("\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.press("\x03");
        terminal.expect("generated");
        terminal.expect("> ");
        // What is being typed is discarded, and the conversation goes on.
        terminal.press("忘れて\x03");
        terminal.expect("> ");
        terminal.press("\x03");
        terminal.expect("Ctrl-C again");
        terminal.expect("> ");
        terminal.press("続けて。\r");
        terminal.expect("\n");
        std::thread::sleep(Duration::from_millis(300));
        terminal.press("\x03");
        terminal.expect("generated");
        terminal.expect("> ");
        terminal.press("\x03");
        assert_eq!(terminal.end(), Some(130));
    }
}
