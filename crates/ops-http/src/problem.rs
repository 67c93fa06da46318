//! Errors as `application/problem+json` (RFC 9457): a code that a program can match on and a sentence for a person.
//!
//! A problem never carries a source error of ours word for word unless that error's text is made for operators:
//! no SQL, no addresses of the inside, no backtraces. What happened in full is in the log.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One refused or failed request, as the body that answers it.
///
/// On the wire it also has `type` (`urn:database-services:problem:{code}`) and `title` (the status in words).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A stable snake_case word to match on.
    pub code: String,
    /// What happened and what to do, for a person.
    pub detail: String,
    /// More for a program: `known`, `retryable`, …; boxed, as most problems have nothing here and every result carries the room.
    pub more: Box<Map<String, Value>>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    code: String,
    detail: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl From<Problem> for Wire {
    fn from(problem: Problem) -> Self {
        Self {
            kind: format!("urn:database-services:problem:{}", problem.code),
            title: problem.status_code().canonical_reason().unwrap_or("Error").to_owned(),
            status: problem.status,
            code: problem.code,
            detail: problem.detail,
            more: *problem.more,
        }
    }
}

impl From<Wire> for Problem {
    fn from(wire: Wire) -> Self {
        Self { status: wire.status, code: wire.code, detail: wire.detail, more: Box::new(wire.more) }
    }
}

impl Problem {
    /// A problem with this status, code and sentence.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self { status: status.as_u16(), code: code.to_owned(), detail: detail.into(), more: Box::default() }
    }

    /// Adds a member beside the standard ones.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_input", detail)
    }

    pub(crate) fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    pub(crate) fn timeout(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
    }

    /// The status as a type; 500 if a parsed problem carried nonsense.
    #[must_use]
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let status = self.status_code();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"database-services\""),
            );
        }
        response
    }
}
