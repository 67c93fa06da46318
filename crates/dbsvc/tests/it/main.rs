//! The program as an operator uses it: exit codes, messages, JSON, signals, against real servers.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod cli;
mod config;
mod db;
mod failover;
mod migrate;
mod operate;
mod pubsub;
mod serve;
mod support;
