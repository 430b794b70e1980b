//! Ctrl-C: while something is under way it asks that to stop; otherwise, or pressed again, it
//! ends the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::INTERRUPTED;
use super::output::note;

static UNDER_WAY: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// While it lives, the first Ctrl-C is left to whoever asks [`requested`](Watch::requested).
pub struct Watch(());

impl Watch {
    /// Begins something that can be stopped.
    pub fn start() -> Self {
        INSTALL.call_once(|| {
            // Where no handler can be set, the system's ends the program: as good as it gets.
            let _ = ctrlc::set_handler(|| {
                let asked_before = REQUESTED.swap(true, Ordering::Relaxed);
                if asked_before || !UNDER_WAY.load(Ordering::Relaxed) {
                    note("");
                    std::process::exit(i32::from(INTERRUPTED));
                }
            });
        });
        REQUESTED.store(false, Ordering::Relaxed);
        UNDER_WAY.store(true, Ordering::Relaxed);
        Self(())
    }

    /// Set once Ctrl-C is pressed.
    pub fn flag(&self) -> &'static AtomicBool {
        &REQUESTED
    }

    /// Whether Ctrl-C was pressed since the start.
    pub fn requested(&self) -> bool {
        REQUESTED.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        UNDER_WAY.store(false, Ordering::Relaxed);
    }
}
