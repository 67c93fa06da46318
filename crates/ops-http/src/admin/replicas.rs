//! `replicas/list|add|drain|remove|weight|force_primary`: the balancer of this process. The servers themselves, and
//! other instances, know nothing of it; after a restart the settings count again.

use std::sync::Arc;

use axum::http::StatusCode;
use database_services::postgres_pool_manager::Error;
use database_services::postgres_replica;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Answer, Nothing, failed, input, shown};
use crate::app::App;
use crate::problem::Problem;

pub(super) const ACTIONS: &[Action] = &[
    Action {
        component: "replicas",
        name: "list",
        summary: "every server as the balancer sees it: role, state, weight, lag, requests",
        target: "",
        run: |app, value| Box::pin(list(app, value)),
    },
    Action {
        component: "replicas",
        name: "add",
        summary: "add a replica, with the settings' user and password: {replica: \"host[:port]\", weight?}",
        target: "replica",
        run: |app, value| Box::pin(add(app, value)),
    },
    Action {
        component: "replicas",
        name: "drain",
        summary: "give a replica no more reads, or reads again: {replica, drained?}",
        target: "replica",
        run: |app, value| Box::pin(drain(app, value)),
    },
    Action {
        component: "replicas",
        name: "remove",
        summary: "forget a replica: {replica}",
        target: "replica",
        run: |app, value| Box::pin(remove(app, value)),
    },
    Action {
        component: "replicas",
        name: "weight",
        summary: "change a replica's share of the reads: {replica, weight}",
        target: "replica",
        run: |app, value| Box::pin(weight(app, value)),
    },
    Action {
        component: "replicas",
        name: "force_primary",
        summary: "send all reads to the primary, or let them go to replicas again: {on}",
        target: "on",
        run: |app, value| Box::pin(force_primary(app, value)),
    },
];

async fn list(app: Arc<App>, value: Value) -> Answer {
    let Nothing {} = input(value)?;
    let status = app.running()?.database().status();
    Ok(json!({"force_primary_reads": status.force_primary_reads, "servers": shown(&status.hosts)?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    replica: String,
    weight: Option<i32>,
}

async fn add(app: Arc<App>, value: Value) -> Answer {
    let Add { replica, weight } = input(value)?;
    let services = app.running()?;
    let mut endpoint = postgres_replica(&services.settings(), &replica)
        .map_err(|error| Problem::invalid(format!("`replica`: {error}")))?;
    endpoint.weight = checked(weight.unwrap_or(endpoint.weight))?;
    services.database().add_replica(&endpoint).map_err(|error| refused("adding the replica", &error))?;
    Ok(json!({"replica": endpoint.name, "weight": endpoint.weight, "added": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    replica: String,
    drained: Option<bool>,
}

async fn drain(app: Arc<App>, value: Value) -> Answer {
    let Drain { replica, drained } = input(value)?;
    let drained = drained.unwrap_or(true);
    let pool = app.running()?.database();
    pool.drain_replica(&replica, drained).map_err(|error| refused("draining the replica", &error))?;
    Ok(json!({"replica": replica, "drained": drained}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    replica: String,
}

async fn remove(app: Arc<App>, value: Value) -> Answer {
    let One { replica } = input(value)?;
    let pool = app.running()?.database();
    pool.remove_replica(&replica).map_err(|error| refused("removing the replica", &error))?;
    Ok(json!({"replica": replica, "removed": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    replica: String,
    weight: i32,
}

async fn weight(app: Arc<App>, value: Value) -> Answer {
    let Weight { replica, weight } = input(value)?;
    let (weight, pool) = (checked(weight)?, app.running()?.database());
    let before = pool.load_balancer().into_iter().find(|host| host.name == replica).map(|host| host.weight);
    pool.set_replica_weight(&replica, weight).map_err(|error| refused("changing the weight", &error))?;
    Ok(json!({"replica": replica, "before": before, "weight": weight}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForcePrimary {
    on: bool,
}

async fn force_primary(app: Arc<App>, value: Value) -> Answer {
    let ForcePrimary { on } = input(value)?;
    app.running()?.database().force_primary_reads(on);
    Ok(json!({"force_primary_reads": on}))
}

/// A weight that means what it says; the pool itself takes a negative one for 0.
fn checked(weight: i32) -> Result<i32, Problem> {
    if (0..=1000).contains(&weight) {
        Ok(weight)
    } else {
        Err(Problem::invalid(format!("`weight` is {weight}; it must be 0 (no reads) to 1000")))
    }
}

fn refused(what: &str, error: &Error) -> Problem {
    match error {
        Error::UnknownHost(_) => {
            Problem::new(StatusCode::NOT_FOUND, "unknown_replica", format!("{what}: {error}"))
        }
        error => failed(what, error, error.is_retryable()),
    }
}
