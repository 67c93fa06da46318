//! Waiting for a condition instead of sleeping. Real time, also under a runtime's paused clock: the conditions are
//! about real servers.

use std::panic::Location;
use std::time::{Duration, Instant};

use crate::error::Error;

/// Waits until the condition holds; panics with its description, the time waited and the caller's place if it does
/// not within the given time. For tests. Returns how long it took.
///
/// The condition is asked every millisecond at first, every 25 ms later, and once more after the time is over. A
/// single asking is not cut short: bound what it awaits. Cancel safe as far as the condition is.
#[track_caller]
pub fn wait_for<F: AsyncFnMut() -> bool>(
    what: &str,
    within: Duration,
    condition: F,
) -> impl Future<Output = Duration> {
    let place = Location::caller();
    async move {
        match wait_until(what, within, condition).await {
            Ok(waited) => waited,
            Err(error) => panic!("{error} (at {place})"),
        }
    }
}

/// [`wait_for`] with [`Error::Waited`] instead of a panic.
pub async fn wait_until<F: AsyncFnMut() -> bool>(
    what: &str,
    within: Duration,
    mut condition: F,
) -> Result<Duration, Error> {
    let start = Instant::now();
    let mut gap = Duration::from_millis(1);
    loop {
        let over = start.elapsed() >= within;
        if condition().await {
            return Ok(start.elapsed());
        }
        if over {
            return Err(Error::Waited { what: what.into(), waited: start.elapsed() });
        }
        tokio::time::sleep(gap).await;
        gap = (gap * 2).min(Duration::from_millis(25));
    }
}
