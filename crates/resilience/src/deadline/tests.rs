//! Deadlines under paused time.

use super::*;

#[tokio::test(start_paused = true)]
async fn counts_down_with_tokio_time() {
    let deadline = Deadline::after(Duration::from_secs(2));
    assert_eq!(deadline.remaining(), Duration::from_secs(2));
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(deadline.remaining(), Duration::from_millis(500));
    assert!(!deadline.is_expired());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(deadline.remaining(), Duration::ZERO);
    assert!(deadline.is_expired());
}

#[tokio::test(start_paused = true)]
async fn never_and_too_long_have_no_end() {
    for deadline in [Deadline::never(), Deadline::after(Duration::MAX)] {
        assert_eq!(deadline.remaining(), Duration::MAX);
        assert!(!deadline.is_expired());
        assert_eq!(deadline.instant(), None);
        assert_eq!(deadline.run(async { 7 }).await, Ok(7));
    }
}

#[tokio::test(start_paused = true)]
async fn earlier_and_capped_only_shorten() {
    let short = Deadline::after(Duration::from_secs(1));
    let long = Deadline::after(Duration::from_secs(9));
    assert_eq!(short.earlier(long), short);
    assert_eq!(long.earlier(short), short);
    assert_eq!(Deadline::never().earlier(short), short);
    assert_eq!(short.earlier(Deadline::never()), short);
    assert_eq!(long.capped(Duration::from_secs(1)), short);
    assert_eq!(short.capped(Duration::from_secs(9)), short);
}

#[tokio::test(start_paused = true)]
async fn run_ends_at_the_deadline() {
    let started = Instant::now();
    let outcome = Deadline::after(Duration::from_secs(3)).run(std::future::pending::<()>()).await;
    assert_eq!(outcome, Err(DeadlineExceeded));
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_expired_deadline_starts_nothing() {
    let mut started = false;
    let outcome = Deadline::after(Duration::ZERO).run(async { started = true }).await;
    assert_eq!(outcome, Err(DeadlineExceeded));
    assert!(!started);
}
