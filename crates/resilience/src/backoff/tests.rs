//! Bounds of the delays, for any settings.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn never_longer_than_max_and_at_least_its_unjittered_share(
        base_ms in 0_u64..10_000, max_ms in 0_u64..100_000, factor in 0.0_f64..10.0,
        jitter in 0.0_f64..1.0, attempts in 0_u32..5_000, unit in 0.0_f64..1.0,
    ) {
        let config = BackoffConfig {
            base: Duration::from_millis(base_ms), max: Duration::from_millis(max_ms), factor, jitter,
        };
        let delay = config.delay(attempts, unit);
        prop_assert!(delay <= config.max);
        let least = Duration::from_millis(base_ms.min(max_ms)).mul_f64(1.0 - jitter);
        prop_assert!(delay + Duration::from_nanos(2) >= least);
    }
}

#[test]
fn doubles_and_starts_again_after_a_reset() {
    let config = BackoffConfig { jitter: 0.0, ..BackoffConfig::default() };
    let mut backoff = Backoff::new(config);
    let delays: Vec<_> = (0..7).map(|_| backoff.next_delay().as_millis()).collect();
    assert_eq!(delays, [50, 100, 200, 400, 800, 1000, 1000]);
    assert_eq!(backoff.attempts(), 7);
    backoff.reset();
    assert_eq!(backoff.next_delay().as_millis(), 50);
}

#[test]
fn absurd_settings_stay_within_max() {
    let config = BackoffConfig { base: Duration::ZERO, factor: f64::INFINITY, ..BackoffConfig::default() };
    assert!(config.delay(u32::MAX, 0.5) <= config.max);
}
