//! The one error of this crate: what was found, what was expected, and where.

use std::io;
use std::path::{Path, PathBuf};

/// Why a checkpoint could not be turned into a file.
///
/// Every message names the file (and the tensor or key), what was found and what was expected,
/// and, where there is one, the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A file of the checkpoint is missing, damaged or of a kind that is not read.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// One tensor of the checkpoint is not what the configuration or its file says.
    #[error("{}: tensor '{tensor}': {message}", path.display())]
    Tensor {
        /// The file that holds it or should hold it.
        path: PathBuf,
        /// Its name in the checkpoint.
        tensor: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "read", "create" ...
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk that the output goes to is full.
    #[error(
        "{}: the disk is full: the file needs {needed} bytes; free some space or choose another place with -o",
        path.display()
    )]
    DiskFull {
        /// The output.
        path: PathBuf,
        /// Bytes of the whole output.
        needed: u64,
    },
    /// Writing GGUF failed.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The output.
        path: PathBuf,
        /// What the format's crate says.
        source: katari_gguf::Error,
    },
    /// Stopped by the user; nothing is left behind.
    #[error("stopped; nothing was written")]
    Interrupted,
}

impl Error {
    /// A fault of a file or folder.
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::File {
            path: path.as_ref().to_path_buf(),
            message: message.into(),
        }
    }

    /// A fault of one tensor.
    pub fn tensor(
        path: impl AsRef<Path>,
        tensor: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Error::Tensor {
            path: path.as_ref().to_path_buf(),
            tensor: tensor.into(),
            message: message.into(),
        }
    }

    /// For `map_err`: the system refused to do `action` ("read", "create" ...) with `path`.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io {
            path,
            action,
            source,
        }
    }

    /// The process's exit code: 2 for a wrong command line, 130 when interrupted, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Interrupted => 130,
            _ => 1,
        }
    }
}
