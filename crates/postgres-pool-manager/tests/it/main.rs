//! The pool against real servers, by promise. Pure rules are tested beside their code.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod budget;
mod cancel;
mod connect;
mod credentials;
mod eager;
mod failover;
mod faults;
mod gates;
mod hard_failover;
mod hard_former;
mod hard_limits;
mod hard_seams;
mod insight;
mod insight_explain;
mod insight_kill;
mod insight_maintain;
mod leaks;
mod matrix;
mod metrics;
mod migrations;
mod pgbouncer;
mod phases;
mod pool;
mod refused;
mod release;
mod replicas;
mod routing;
mod sessions;
mod support;
mod tls;
mod transactions;
