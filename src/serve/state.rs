//! What all handlers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::common::unix_time;
use super::metrics::Metrics;
use super::model::Model;
use super::refusal::Refusal;
use super::running::Running;
use super::worker::Worker;

/// What a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub max_body: usize,
    /// How long a body may take to come.
    pub body_time: Duration,
    /// How long a request's head may take to come, and a connection idle.
    pub head_time: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_body: 8 << 20,
            body_time: Duration::from_secs(30),
            head_time: Duration::from_secs(30),
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
    /// How many texts are written at once.
    pub n_slots: usize,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// When it began.
    pub since: Instant,
    model: OnceLock<Arc<Model>>,
    worker: Worker,
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
            n_slots,
            began: unix_time(),
            since: Instant::now(),
            model: OnceLock::new(),
            worker,
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
