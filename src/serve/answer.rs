//! From a text's news to a response: all at once, or piece by piece.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;

use super::refusal::Refusal;
use super::running::Watched;
use super::worker::{Drawn, News, gone};
use crate::schedule::{Finish, Timings};

/// The texts of one HTTP request. Dropping it cancels those that are not done.
pub struct Answers {
    news: mpsc::UnboundedReceiver<(usize, News)>,
    watched: Option<Watched>,
    /// Texts that are not done.
    left: usize,
}

/// A whole text.
#[derive(Debug, Clone)]
pub struct Whole {
    /// What follows the prompt.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Drawn>,
    /// Why it ended.
    pub finish: Finish,
    /// What it took.
    pub timings: Timings,
}

impl Answers {
    /// `n` texts whose news come from `news`.
    pub fn new(
        news: mpsc::UnboundedReceiver<(usize, News)>,
        n: usize,
        watched: Option<Watched>,
    ) -> Self {
        Answers {
            news,
            watched,
            left: n,
        }
    }

    /// The next news and whose it is; `None` after the last of all.
    pub async fn next(&mut self) -> Option<(usize, News)> {
        if self.left == 0 {
            return None;
        }
        let next = match &self.watched {
            Some(watched) => tokio::select! {
                next = self.news.recv() => next,
                () = watched.aborted() => {
                    self.left = 0;
                    return Some((0, News::Done(Finish::Cancelled, Timings::default())));
                }
            },
            None => self.news.recv().await,
        };
        let next = next.unwrap_or_else(|| (0, News::Failed(gone())));
        match &next.1 {
            News::Text(text, _) => {
                if let Some(watched) = &self.watched {
                    watched.add(text);
                }
            }
            News::Done(..) => self.left -= 1,
            News::Failed(_) => self.left = 0,
        }
        Some(next)
    }

    /// All texts, in order.
    pub async fn whole(mut self) -> Result<Vec<Whole>, Refusal> {
        let empty = Whole {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Cancelled,
            timings: Timings::default(),
        };
        let mut wholes = vec![empty; self.left];
        while let Some((index, news)) = self.next().await {
            let Some(whole) = wholes.get_mut(index) else {
                continue;
            };
            match news {
                News::Text(text, tokens) => {
                    whole.text.push_str(&text);
                    whole.tokens.extend(tokens);
                }
                News::Done(finish, timings) => {
                    whole.finish = finish;
                    whole.timings = timings;
                }
                News::Failed(refusal) => return Err(refusal),
            }
        }
        Ok(wholes)
    }

    /// A response of pieces. `shape` makes pieces of each news, and of `None` at the end. What a
    /// client is too slow to take waits with the worker.
    pub fn stream(
        self,
        framing: Framing,
        shape: impl FnMut(Option<(usize, News)>) -> Vec<Frame> + Send + 'static,
    ) -> Response {
        // A chunk of the body for each news, whatever else has come meanwhile: there are clients
        // that take a chunk for one piece.
        let chunks = futures_util::stream::unfold(Some((self, shape)), move |state| async move {
            let (mut answers, mut shape) = state?;
            loop {
                let news = answers.next().await;
                let last = news.is_none();
                let mut bytes = Vec::new();
                for frame in shape(news) {
                    framing.write(&frame, &mut bytes);
                }
                if !bytes.is_empty() {
                    let chunk = Ok::<_, Infallible>(Bytes::from(bytes));
                    return Some((chunk, (!last).then_some((answers, shape))));
                }
                if last {
                    return None;
                }
            }
        });
        let mut response = Body::from_stream(chunks).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(framing.content_type()),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// How pieces are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events (the HTML standard, 9.2.6).
    Events,
    /// The same, each with the line `event: message` first.
    NamedEvents,
    /// A JSON value a line.
    Lines,
}

/// A piece of a streamed response.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A JSON value.
    Json(Value),
    /// The word that ends OpenAI's streams.
    Done,
}

impl Framing {
    fn content_type(self) -> &'static str {
        match self {
            Framing::Events | Framing::NamedEvents => "text/event-stream; charset=utf-8",
            Framing::Lines => "application/x-ndjson; charset=utf-8",
        }
    }

    fn write(self, frame: &Frame, out: &mut Vec<u8>) {
        let (before, after): (&[u8], &[u8]) = match self {
            Framing::Events => (b"data: ", b"\n\n"),
            Framing::NamedEvents => (b"event: message\ndata: ", b"\n\n"),
            Framing::Lines => (b"", b"\n"),
        };
        out.extend_from_slice(before);
        match frame {
            // JSON escapes line breaks, so that a value is one line.
            Frame::Json(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Frame::Done => out.extend_from_slice(b"[DONE]"),
        }
        out.extend_from_slice(after);
    }
}
