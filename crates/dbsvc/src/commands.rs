//! The commands, one file each. Those of a running instance share its client; none keeps state.

pub(crate) mod admin;
pub(crate) mod cache;
pub(crate) mod config;
pub(crate) mod db;
pub(crate) mod failover;
pub(crate) mod health;
pub(crate) mod locks;
pub(crate) mod meta;
pub(crate) mod migrate;
pub(crate) mod pool;
pub(crate) mod pubsub;
pub(crate) mod redis;
pub(crate) mod replicas;
pub(crate) mod serve;
pub(crate) mod stats;

use serde_json::Value;

/// An argument as JSON; what is no JSON is taken as the string that it is.
fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_not_json| Value::String(text.to_owned()))
}
