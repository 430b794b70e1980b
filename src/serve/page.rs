//! The page in the binary: a story editor and a chat. Four files, nothing from elsewhere.

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::endpoints::{About, Answer, Endpoints};

/// What the page may do: load these files, and ask this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, kind and content of each file. None needs a key: the page asks for it.
const FILES: [(&str, &str, &str); 4] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page/page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// Whether `path` is one of the page's files.
pub fn has(path: &str) -> bool {
    FILES.iter().any(|(file, ..)| *file == path)
}

/// The files.
pub fn routes() -> Endpoints {
    let mut endpoints = Endpoints::default();
    for (path, kind, content) in FILES {
        let about = About::new("A file of the page").answers(Answer::Kind(kind));
        endpoints = endpoints.get(path, about, move || async move { file(kind, content) });
    }
    endpoints
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}
