//! ggml's own messages: nothing is printed; what went wrong is added to our errors.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, Once, PoisonError};

use super::sys::*;
use crate::ops::DeviceError;

/// The last warnings and errors, joined.
static MESSAGES: Mutex<String> = Mutex::new(String::new());

/// Bytes of messages that are kept.
const KEPT: usize = 1000;

/// From now on ggml's messages come here.
pub(super) fn listen() {
    static ONCE: Once = Once::new();
    // SAFETY: the function is of the type that ggml calls and lives as long as the program.
    ONCE.call_once(|| unsafe { ggml_log_set(Some(hear), null_mut()) });
}

unsafe extern "C" fn hear(level: ggml_log_level, text: *const c_char, _: *mut c_void) {
    if !matches!(level, GGML_LOG_LEVEL_WARN | GGML_LOG_LEVEL_ERROR) || text.is_null() {
        return;
    }
    // SAFETY: ggml gives a string that ends with a zero and lives for the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    keep(&mut messages, &text);
}

/// Adds `text` to `messages`, and keeps the last of them: what went wrong is said last.
fn keep(messages: &mut String, text: &str) {
    messages.push_str(text);
    let mut cut = messages.len().saturating_sub(KEPT);
    while !messages.is_char_boundary(cut) {
        cut += 1;
    }
    messages.drain(..cut);
}

/// What ggml said since it was last asked, on one line; why a driver's devices are not there, say.
pub fn complaints() -> Option<String> {
    let mut messages = MESSAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let said = std::mem::take(&mut *messages);
    let said = said.trim().replace('\n', "; ");
    Some(said).filter(|said| !said.is_empty())
}

/// An error that says `what`, and what ggml said before.
pub(super) fn explain(what: String) -> DeviceError {
    match complaints() {
        None => DeviceError(what),
        Some(said) => DeviceError(format!("{what} ({said})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_are_kept() {
        let mut messages = String::new();
        for i in 0..1000 {
            keep(&mut messages, &format!("{i}: no memory\n"));
        }
        assert!(messages.len() <= KEPT);
        assert!(
            messages.ends_with("998: no memory\n999: no memory\n"),
            "{messages}"
        );
        // One that is too long alone, cut between characters.
        keep(&mut messages, &"語".repeat(KEPT));
        assert_eq!(messages, "語".repeat(KEPT / 3));
    }
}
