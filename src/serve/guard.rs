//! Who may ask: hosts, origins and keys, before any endpoint is reached.
//!
//! A page in a browser can send requests to any address that the browser reaches. What it can
//! not do is lie about where it comes from, so two headers are checked: `Host` must be a name
//! of this machine where the server listens on loopback alone (a name that was made to point
//! here would not be: DNS rebinding), and `Origin` must be one that is allowed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::page;
use super::refusal::{Dialect, Refusal};
use super::state::Server;

/// Names of this machine, without a port.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What is checked.
#[derive(Clone, Default)]
pub struct Guard {
    /// The key that every request but `/health` and the page needs, if any.
    pub key: Option<String>,
    /// Whether `Host` must be a name of this machine: where the server listens on loopback.
    pub local_only: bool,
    /// Hosts that are allowed beside those.
    pub hosts: Vec<String>,
    /// Origins of pages that may ask beside those of this machine; `*` for all.
    pub origins: Vec<String>,
}

/// The key is nobody's business.
impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("key", &self.key.is_some())
            .field("local_only", &self.local_only)
            .finish_non_exhaustive()
    }
}

impl Guard {
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if !self.local_only {
            return Ok(());
        }
        let host = text(headers, &header::HOST);
        let name = without_port(host);
        let allowed = LOCAL.contains(&name.to_ascii_lowercase().as_str())
            || (self.hosts.iter())
                .any(|h| h.eq_ignore_ascii_case(host) || h.eq_ignore_ascii_case(name));
        match allowed {
            true => Ok(()),
            false => Err(Refusal::Forbidden(
                "this server answers to the names of its own machine; see --allow-host".into(),
            )),
        }
    }

    /// The origin to allow, if the request comes from a page of another.
    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let Some(value) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        let origin = value.to_str().unwrap_or_default();
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        let own = !host.is_empty() && host.eq_ignore_ascii_case(text(headers, &header::HOST));
        let local = LOCAL.contains(&without_port(host).to_ascii_lowercase().as_str());
        let listed = (self.origins.iter()).any(|o| o == "*" || o.eq_ignore_ascii_case(origin));
        match own || local || listed {
            true => Ok(Some(value.clone())),
            false => Err(Refusal::Forbidden(format!(
                "pages of {origin:?} may not ask this server; see --cors"
            ))),
        }
    }

    fn check_key(&self, path: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(key) = &self.key else { return Ok(()) };
        if OPEN.contains(&path) || page::has(path) {
            return Ok(());
        }
        // A key need not be ASCII, and a header's value need not be text.
        let bytes = |name: &str| headers.get(name).map_or(&[][..], HeaderValue::as_bytes);
        let bearer = bytes("authorization").split_at_checked(BEARER.len());
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER));
        let given = [
            bearer.map_or(&[][..], |(_, key)| key.trim_ascii()),
            bytes("x-api-key"),
        ];
        let equal = given.iter().any(|given| given.ct_eq(key.as_bytes()).into());
        if equal {
            Ok(())
        } else {
            Err(Refusal::Unauthorized)
        }
    }
}

/// How a key is announced.
const BEARER: &[u8] = b"Bearer ";

/// What needs no key, beside the page, which asks for the key: whether the server is up.
const OPEN: [&str; 2] = ["/health", "/v1/health"];

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> &'a str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Checks a request, and gives errors the body that the path's clients read.
pub async fn guard(
    State((server, guard)): State<(Arc<Server>, Arc<Guard>)>,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let dialect = Dialect::of(&path);
    let origin =
        (guard.check_host(request.headers())).and_then(|()| guard.check_origin(request.headers()));
    let mut response = match &origin {
        Err(refusal) => refusal.clone().into_response(),
        // A preflight carries no key.
        Ok(Some(_)) if method == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        Ok(_) => match guard.check_key(&path, request.headers()) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        },
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.extensions_mut().insert(Refusal::WrongMethod);
    }
    let mut response = dialect.shape(response);
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        server.metrics.requests_refused_total.fetch_add(1, Relaxed);
    }
    tracing::info!(%method, path, status = status.as_u16(), "request");
    let headers = response.headers_mut();
    let add = |headers: &mut HeaderMap, name, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    add(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Ok(Some(origin)) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        add(headers, header::VARY, "Origin");
        add(
            headers,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, POST, OPTIONS",
        );
        add(
            headers,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "*, Authorization, Content-Type, X-Api-Key",
        );
        add(headers, header::ACCESS_CONTROL_MAX_AGE, "600");
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        (list.iter())
            .map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let guard = Guard {
            local_only: true,
            hosts: vec!["katari.lan".into()],
            ..Guard::default()
        };
        for (host, ok) in [
            ("localhost:8080", true),
            ("LOCALHOST", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("[::1]", true),
            ("katari.lan:80", true),
            ("evil.example:8080", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:8080", false),
            ("", false),
        ] {
            let found = guard.check_host(&headers(&[("host", host)]));
            assert_eq!(found.is_ok(), ok, "{host:?}");
        }
        assert!(guard.check_host(&HeaderMap::new()).is_err());
        assert!(Guard::default().check_host(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn pages_of_others_may_not_ask() {
        let guard = Guard {
            origins: vec!["https://lite.koboldai.net".into()],
            ..Guard::default()
        };
        for (origin, ok) in [
            ("http://localhost:3000", true),
            ("http://127.0.0.1", true),
            ("http://[::1]:1", true),
            ("http://katari.lan:8080", true),
            ("https://lite.koboldai.net", true),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("null", false),
            ("", false),
        ] {
            let headers = headers(&[("host", "katari.lan:8080"), ("origin", origin)]);
            assert_eq!(guard.check_origin(&headers).is_ok(), ok, "{origin:?}");
        }
    }

    #[test]
    fn a_key_is_asked_for() {
        let guard = Guard {
            key: Some("secret".into()),
            ..Guard::default()
        };
        for (list, ok) in [
            (&[("authorization", "Bearer secret")][..], true),
            (&[("authorization", "bearer  secret")], true),
            (&[("x-api-key", "secret")], true),
            (
                &[("authorization", "Bearer "), ("x-api-key", "secret")],
                true,
            ),
            (&[("authorization", "Bearer secre")], false),
            (&[("authorization", "Bearer secrets")], false),
            (&[("authorization", "Basic secret")], false),
            (&[("authorization", "secret")], false),
            (&[], false),
        ] {
            let found = guard.check_key("/v1/models", &headers(list));
            assert_eq!(found.is_ok(), ok, "{list:?}");
        }
        assert!(guard.check_key("/health", &HeaderMap::new()).is_ok());
        assert!(guard.check_key("/health/", &HeaderMap::new()).is_err());
    }
}
