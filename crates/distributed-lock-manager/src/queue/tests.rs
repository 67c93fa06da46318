//! No wake is lost, whoever leaves when.

use super::*;
use std::time::Duration;

fn name() -> Arc<str> {
    "job".into()
}

async fn told(place: &Place) -> Option<Signal> {
    tokio::time::timeout(Duration::from_millis(1), place.told()).await.ok()
}

#[tokio::test(start_paused = true)]
async fn only_the_first_is_woken() {
    let queues = Queues::new(10);
    let (a, first) = queues.join(&name()).unwrap();
    assert!(first);
    let (b, first) = queues.join(&name()).unwrap();
    assert!(!first);
    let wakes = Wakes::new(&queues);
    wakes.wake("other");
    assert_eq!(told(&a).await, None);
    wakes.wake("job");
    assert_eq!(told(&b).await, None);
    assert_eq!(told(&a).await, Some(Signal::Retry));
    assert_eq!(told(&a).await, None, "told once");
}

#[tokio::test(start_paused = true)]
async fn a_wake_is_not_lost_with_the_one_who_leaves() {
    let queues = Queues::new(10);
    let (a, _) = queues.join(&name()).unwrap();
    let (b, _) = queues.join(&name()).unwrap();
    Wakes::new(&queues).wake("job");
    drop(a);
    assert_eq!(told(&b).await, Some(Signal::Retry));
}

#[tokio::test(start_paused = true)]
async fn a_release_after_the_hand_over_is_not_covered_up() {
    let queues = Queues::new(10);
    let until = Instant::now() + Duration::from_secs(30);
    let (a, _) = queues.join(&name()).unwrap();
    let (b, _) = queues.join(&name()).unwrap();
    let (c, _) = queues.join(&name()).unwrap();
    a.leave_as_holder(until);
    assert_eq!(told(&b).await, Some(Signal::HeldUntil(until)));
    b.leave_as_holder(until);
    Wakes::new(&queues).wake("job");
    assert_eq!(told(&c).await, Some(Signal::Retry));
}

#[tokio::test(start_paused = true)]
async fn one_in_the_middle_leaves_quietly_and_nothing_stays_behind() {
    let queues = Queues::new(3);
    let (a, _) = queues.join(&name()).unwrap();
    let (b, _) = queues.join(&name()).unwrap();
    let (c, _) = queues.join(&name()).unwrap();
    assert!(matches!(queues.join(&name()), Err(LockError::TooManyWaiters { limit: 3 })));
    drop(b);
    assert_eq!(told(&c).await, None);
    drop(a);
    assert_eq!(told(&c).await, Some(Signal::Retry));
    drop(c);
    assert_eq!(queues.waiting(), 0);
    assert!(queues.state.lock().queues.is_empty());
}
