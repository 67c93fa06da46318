//! The pool against real servers, by promise. Pure rules are tested beside their code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod cancel;
mod connect;
mod faults;
mod metrics;
mod migrations;
mod pool;
mod replicas;
mod sessions;
mod support;
mod transactions;
