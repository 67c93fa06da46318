//! `cache/stats|get|set|invalidate|clear`: the cache's region `default`, values as JSON.
//!
//! Other regions hold types that only the program knows: opening one from here could give it the wrong type, so they
//! are cleared with everything else or not at all. A value that the program stored as a type of its own is not found
//! here; invalidating its key works all the same.

use std::sync::Arc;
use std::time::Duration;

use database_services::cache_manager::{Cache, CacheError, ClearScope, Invalidated, RegionOptions};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Answer, Nothing, failed, input, shown};
use crate::app::App;
use crate::problem::Problem;

/// Keys that one call may invalidate: what fits into the request's time.
const MAX_KEYS: usize = 1000;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "cache",
        name: "stats",
        summary: "hits by level, sizes, times",
        target: "",
        run: |app, value| Box::pin(stats(app, value)),
    },
    Action {
        component: "cache",
        name: "get",
        summary: "look a key up: {key}",
        target: "key",
        run: |app, value| Box::pin(get(app, value)),
    },
    Action {
        component: "cache",
        name: "set",
        summary: "set a key: {key, value, ttl_seconds?}",
        target: "key",
        run: |app, value| Box::pin(set(app, value)),
    },
    Action {
        component: "cache",
        name: "invalidate",
        summary: "make every process forget keys: {keys: [...]}",
        target: "keys",
        run: |app, value| Box::pin(invalidate(app, value)),
    },
    Action {
        component: "cache",
        name: "clear",
        summary: "clear everything: {scope: \"all\"} or this process's memory: {scope: \"l1\"}",
        target: "scope",
        run: |app, value| Box::pin(clear(app, value)),
    },
];

async fn stats(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    shown(&app.running()?.cache().stats())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    key: String,
}

async fn get(app: Arc<App>, value: Value) -> Answer {
    let Get { key } = input(value)?;
    let found =
        plain(&app)?.get_with(&key, None).await.map_err(|error| refused("reading the cache", &error))?;
    Ok(match found {
        Some(hit) => json!({
            "found": hit.value.is_some(),
            "key": key,
            "value": hit.value.as_deref(),
            "level": hit.level,
            "stale": hit.stale,
            "age_ms": u64::try_from(hit.age.as_millis()).unwrap_or(u64::MAX),
        }),
        None => json!({"found": false, "key": key}),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    key: String,
    value: Value,
    ttl_seconds: Option<u64>,
}

async fn set(app: Arc<App>, value: Value) -> Answer {
    let Set { key, value, ttl_seconds } = input(value)?;
    let ttl = ttl_seconds.map(Duration::from_secs);
    let stored = app.running()?.cache().set(&key, value, ttl).await;
    let stored = stored.map_err(|error| refused("writing the cache", &error))?;
    Ok(json!({"key": key, "stored": true, "invalidation": word(stored)}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invalidate {
    keys: Vec<String>,
}

async fn invalidate(app: Arc<App>, value: Value) -> Answer {
    let Invalidate { keys } = input(value)?;
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(Problem::invalid(format!("`keys` must name 1 to {MAX_KEYS} keys")));
    }
    let cache = plain(&app)?;
    let mut done = Vec::with_capacity(keys.len());
    for key in &keys {
        let outcome = cache.invalidate(key).await;
        let outcome = outcome.map_err(|error| refused("invalidating", &error).with("done", done.len()))?;
        done.push(json!({"key": key, "invalidation": word(outcome)}));
    }
    Ok(json!({"invalidated": done.len(), "keys": done}))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    L1,
    All,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clear {
    scope: Scope,
}

async fn clear(app: Arc<App>, value: Value) -> Answer {
    let Clear { scope } = input(value)?;
    let (scope, name) = match scope {
        Scope::L1 => (ClearScope::L1, "l1"),
        Scope::All => (ClearScope::All, "all"),
    };
    let cleared = app.running()?.cache().clear(scope).await;
    let cleared = cleared.map_err(|error| refused("clearing the cache", &error))?;
    Ok(json!({"cleared": name, "invalidation": word(cleared)}))
}

fn plain(app: &App) -> Result<Cache<Value>, Problem> {
    let cache = app.running()?.cache();
    cache.region("default", RegionOptions::default()).map_err(|error| refused("opening the cache", &error))
}

fn word(outcome: Invalidated) -> &'static str {
    match outcome {
        Invalidated::Applied => "applied",
        // Recorded, and delivered soon.
        _ => "deferred",
    }
}

fn refused(what: &str, error: &CacheError) -> Problem {
    failed(what, error, error.is_retryable())
}
