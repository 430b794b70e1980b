//! How a verb ends where it does not succeed.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use super::output::note;

/// The exit code, and a line for standard error where there is something to say.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: Option<String>,
}

/// The exit code of a program that was stopped by Ctrl-C, as shells have it.
pub const INTERRUPTED: u8 = 130;

impl Failure {
    /// The command line asks for what cannot be.
    pub fn usage(message: impl Display) -> Self {
        Self::with_code(2, message)
    }

    /// Any other code.
    pub fn with_code(code: u8, message: impl Display) -> Self {
        Self {
            code,
            message: Some(message.to_string()),
        }
    }

    /// What is to be said was said already.
    pub fn reported(code: u8) -> Self {
        Self {
            code,
            message: None,
        }
    }

    /// Stopped by Ctrl-C after tidying up.
    pub fn interrupted() -> Self {
        Self::reported(INTERRUPTED)
    }

    /// Whether there is something to say: not where the reader of our output is gone.
    pub fn has_message(&self) -> bool {
        self.message.is_some()
    }

    /// Says what happened and gives the exit code.
    pub fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            note(format_args!("error: {message}"));
        }
        ExitCode::from(self.code)
    }
}

/// A broken pipe is no error: who reads our output has seen enough.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let broken_pipe = (error.chain())
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
        if broken_pipe {
            Self::reported(0)
        } else {
            Self::with_code(1, format_args!("{error:#}"))
        }
    }
}
