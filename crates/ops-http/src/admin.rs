//! The admin transport: `POST /v1/{component}/{action}`, JSON in and out, by token only, every call audited.
//!
//! An action is a row of a table and a function. It runs on the services' runtime and to its end: a client that goes
//! away, or a time-out, leaves nothing half-done.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use database_services::resilience::Deadline;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::access::Peer;
use crate::app::App;
use crate::audit::{AdminEvent, AdminOutcome};
use crate::problem::Problem;

mod cache;
mod config;
mod health;
mod insight;
mod locks;
mod pool;
mod pubsub;
mod redis;
mod replicas;
mod service;

pub(crate) type Answer = Result<Value, Problem>;
type Running = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One action of the transport.
#[derive(Debug)]
pub(crate) struct Action {
    component: &'static str,
    name: &'static str,
    summary: &'static str,
    /// The input's member that names what is acted on, for the audit trail; empty: none.
    target: &'static str,
    run: fn(Arc<App>, Value) -> Running,
}

/// Every action there is, by component.
const ACTIONS: [&[Action]; 12] = [
    cache::ACTIONS,
    config::ACTIONS,
    health::ACTIONS,
    locks::ACTIONS,
    pool::ACTIONS,
    insight::ACTIONS,
    pubsub::ALL[0],
    pubsub::ALL[1],
    pubsub::ALL[2],
    redis::ACTIONS,
    replicas::ACTIONS,
    service::ACTIONS,
];

fn actions() -> impl Iterator<Item = &'static Action> {
    ACTIONS.iter().flat_map(|of_component| of_component.iter())
}

/// `GET /v1`: what there is.
pub(crate) async fn list(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Err(refused) = app.admit(&request, "GET /v1") {
        return refused.into_response();
    }
    let rows: Vec<Value> = actions()
        .map(
            |action| json!({"component": action.component, "action": action.name, "summary": action.summary}),
        )
        .collect();
    Json(rows).into_response()
}

/// `POST /v1/{component}/{action}`.
pub(crate) async fn call(
    State(app): State<Arc<App>>,
    Path((component, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    let what = format!("{component}/{name}");
    let who = match app.admit(&request, &what) {
        Ok(who) => who,
        Err(refused) => return refused.into_response(),
    };
    let started = Instant::now();
    let audit = move |target: String, answer: &Answer| {
        let code = answer.as_ref().err().map(|problem| problem.code.clone());
        let outcome = if code.is_none() { AdminOutcome::Done } else { AdminOutcome::Failed };
        AdminEvent { who, what, target, outcome, code, duration: started.elapsed() }.emit();
    };
    let (action, input) = match prepare(&app, &component, &name, request).await {
        Ok(prepared) => prepared,
        Err(problem) => {
            audit(String::new(), &Err(problem.clone()));
            return problem.into_response();
        }
    };
    let target = target_of(action, &input);
    let running = (action.run)(Arc::clone(&app), input);
    // Spawned: what was begun is ended and audited, whether or not the client still waits.
    let task = app.runtime().spawn(async move {
        let answer = running.await;
        audit(target, &answer);
        answer
    });
    match task.await {
        Ok(Ok(value)) => Json(value).into_response(),
        Ok(Err(problem)) => problem.into_response(),
        Err(_panicked_or_runtime_gone) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the action broke off; the instance's log says why",
        )
        .into_response(),
    }
}

async fn prepare(
    app: &App,
    component: &str,
    name: &str,
    request: Request,
) -> Result<(&'static Action, Value), Problem> {
    let action = find(component, name)?;
    let limit = app.limits().body_bytes;
    let body = to_bytes(request.into_body(), limit).await.map_err(|_too_long_or_broken| {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is longer than {limit} bytes, or broke off"),
        )
    })?;
    if body.trim_ascii().is_empty() {
        return Ok((action, json!({})));
    }
    match serde_json::from_slice(&body) {
        Ok(input @ Value::Object(_)) => Ok((action, input)),
        Ok(_) => Err(Problem::invalid("the body must be a JSON object")),
        Err(error) => Err(Problem::invalid(format!("the body is no JSON: {error}"))),
    }
}

fn find(component: &str, name: &str) -> Result<&'static Action, Problem> {
    if let Some(action) = actions().find(|action| action.component == component && action.name == name) {
        return Ok(action);
    }
    let of_component: Vec<String> =
        actions().filter(|action| action.component == component).map(path_of).collect();
    Err(if of_component.is_empty() {
        let known: Vec<String> = actions().map(path_of).collect();
        Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_component",
            format!("there is no component `{component}`"),
        )
        .with("known", known)
    } else {
        Problem::new(StatusCode::NOT_FOUND, "unknown_action", format!("`{component}` has no action `{name}`"))
            .with("known", of_component)
    })
}

fn path_of(action: &Action) -> String {
    format!("{}/{}", action.component, action.name)
}

fn target_of(action: &Action, input: &Value) -> String {
    match input.get(action.target) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => {
            let first = list.first().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned));
            format!("{} (of {})", first.unwrap_or_default(), list.len())
        }
        Some(other) => other.to_string(),
    }
}

/// The action's input as a type; what does not fit is named.
fn input<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_json::from_value(value).map_err(|error| Problem::invalid(error.to_string()))
}

/// Input of actions that take none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// An error of a component as a problem. Its own sentence is shown (admins only), its sources stay in the log.
fn failed(what: &str, error: &(dyn std::error::Error + 'static), retryable: bool) -> Problem {
    tracing::warn!(what, error, "an admin action failed");
    let status = if retryable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::UNPROCESSABLE_ENTITY };
    let code = if retryable { "unavailable" } else { "failed" };
    Problem::new(status, code, format!("{what}: {error}")).with("retryable", retryable)
}

/// Where a request came from, as the server noted it.
pub(crate) fn peer_of(request: &Request) -> Peer {
    request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Unknown)
}

/// A value of ours as an answer.
fn shown(value: &impl serde::Serialize) -> Answer {
    serde_json::to_value(value).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("the answer cannot be written: {error}"),
        )
    })
}

/// The time that an action has: a little less than the request, so that it can still say what went wrong.
fn deadline(app: &App) -> Deadline {
    Deadline::after(app.limits().request_timeout.mul_f32(0.9))
}
