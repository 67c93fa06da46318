//! Deadline, back-off, retry budget, circuit breaker and the three clocks: what every part of the
//! data-access layer needs to fail in time and to recover by itself.
//!
//! It does no I/O, keeps no registry and knows no backend; who owns a connection feeds the server clock, who
//! owns a dependency owns its breaker.
//!
//! # The parts
//! - [`Deadline`]: one per operation, made at its edge and handed down; a phase never starts a time-out of its
//!   own, it only caps what is left. Measured by tokio's clock, so a test with paused time governs it.
//! - [`Backoff`]: growing delays, jittered downwards so that the maximum is a maximum.
//! - [`RetryBudget`]: retries as a share of calls, so that a dying dependency is not finished off by them.
//! - [`Breaker`]: a sliding window of ten one-second buckets over calls; opens at a failure or slow-call rate,
//!   tries again after a jittered back-off with a fresh set of permits, and keeps a bounded history.
//!   Its rules are a pure state machine with the time passed in; the public type adds a lock and a clock.
//! - [`clock`]: [`clock::LeaseClock`] (monotonic, counts suspended time: for leases), [`clock::CoarseClock`]
//!   (about a nanosecond a read, at most some 2 ms old: for expiry on hot paths; virtual in tests) and
//!   [`clock::ServerClock`] (the store's time with its uncertainty: for stored expiry).
//!
//! Clocks order nothing here: versions and tokens do.
//!
//! ```
//! use resilience::{Breaker, BreakerConfig, Deadline};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let breaker = Breaker::new(BreakerConfig::default());
//! let deadline = Deadline::after(Duration::from_secs(1));
//! let permit = breaker.try_acquire()?;
//! match deadline.run(async { Ok::<_, std::io::Error>(42) }).await {
//!     Ok(Ok(_answer)) => permit.success(),
//!     Ok(Err(_)) | Err(_) => permit.failure(),
//! }
//! # Ok(()) }
//! ```

mod backoff;
mod breaker;
mod budget;
pub mod clock;
mod deadline;

pub use backoff::{Backoff, BackoffConfig};
pub use breaker::{
    Breaker, BreakerConfig, BreakerOpen, BreakerState, BreakerStatus, Permit, Transition, TransitionCause,
};
pub use budget::RetryBudget;
pub use deadline::{Deadline, DeadlineExceeded};
