//! The one error of this crate.

/// What is wrong with a GGUF file or with what was asked of it.
///
/// Every message names the key or tensor, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no GGUF file, or a damaged one.
    #[error("{0}")]
    Malformed(String),
    /// A metadata key that the caller needs is absent.
    #[error("the metadata has no key '{key}' (expected {expected})")]
    MissingKey {
        /// The key asked for.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// A metadata key holds another type than the caller needs.
    #[error("metadata key '{key}' is {found}, expected {expected}")]
    WrongType {
        /// The key asked for.
        key: String,
        /// The type found.
        found: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// The caller asked for a file that cannot be written as GGUF.
    #[error("cannot write GGUF: {0}")]
    Unwritable(String),
    /// Writing failed below.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
