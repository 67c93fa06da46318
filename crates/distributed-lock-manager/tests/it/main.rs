//! Locks against real Redis and Postgres servers, with real faults.

mod cancellation;
mod exclusion;
mod fencing;
mod leases;
mod outages;
mod support;
mod tokens;
