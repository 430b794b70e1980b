//! What the server refuses, and how each protocol says so.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A request that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// No key, or a wrong one.
    #[error("the API key is missing or wrong")]
    Unauthorized,
    /// A browser's request from a page that may not ask, or for a host that this is not.
    #[error("{0}")]
    Forbidden(String),
    /// No such endpoint.
    #[error("there is no {0} here")]
    NotFound(String),
    /// The endpoint has other methods.
    #[error("this endpoint has no such method")]
    WrongMethod,
    /// The body is larger than allowed.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the body did not come in time")]
    TooSlow,
    /// As many requests wait as may.
    #[error("the server is busy; try again later")]
    Busy,
    /// The model is not there yet.
    #[error("the model is being loaded")]
    Loading,
    /// The server ends.
    #[error("the server is shutting down")]
    Stopping,
    /// The engine failed.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
            Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Refusal::Busy | Refusal::Loading | Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What kind of error it is, in the words of OpenAI's API.
    fn kind(&self) -> &'static str {
        match self {
            Refusal::Unauthorized => "authentication_error",
            Refusal::Forbidden(_) => "permission_error",
            Refusal::NotFound(_) => "not_found_error",
            Refusal::Busy | Refusal::Loading | Refusal::Stopping => "unavailable_error",
            Refusal::Failed(_) => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// Leaves the body to [`Dialect::shape`], which knows whose path it is.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        match self {
            Refusal::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refusal::Busy | Refusal::Loading => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Whose way of speaking a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's API.
    OpenAi,
    /// llama.cpp's own endpoints.
    Llama,
    /// KoboldAI's and KoboldCpp's.
    Kobold,
    /// Ollama's.
    Ollama,
}

impl Dialect {
    /// The protocol that `path` belongs to.
    pub fn of(path: &str) -> Dialect {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|p| path.starts_with(p));
        if begins(&["/api/v1/", "/api/latest/", "/api/extra/"]) {
            Dialect::Kobold
        } else if begins(&["/api/"]) {
            Dialect::Ollama
        } else if begins(&["/v1/", "/chat/", "/models"]) {
            Dialect::OpenAi
        } else {
            Dialect::Llama
        }
    }

    /// An error as the protocol's clients read it.
    pub fn error(self, refusal: &Refusal) -> Value {
        let message = refusal.to_string();
        let (status, kind) = (refusal.status().as_u16(), refusal.kind());
        match self {
            Dialect::OpenAi => json!({
                "error": {"message": message, "type": kind, "param": null, "code": null}
            }),
            Dialect::Llama => json!({
                "error": {"message": message, "type": kind, "code": status}
            }),
            Dialect::Kobold => json!({"detail": {"msg": message, "type": match refusal {
                Refusal::Busy | Refusal::Loading | Refusal::Stopping => "service_unavailable",
                Refusal::Invalid(_) => "bad_input",
                _ => kind,
            }}}),
            Dialect::Ollama => json!({"error": message}),
        }
    }

    /// Gives a response that is a [`Refusal`] its body.
    pub fn shape(self, mut response: Response) -> Response {
        match response.extensions_mut().remove::<Refusal>() {
            Some(refusal) => {
                let body = Json(self.error(&refusal));
                let mut shaped = (refusal.status(), body).into_response();
                for (name, value) in response.headers() {
                    if name != header::CONTENT_LENGTH {
                        shaped.headers_mut().insert(name.clone(), value.clone());
                    }
                }
                shaped
            }
            None => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_its_protocol() {
        for (path, dialect) in [
            ("/v1/completions", Dialect::OpenAi),
            ("/chat/completions", Dialect::OpenAi),
            ("/completion", Dialect::Llama),
            ("/health", Dialect::Llama),
            ("/api/v1/generate", Dialect::Kobold),
            ("/api/extra/generate/stream", Dialect::Kobold),
            ("/api/generate", Dialect::Ollama),
            ("/nothing", Dialect::Llama),
        ] {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }
}
