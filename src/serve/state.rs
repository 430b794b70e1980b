//! What all handlers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::common::unix_time;
use super::metrics::Metrics;
use super::model::Model;
use super::refusal::Refusal;
use super::running::Running;
use super::worker::Worker;

/// Requests that are made sense of at once: as many as the server has threads.
const AT_ONCE: usize = 2;
/// Bytes of bodies that wait for that, in bodies of the largest size.
const BODIES: usize = 16;

/// What a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub max_body: usize,
    /// How long a body may take to come.
    pub body_time: Duration,
    /// How long a request's head may take to come, and a connection idle.
    pub head_time: Duration,
    /// How long a client may take nothing of what is written to it.
    pub write_time: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body: 8 << 20,
            body_time: Duration::from_secs(30),
            head_time: Duration::from_secs(30),
            write_time: Duration::from_secs(120),
            connections: 512,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// What a request may take.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What may be aborted from elsewhere.
    pub running: Arc<Running>,
    /// Whether a key is asked for.
    pub protected: bool,
    /// How many texts are written at once.
    pub n_slots: usize,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it began.
    pub since: Instant,
    model: OnceLock<Arc<Model>>,
    worker: Worker,
    /// One for each byte of the bodies that are held.
    pub bodies: Semaphore,
    at_once: Semaphore,
    stopping: AtomicBool,
    counter: AtomicU64,
}

impl Server {
    /// A server whose model is not there yet.
    pub fn new(worker: Worker, metrics: Arc<Metrics>, limits: Limits, n_slots: usize) -> Self {
        Server {
            limits,
            metrics,
            running: Arc::default(),
            protected: false,
            n_slots,
            began: unix_time(),
            since: Instant::now(),
            model: OnceLock::new(),
            worker,
            bodies: Semaphore::new(
                (limits.max_body.saturating_mul(BODIES)).min(Semaphore::MAX_PERMITS),
            ),
            at_once: Semaphore::new(AT_ONCE),
            stopping: AtomicBool::new(false),
            counter: AtomicU64::new(0),
        }
    }

    /// The model is loaded.
    pub fn set_model(&self, model: Arc<Model>) {
        // It is loaded once.
        let _ = self.model.set(model);
    }

    /// The model.
    ///
    /// # Errors
    /// It is not there yet.
    pub fn model(&self) -> Result<&Arc<Model>, Refusal> {
        self.model.get().ok_or(Refusal::Loading)
    }

    /// Takes texts on.
    ///
    /// # Errors
    /// The model is not there yet, or the server ends.
    pub fn worker(&self) -> Result<&Worker, Refusal> {
        self.model()?;
        match self.is_stopping() {
            true => Err(Refusal::Stopping),
            false => Ok(&self.worker),
        }
    }

    /// Does what takes long or much memory, of which few requests do at once; no stream waits
    /// for it.
    pub async fn apart<T>(&self, work: impl FnOnce() -> T) -> T {
        // Nobody closes the semaphore, so there always is a permit in the end.
        let _permit = self.at_once.acquire().await;
        tokio::task::block_in_place(work)
    }

    /// No more texts are taken on.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Whether it ends.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// A number that no other answer has.
    pub fn count(&self) -> u64 {
        self.counter.fetch_add(1, Relaxed)
    }
}
