//! The bridge between the blocking core and its async faces, and the one place that pauses a thread.

use std::time::Duration;

/// Lets a little time pass between two looks at something that gives no notice of itself.
#[expect(
    clippy::disallowed_methods,
    reason = "never on a runtime's thread: the async faces run this elsewhere"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Runs blocking work on the current runtime's threads for that. Dropped, the work still runs to its end.
#[cfg(feature = "async")]
pub(crate) async fn unblock<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T, crate::Error> + Send + 'static,
) -> Result<T, crate::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(crate::Error::Abandoned { operation }),
        },
    }
}
