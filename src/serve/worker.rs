//! The thread that owns the engine: takes requests over a channel and sends their news back.
//!
//! Whoever drops the receiving end has cancelled: the worker looks before every pass.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::metrics::{Metrics, add, set};
use super::model::Model;
use super::refusal::Refusal;
use crate::engine::Engine;
use crate::schedule::{
    Event, Finish, Logprobs, Request, RequestId, Schedule, ScheduleError, Timings,
};

/// A drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub id: u32,
    /// How likely it was, where the request asked.
    pub logprobs: Option<Logprobs>,
}

/// News of a text.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Whole characters that are certain, and the tokens they are made of.
    Text(String, Vec<Drawn>),
    /// The last news.
    Done(Finish, Timings),
    /// The last news, where the engine failed.
    Failed(Refusal),
}

/// A slot as `/slots` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotState {
    /// Whether a text is being written in it.
    pub busy: bool,
    /// Tokens in its cache.
    pub n_tokens: usize,
}

struct Job {
    requests: Vec<Request>,
    news: mpsc::UnboundedSender<(usize, News)>,
    places: OwnedSemaphorePermit,
    since: Instant,
}

/// The worker's end for the protocols.
#[derive(Debug)]
pub struct Worker {
    /// Texts that may be written or wait.
    pub n_places: usize,
    jobs: Mutex<Sender<Job>>,
    /// One for each text that may be written or wait.
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    slots: Arc<Mutex<Vec<SlotState>>>,
}

/// The other end.
pub struct Desk {
    jobs: Receiver<Job>,
    metrics: Arc<Metrics>,
    slots: Arc<Mutex<Vec<SlotState>>>,
}

impl Worker {
    /// Both ends; `n_slots` texts are written at once, and at most `n_places` are written or wait.
    pub fn new(n_slots: usize, n_places: usize, metrics: Arc<Metrics>) -> (Worker, Desk) {
        let (sender, receiver) = channel();
        let slots = Arc::new(Mutex::new(vec![SlotState::default(); n_slots]));
        let n_places = n_places.min(Semaphore::MAX_PERMITS);
        let worker = Worker {
            n_places,
            jobs: Mutex::new(sender),
            places: Arc::new(Semaphore::new(n_places)),
            metrics: Arc::clone(&metrics),
            slots: Arc::clone(&slots),
        };
        let desk = Desk {
            jobs: receiver,
            metrics,
            slots,
        };
        (worker, desk)
    }

    /// Whether there are places for `n` texts.
    pub fn has_room(&self, n: usize) -> bool {
        n <= self.places.available_permits()
    }

    /// Asks for texts; all of them are taken or none.
    ///
    /// # Errors
    /// There is no place left, or the worker is gone.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> Result<mpsc::UnboundedReceiver<(usize, News)>, Refusal> {
        let n = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let places = Arc::clone(&self.places).try_acquire_many_owned(n);
        let places = places.map_err(|_| Refusal::Busy)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        add(&self.metrics.requests_total, requests.len());
        let job = Job {
            requests,
            news: sender,
            places,
            since: Instant::now(),
        };
        let jobs = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
        jobs.send(job).map_err(|_| gone())?;
        Ok(receiver)
    }

    /// The slots as they were after the last pass.
    pub fn slots(&self) -> Vec<SlotState> {
        let slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        slots.clone()
    }
}

/// The engine's thread has ended.
pub fn gone() -> Refusal {
    Refusal::Failed("the engine has stopped".into())
}

/// Who gets a request's news.
struct Client {
    index: usize,
    news: mpsc::UnboundedSender<(usize, News)>,
    /// Drawn, but not shown yet.
    drawn: Vec<Drawn>,
    logprobs: Option<Logprobs>,
    since: Instant,
    /// Whether any of the prompt was read, and any token drawn.
    read: bool,
    begun: bool,
    /// Given back when this is dropped.
    _place: Option<OwnedSemaphorePermit>,
}

impl Client {
    fn send(&self, news: News) {
        // Nobody may be left to hear it: that is looked for before the next pass.
        let _ = self.news.send((self.index, news));
    }

    fn tell(&mut self, event: Event, metrics: &Metrics) {
        match event {
            Event::Prompt { .. } => self.read = true,
            Event::Logprobs(logprobs) => self.logprobs = Some(logprobs),
            Event::Token(id) => {
                if !self.begun {
                    self.begun = true;
                    (metrics.first_token_seconds).observe_time(self.since.elapsed());
                }
                add(&metrics.generated_tokens_total, 1);
                let logprobs = self.logprobs.take();
                self.drawn.push(Drawn { id, logprobs });
            }
            Event::Text(text) => {
                let drawn = std::mem::take(&mut self.drawn);
                self.send(News::Text(text, drawn));
            }
            Event::Done(finish, timings) => {
                if self.read {
                    add(&metrics.prompt_tokens_total, timings.prompt_tokens);
                    add(&metrics.prompt_cached_tokens_total, timings.cached_tokens);
                }
                metrics.request_seconds.observe_time(self.since.elapsed());
                if finish == Finish::Cancelled {
                    add(&metrics.requests_cancelled_total, 1);
                }
                tracing::info!(
                    prompt_tokens = timings.prompt_tokens,
                    cached_tokens = timings.cached_tokens,
                    generated_tokens = timings.generated_tokens,
                    seconds = self.since.elapsed().as_secs_f64(),
                    finish = finish.name(),
                    "text written"
                );
                // Tokens whose text never came: part of a character, or none. (Of those of a
                // stop string nothing is told.)
                if !self.drawn.is_empty() && !matches!(finish, Finish::Stop(_)) {
                    let drawn = std::mem::take(&mut self.drawn);
                    self.send(News::Text(String::new(), drawn));
                }
                self.send(match finish {
                    Finish::ConstraintFailed(why) => News::Failed(Refusal::Invalid(why)),
                    finish => News::Done(finish, timings),
                });
            }
        }
    }
}

impl Desk {
    /// Serves until every [`Worker`] end is gone and nothing is left to write.
    pub fn work(self, engine: &mut Engine, model: &Model) {
        let mut schedule = Schedule::new(engine, &model.tokenizer);
        let mut clients: HashMap<RequestId, Client> = HashMap::new();
        loop {
            self.publish(&schedule);
            let job = match schedule.is_busy() {
                true => self.jobs.try_recv(),
                false => self.jobs.recv().map_err(|_| TryRecvError::Disconnected),
            };
            match job {
                Ok(job) => {
                    submit(job, &mut schedule, &mut clients);
                    // Whoever came with it shares its first pass.
                    continue;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) if clients.is_empty() => return,
                Err(TryRecvError::Disconnected) => {}
            }
            for (&id, client) in &clients {
                if client.news.is_closed() {
                    schedule.cancel(id);
                }
            }
            let stepped = schedule.step(&mut |id, event| {
                let done = matches!(event, Event::Done(..));
                if let Some(client) = clients.get_mut(&id) {
                    client.tell(event, &self.metrics);
                }
                if done {
                    clients.remove(&id);
                }
            });
            match stepped {
                Ok(()) if schedule.batch_len() > 0 => {
                    (self.metrics.batch_tokens).observe(schedule.batch_len() as f64);
                }
                Ok(()) => {}
                Err(error) => fail(&error, &mut schedule, &mut clients, &self.metrics),
            }
        }
    }

    fn publish(&self, schedule: &Schedule<'_>) {
        let (waiting, running) = schedule.load();
        set(&self.metrics.requests_waiting, waiting);
        set(&self.metrics.requests_running, running);
        let mut slots = self.slots.lock().unwrap_or_else(|e| e.into_inner());
        slots.clear();
        slots.extend(schedule.slots().map(|(id, n_tokens)| SlotState {
            busy: id.is_some(),
            n_tokens,
        }));
    }
}

fn submit(job: Job, schedule: &mut Schedule<'_>, clients: &mut HashMap<RequestId, Client>) {
    let mut places = job.places;
    for (index, request) in job.requests.into_iter().enumerate() {
        match schedule.submit(request) {
            Ok(id) => {
                let client = Client {
                    index,
                    news: job.news.clone(),
                    drawn: Vec::new(),
                    logprobs: None,
                    since: job.since,
                    read: false,
                    begun: false,
                    _place: places.split(1),
                };
                clients.insert(id, client);
            }
            Err(error) => {
                let refusal = Refusal::Invalid(error.to_string());
                let _ = job.news.send((index, News::Failed(refusal)));
            }
        }
    }
}

/// Ends every text: the device could not go on.
fn fail(
    error: &ScheduleError,
    schedule: &mut Schedule<'_>,
    clients: &mut HashMap<RequestId, Client>,
    metrics: &Metrics,
) {
    tracing::error!(%error, "the engine failed");
    for (id, client) in clients.drain() {
        add(&metrics.requests_failed_total, 1);
        metrics.request_seconds.observe_time(client.since.elapsed());
        client.send(News::Failed(Refusal::Failed(error.to_string())));
        schedule.cancel(id);
    }
}
