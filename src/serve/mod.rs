//! `katari serve`: HTTP in the protocols that front-ends speak.
//!
//! Every protocol is a thin translation, a file each, to one request type, the schedule's:
//!
//! | file | protocol |
//! |---|---|
//! | `openai.rs` | OpenAI: `/v1/models`, `/v1/completions`, `/v1/chat/completions` |
//! | `llama.rs` | llama.cpp: `/completion`, `/tokenize`, `/props`, `/slots`, `/health`, `/metrics` ... |
//! | `kobold.rs` | KoboldAI and KoboldCpp: `/api/v1/generate`, `/api/extra/generate/stream` ... |
//! | `ollama.rs` | Ollama: `/api/generate`, `/api/chat`, `/api/tags` ... |
//!
//! `endpoints.rs` makes the router and the document at `/openapi.json` of one list;
//! `page.rs` is the page for people, a story editor and a chat.
//! `fields.rs` is the table of all spellings of all fields, `values.rs` what their values say; `worker.rs` the thread that owns the
//! engine; `guard.rs` who may ask. Nothing that a request says reaches the disk: no endpoint
//! takes a path, and the model is the one of the command line.

mod answer;
mod common;
mod connections;
mod endpoints;
mod fields;
mod guard;
mod kobold;
mod llama;
mod metrics;
mod model;
mod ollama;
mod openai;
mod order;
mod page;
mod refusal;
mod running;
mod state;
#[cfg(test)]
mod tests;
mod turns;
mod values;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use guard::Guard;
pub use model::{Chat, Facts, Model};
pub use state::Limits;

use crate::engine::Engine;
use endpoints::Endpoints;
use metrics::Metrics;
use refusal::Refusal;
use state::Server;
use worker::Worker;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Texts that are written at once; the engine has as many sequences.
    pub slots: usize,
    /// Texts that may wait for a slot; beyond them the answer is 503.
    pub queue: usize,
    /// Who may ask.
    pub guard: Guard,
    /// What a request may take.
    pub limits: Limits,
    /// How long texts may go on when the server is told to end.
    pub drain: Duration,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ServeError<E> {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// A thread cannot be had.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(E),
    /// The engine's thread ended before the server did.
    #[error("the engine's thread has ended, which it should not before the server")]
    Engine,
}

/// Listens, loads the model with `load` (`/health` says 503 until it is there), and serves until
/// the process is told to end: by Ctrl-C, or SIGTERM on Unix.
///
/// # Errors
/// The address cannot be had, `load` fails, or the engine's thread ends (it panicked: whoever
/// watches over the process should see it end).
pub fn serve<E: Send + 'static>(
    options: &Options,
    load: impl FnOnce() -> Result<(Engine, Model), E> + Send + 'static,
) -> Result<(), ServeError<E>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("serve")
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    let result = runtime.block_on(run(options, load));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run<E: Send + 'static>(
    options: &Options,
    load: impl FnOnce() -> Result<(Engine, Model), E> + Send + 'static,
) -> Result<(), ServeError<E>> {
    let address = options.address;
    let listening = |cause| ServeError::Listen { address, cause };
    let listener = TcpListener::bind(address).await.map_err(listening)?;
    let bound = listener.local_addr().map_err(listening)?;

    let metrics = Arc::new(Metrics::default());
    let n_places = options.slots.saturating_add(options.queue);
    let (worker, desk) = Worker::new(options.slots, n_places, Arc::clone(&metrics));
    let mut server = Server::new(worker, metrics, options.limits, options.slots);
    server.protected = options.guard.key.is_some();
    let server = Arc::new(server);
    let (failed, failure) = oneshot::channel();
    let for_thread = Arc::clone(&server);
    std::thread::Builder::new()
        .name("engine".into())
        // What constrains a text goes deep where its rules do.
        .stack_size(64 << 20)
        .spawn(move || match load() {
            Ok((mut engine, model)) => {
                let model = Arc::new(model);
                for_thread.set_model(Arc::clone(&model));
                drop(for_thread);
                tracing::info!(
                    model = model.name,
                    context = model.n_ctx,
                    slots = engine.session().n_sequences(),
                    "model loaded"
                );
                desk.work(&mut engine, &model);
            }
            Err(error) => {
                // The other end waits for it as long as it serves.
                let _ = failed.send(error);
            }
        })
        .map_err(ServeError::Thread)?;
    tracing::info!("listening on http://{bound}");

    let mut error = None;
    let end = async {
        tokio::select! {
            () = told_to_end() => tracing::info!("ending"),
            failure = failure => error = Some(match failure {
                Ok(error) => ServeError::Load(error),
                // The thread lives for as long as the server, and its sender with it.
                Err(_) => ServeError::Engine,
            }),
        }
        server.stop();
    };
    let router = router(Arc::clone(&server), options.guard.clone());
    connections::accept(listener, router, options.limits, end, options.drain).await;
    error.map_or(Ok(()), Err)
}

/// Returns when the process is told to end. A second time ends it at once.
async fn told_to_end() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

async fn signal() {
    let ctrl_c = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = ctrl_c => {}
        () = terminated => {}
    }
}

/// All endpoints behind the guard.
fn router(server: Arc<Server>, guard: Guard) -> Router {
    let checked = (Arc::clone(&server), Arc::new(guard));
    Endpoints::default()
        .merge(openai::routes())
        .merge(llama::routes())
        .merge(kobold::routes())
        .merge(ollama::routes())
        .merge(page::routes())
        .into_router()
        .fallback(|request: Request| async move {
            let path: String = request.uri().path().chars().take(100).collect();
            Refusal::NotFound(format!("{path:?}")).into_response()
        })
        .layer(axum::middleware::from_fn_with_state(checked, guard::guard))
        .with_state(server)
}
