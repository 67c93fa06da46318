//! The three clocks. None of them orders events between processes: versions and tokens do that.

mod coarse;
mod lease;
mod server;

pub use coarse::{CoarseClock, CoarseInstant};
pub use lease::{LeaseClock, LeaseInstant};
pub use server::ServerClock;
