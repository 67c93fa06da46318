//! The promises of the cache against real servers, and against tiers in memory where no server is needed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it measured"
)]

mod batches;
mod failures;
mod history;
mod l3;
mod limits;
mod loads;
mod overlaps;
mod transactions;
mod world;
