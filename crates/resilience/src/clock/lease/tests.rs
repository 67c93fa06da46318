//! The lease clock moves forward and its arithmetic saturates.

use super::*;

#[test]
fn never_goes_back() {
    let mut last = LeaseClock::now();
    for _ in 0..10_000 {
        let now = LeaseClock::now();
        assert!(now >= last);
        last = now;
    }
}

#[test]
fn arithmetic_saturates() {
    let start = LeaseInstant::from_nanos(5);
    assert_eq!(start - Duration::from_secs(1), LeaseInstant::from_nanos(0));
    assert_eq!(start + Duration::MAX, LeaseInstant::from_nanos(u64::MAX));
    assert_eq!(start.saturating_since(start + Duration::from_secs(1)), Duration::ZERO);
    assert_eq!((start + Duration::from_secs(1)).saturating_since(start), Duration::from_secs(1));
    assert_eq!(start.remaining(), Duration::ZERO);
}
