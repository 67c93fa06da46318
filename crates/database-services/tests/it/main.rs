//! The services on real servers: life, faults at the start, swaps under load, endings.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test itself")]

mod connections;
mod endings;
mod faults;
mod lifecycle;
mod pgbouncer;
mod support;
mod swap;
mod without_redis;
