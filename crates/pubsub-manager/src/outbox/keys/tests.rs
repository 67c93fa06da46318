//! Keys in trouble: only time and errors, no database.

use super::*;

const LIMITS: Limits = Limits { attempts: 3, give_up_after: Duration::from_secs(60) };

fn refused() -> Error {
    Error::TooLarge { limit: 1, actual: 2 }
}

fn away() -> Error {
    Error::Unknown { operation: "publish" }
}

#[test]
fn a_refused_message_is_buried_after_its_attempts_and_holds_up_its_key_until_then() {
    let (mut keys, mut now) = (Keys::new(LIMITS), Instant::now());
    for attempt in 1..3 {
        assert_eq!(keys.failed("a", 7, &refused(), 0.0, now), Verdict::Again, "attempt {attempt}");
        assert_eq!(keys.waiting(now), ["a"]);
        now += Duration::from_secs(10);
        assert_eq!(keys.waiting(now), [""; 0]);
    }
    assert_eq!(keys.failed("a", 7, &refused(), 0.0, now), Verdict::Bury(3));
    keys.cleared("a");
    assert_eq!(keys.failed("a", 8, &refused(), 0.0, now), Verdict::Again, "the next begins anew");
}

#[test]
fn an_outage_buries_nothing_however_long() {
    let (mut keys, mut now) = (Keys::new(LIMITS), Instant::now());
    for _ in 0..10_000 {
        assert_eq!(keys.failed("a", 7, &away(), 0.0, now), Verdict::Again);
        now += Duration::from_secs(10);
    }
    assert_eq!(keys.len(), 1);
}

#[test]
fn what_may_be_either_s_fault_is_given_up_by_time() {
    let source = std::sync::Arc::new(std::io::Error::other("no"));
    let unclear = Error::Backend { operation: "publish", source };
    let (mut keys, now) = (Keys::new(LIMITS), Instant::now());
    for _ in 0..100 {
        assert_eq!(keys.failed("a", 7, &unclear, 0.0, now), Verdict::Again);
    }
    let late = now + Duration::from_secs(61);
    assert_eq!(keys.failed("a", 7, &unclear, 0.0, late), Verdict::Bury(101));
}

#[test]
fn with_many_keys_in_trouble_everything_waits() {
    let (mut keys, now) = (Keys::new(LIMITS), Instant::now());
    for key in 0..MAX_HELD {
        assert_eq!(keys.pause(now), None, "{key} keys");
        keys.failed(&key.to_string(), 1, &away(), 0.0, now);
    }
    let pause = keys.pause(now).expect("a pause");
    assert!(pause <= Duration::from_millis(100), "{pause:?}");
    assert_eq!(keys.pause(now + Duration::from_secs(6)), None);
    keys.waiting(now + Duration::from_secs(3600));
    assert_eq!(keys.len(), 0, "what went by other hands is forgotten");
}
