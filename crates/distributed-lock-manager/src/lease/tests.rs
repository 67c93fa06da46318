//! The holder's promise: it is told in time, whatever renewals do, and is never told twice differently.

use super::*;
use proptest::prelude::*;

const fn at(millis: u64) -> LeaseInstant {
    LeaseInstant::from_nanos((1_000_000 + millis) * 1_000_000)
}

#[test]
fn the_figures_of_a_lease_of_ten_seconds() {
    let mut lease = Lease::new(at(0), Duration::from_secs(10), None);
    assert_eq!(lease.nominal_end(), at(9_898));
    assert_eq!(lease.warning(), at(8_898));
    assert_eq!(lease.remaining(at(898)), Duration::from_secs(9));
    assert!(!lease.is_lost(at(8_897)));
    lease.renewed(at(3_400));
    assert!(!lease.is_lost(at(8_898)));
    assert_eq!(lease.nominal_end(), at(13_298));
    lease.renewed(at(1_000));
    assert_eq!(lease.nominal_end(), at(13_298), "an older renewal that returns late changes nothing");
}

#[test]
fn lost_stays_lost() {
    let mut lease = Lease::new(at(0), Duration::from_secs(10), None);
    assert!(lease.is_lost(at(9_000)));
    lease.renewed(at(8_800));
    assert!(lease.is_lost(at(9_000)));
    assert_eq!(lease.remaining(at(9_000)), Duration::ZERO);
}

proptest! {
    #[test]
    fn told_before_the_store_can_give_it_away(
        lease_ms in 100u64..86_400_000,
        grace_ms in prop::option::of(0u64..100_000_000),
        renewals in prop::collection::vec(0u64..40_000, 0..10),
        fast in 0.99f64..1.0,
    ) {
        let duration = Duration::from_millis(lease_ms);
        let mut lease = Lease::new(at(0), duration, grace_ms.map(Duration::from_millis));
        let (mut now, mut last) = (0, 0);
        for step in renewals {
            now += step;
            if !lease.is_lost(at(now)) {
                lease.renewed(at(now));
                last = now;
            }
        }
        // The store's clock may run up to 1 % fast: it then gives the lock away that much earlier.
        let given_away = at(last) + duration.mul_f64(fast);
        prop_assert!(lease.nominal_end() < given_away);
        prop_assert!(lease.warning() + least_grace(duration) <= lease.nominal_end());
        prop_assert!(lease.warning() > at(last), "there is time to work");
        prop_assert!(lease.renewal() < lease.warning(), "there is time to renew");
        let warning = lease.warning();
        prop_assert!(lease.is_lost(warning));
    }
}
