//! The coarse clock follows the exact one; a virtual one moves only by hand.

use super::*;

#[test]
fn virtual_time_moves_only_when_told_and_is_shared_by_clones() {
    let clock = CoarseClock::virtual_time();
    let other = clock.clone();
    assert_eq!(clock.now().as_millis(), 0);
    clock.advance(Duration::from_secs(3));
    assert_eq!(other.now(), CoarseInstant::from_millis(3000));
    assert_eq!(CoarseClock::virtual_time().now().as_millis(), 0);
}

#[test]
fn system_time_goes_on_and_cannot_be_moved() {
    let clock = CoarseClock::system();
    clock.advance(Duration::from_secs(1_000_000));
    let start = clock.now();
    let exact = LeaseClock::now();
    while clock.now().saturating_since(start) < Duration::from_millis(100) {
        assert!(
            LeaseClock::now().saturating_since(exact) < Duration::from_secs(20),
            "the clock stands still"
        );
        std::thread::yield_now();
    }
    assert!(clock.now().as_millis() < 1_000_000_000);
}

#[test]
fn reading_is_never_ahead_of_the_exact_clock() {
    let clock = CoarseClock::system();
    let (start, exact) = (clock.now(), LeaseClock::now());
    for _ in 0..1000 {
        let coarse = clock.now().saturating_since(start);
        // The first reading may have been one tick old, or more on a busy machine.
        let real = LeaseClock::now().saturating_since(exact);
        assert!(coarse <= real + Duration::from_millis(500), "{coarse:?} after {real:?}");
        std::thread::yield_now();
    }
}

#[test]
fn arithmetic_saturates() {
    let at = CoarseInstant::from_millis(7);
    assert_eq!((at + Duration::MAX).as_millis(), u64::MAX);
    assert_eq!(at.saturating_since(at + Duration::from_millis(1)), Duration::ZERO);
}
