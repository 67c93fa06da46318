//! `GET /v1/pubsub/tail?pattern=…`: messages as they come, one JSON object a line, until the client goes away. By token
//! only, audited when it begins. It changes nothing and acknowledges nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use database_services::pubsub_manager::{
    Error, Event, Message, PubSubManager, RawEvent, RawSubscription, SubscribeOptions, Subscription,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::audit::{AdminEvent, AdminOutcome};
use crate::problem::Problem;

/// Clients at the same time: each costs a queue.
pub(crate) const TAILS: usize = 16;
/// A line at least so often, so that a client that is gone is noticed.
const IDLE: Duration = Duration::from_secs(10);
const WHAT: &str = "pubsub/tail";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    pattern: String,
    #[serde(default)]
    lane: Lane,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Lane {
    #[default]
    Plain,
    Sharded,
    Raw,
}

/// What is listened to.
enum Source {
    Typed(Subscription<Value>),
    Raw(RawSubscription),
}

pub(crate) async fn tail(State(app): State<Arc<App>>, request: Request) -> Response {
    let who = match app.admit(&request, WHAT) {
        Ok(who) => who,
        Err(refused) => return refused.into_response(),
    };
    let started = Instant::now();
    let (target, opened) = match Query::<Tail>::try_from_uri(request.uri()) {
        Ok(Query(tail)) => (tail.pattern.clone(), open(&app, tail).await),
        Err(error) => (String::new(), Err(Problem::invalid(error.body_text()))),
    };
    let code = opened.as_ref().err().map(|problem| problem.code.clone());
    let outcome = if code.is_none() { AdminOutcome::Done } else { AdminOutcome::Failed };
    AdminEvent { who, what: WHAT.to_owned(), target, outcome, code, duration: started.elapsed() }.emit();
    match opened {
        Ok((source, permit)) => lines(source, permit),
        Err(problem) => problem.into_response(),
    }
}

async fn open(app: &App, tail: Tail) -> Result<(Source, OwnedSemaphorePermit), Problem> {
    let permit = Arc::clone(app.tails()).try_acquire_owned().map_err(|_none| {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_tails",
            format!("{TAILS} clients are listening already; end one of them"),
        )
    })?;
    let manager = app.running()?.pubsub();
    // The subscription's tasks belong to the services' runtime.
    let subscribed = app.runtime().spawn(async move { subscribe(&manager, &tail).await }).await;
    let source = subscribed.map_err(|_gone| Problem::unavailable("ending", "the instance is ending"))?;
    let source = source.map_err(|error| {
        let status =
            if error.is_retryable() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        let code = if error.is_retryable() { "unavailable" } else { "invalid_input" };
        Problem::new(status, code, format!("subscribing: {error}"))
    })?;
    Ok((source, permit))
}

async fn subscribe(manager: &PubSubManager, tail: &Tail) -> Result<Source, Error> {
    let options = SubscribeOptions::default();
    Ok(match tail.lane {
        Lane::Plain => Source::Typed(manager.subscribe_pattern(&tail.pattern, options).await?),
        Lane::Sharded => Source::Typed(manager.sharded_channel(&tail.pattern)?.subscribe(options).await?),
        Lane::Raw => Source::Raw(manager.subscribe_raw(&tail.pattern, options).await?),
    })
}

fn lines(source: Source, permit: OwnedSemaphorePermit) -> Response {
    let first = Some(json!({"type": "listening"}));
    let stream = futures_util::stream::unfold((source, permit, first), |(mut source, permit, first)| async {
        let value = match first {
            Some(value) => value,
            None => match tokio::time::timeout(IDLE, source.next()).await {
                Ok(Some(value)) => value,
                Ok(None) => return None,
                Err(_quiet) => json!({"type": "idle"}),
            },
        };
        let line = Ok::<_, Infallible>(Bytes::from(format!("{value}\n")));
        Some((line, (source, permit, None)))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

impl Source {
    async fn next(&mut self) -> Option<Value> {
        Some(match self {
            Self::Typed(subscription) => match subscription.next().await? {
                Event::Message(message) => shown(&message),
                Event::Gap { missed, cause } => json!({"type": "gap", "missed": missed, "cause": cause}),
                _ => json!({"type": "reconnected"}),
            },
            Self::Raw(subscription) => match subscription.next().await? {
                RawEvent::Message { subject, payload, .. } => {
                    json!({"type": "message", "subject": &*subject, "value": String::from_utf8_lossy(&payload)})
                }
                RawEvent::Gap { missed, cause } => json!({"type": "gap", "missed": missed, "cause": cause}),
                _ => json!({"type": "reconnected"}),
            },
        })
    }
}

fn shown(message: &Message<Value>) -> Value {
    json!({
        "type": "message",
        "subject": &*message.subject,
        "id": message.id.to_string(),
        "sequence": message.sequence,
        "publisher": message.publisher.to_string(),
        "published_at": seconds(message.published_at),
        "codec": message.codec.name(),
        "traceparent": message.trace.map(|trace| trace.traceparent()),
        "value": message.value,
    })
}

/// Since 1970.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
