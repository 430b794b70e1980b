//! The texts that clients may look at or abort from another connection, by a key of their own
//! (KoboldCpp's `genkey`).

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// The list of them.
#[derive(Debug, Default)]
pub struct Running(Mutex<Vec<Arc<Entry>>>);

#[derive(Debug)]
struct Entry {
    key: String,
    text: Mutex<String>,
    abort: Notify,
}

/// A text's place in the list; dropping it takes it out.
#[derive(Debug)]
pub struct Watched {
    list: Arc<Running>,
    entry: Arc<Entry>,
}

/// What a panicking thread left is a list all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Running {
    /// Enters a text under `key`, which may be empty.
    pub fn enter(self: &Arc<Self>, key: &str) -> Watched {
        let entry = Arc::new(Entry {
            key: key.to_string(),
            text: Mutex::default(),
            abort: Notify::new(),
        });
        lock(&self.0).push(Arc::clone(&entry));
        Watched {
            list: Arc::clone(self),
            entry,
        }
    }

    /// What was written so far under `key`, by the last that has it; an empty key means any.
    pub fn text(&self, key: &str) -> Option<String> {
        let list = lock(&self.0);
        let mut newest_first = list.iter().rev();
        let entry = newest_first.find(|entry| key.is_empty() || entry.key == key)?;
        Some(lock(&entry.text).clone())
    }

    /// Ends those under `key`, all for an empty key; says how many.
    pub fn abort(&self, key: &str) -> usize {
        let list = lock(&self.0);
        let meant = list.iter().filter(|e| key.is_empty() || e.key == key);
        meant.map(|entry| entry.abort.notify_one()).count()
    }
}

impl Watched {
    /// Adds text that was written.
    pub fn add(&self, text: &str) {
        lock(&self.entry.text).push_str(text);
    }

    /// Returns when the text is to end.
    pub async fn aborted(&self) {
        self.entry.abort.notified().await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&self.list.0).retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
}
