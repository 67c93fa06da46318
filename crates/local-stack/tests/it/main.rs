//! The crate against real servers. Every test that does harm starts its own; the others share one stack.

mod cluster;
mod databases;
mod external;
mod mistakes;
mod owner;
mod pgbouncer;
mod postgres;
mod proxy;
mod redis;
mod sentinel;
mod start;
mod tls;
mod users;

use std::time::Duration;

/// Longer than anything here takes on a busy machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first column of the first row.
fn first(rows: &[local_stack::Row]) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}
