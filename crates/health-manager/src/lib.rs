//! Health of a service: probes that run in the background, their answers with age, groups, breakers.
//!
//! A request for health never waits for a backend: each [`Probe`] runs in a task of its own, one flight at a time, under
//! a hard time-out, at a jittered period; what it said last is kept with its age. A probe that has not answered for
//! three periods is *stale*, and stale is unhealthy: silence is not health.
//!
//! * [`Status`]: healthy, degraded, unhealthy, unknown (not probed yet). A probe is **critical** or not: a critical one
//!   that fails makes the whole unhealthy, another one makes it degraded. So a cache that is down degrades a service,
//!   a database that is down fails it.
//! * [`Group`]: *liveness* asks whether the process itself is to be restarted, so it refuses every probe of something
//!   outside the process; *readiness* whether it can take requests; *start-up* whether it has been ready once. A
//!   group that names a probe which does not exist keeps the manager from starting.
//! * [`Event`]: every change of a component's and of the overall status, kept in a bounded history, logged, counted and
//!   broadcast.
//! * Breakers of [`resilience`] are registered by name, shown with their states and reset by hand.
//!
//! It knows no backend: the composition root turns each component's status into a probe.
//!
//! ```
//! use std::sync::Arc;
//! use health_manager::{Config, Deadline, Group, Probe, ProbeReport, ProbeSpec, Status};
//!
//! #[derive(Debug)]
//! struct Disk;
//!
//! #[async_trait::async_trait]
//! impl Probe for Disk {
//!     async fn check(&self, _deadline: Deadline) -> ProbeReport {
//!         ProbeReport::healthy()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), health_manager::Error> {
//! let health = Config::default().build()?;
//! health.register(ProbeSpec::new("disk").critical().group(Group::Readiness), Arc::new(Disk))?;
//! health.start()?;
//! health.check_now(Deadline::after(std::time::Duration::from_secs(1))).await;
//! assert_eq!(health.check_health().status, Status::Healthy);
//! # health.shutdown().await; Ok(()) }
//! ```
//!
//! Not yet: the detection rate, p95 over the mode's response target as a degraded state, transitions on a channel.

mod config;
mod error;
mod events;
mod manager;
mod metrics;
mod probe;
mod report;
mod runner;
mod state;
mod timestamp;

pub use config::Config;
pub use error::Error;
pub use events::Event;
pub use manager::HealthManager;
pub use probe::{Group, Probe, ProbeReport, ProbeSpec, Reach, Status};
pub use report::{ComponentHealth, GroupReport, HealthReport};
pub use resilience::{Breaker, BreakerStatus, Deadline};
pub use timestamp::Timestamp;
