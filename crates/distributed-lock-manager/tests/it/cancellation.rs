//! Whoever goes away leaves no lock behind.

use crate::support::{PATIENCE, memory, redis};
use distributed_lock_manager::{DistributedLockManager, LockOptions};
use local_stack::wait_for;
use std::time::Duration;

fn patient() -> LockOptions {
    LockOptions::default().wait(PATIENCE).lease(Duration::from_secs(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_cancellations_redis() {
    a_thousand_random_cancellations(redis().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_random_cancellations_memory() {
    a_thousand_random_cancellations(memory()).await;
}

async fn a_thousand_random_cancellations((one, two): (DistributedLockManager, DistributedLockManager)) {
    // The same sequence in every run.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut acquires = Vec::new();
    for i in 0..1000 {
        let manager = if i % 2 == 0 { one.clone() } else { two.clone() };
        let name = format!("job {}", next(8));
        let acquire = tokio::spawn(async move { manager.acquire(&name, patient()).await.map(drop) });
        acquires.push((acquire, next(3000)));
        if acquires.len() >= 16 {
            cancel(&mut acquires).await;
        }
    }
    cancel(&mut acquires).await;
    wait_for("nobody waits and nothing is held", PATIENCE, async || {
        [&one, &two].iter().all(|manager| manager.stats().held == 0 && manager.stats().waiting == 0)
    })
    .await;
    for n in 0..8 {
        let name = format!("job {n}");
        // The release of the last guard may still be under way.
        let guard = two.acquire(&name, patient().wait(Duration::from_secs(1))).await.expect("no orphan");
        guard.release().await.expect("released");
    }
}

async fn cancel(
    acquires: &mut Vec<(tokio::task::JoinHandle<Result<(), distributed_lock_manager::LockError>>, u64)>,
) {
    acquires.sort_by_key(|(_, after)| *after);
    let mut slept = 0;
    for (acquire, after) in acquires.drain(..) {
        tokio::time::sleep(Duration::from_micros(after - slept)).await;
        slept = after;
        acquire.abort();
    }
}

#[tokio::test]
async fn a_dropped_release_goes_on() {
    let (one, two) = redis().await;
    for _ in 0..50 {
        let guard = one.acquire("job", patient()).await.expect("acquired");
        let mut release = Box::pin(guard.release());
        let polled = futures_util::poll!(release.as_mut());
        drop(release);
        drop(polled);
        let next = two.acquire("job", patient().wait(Duration::from_secs(5))).await.expect("released");
        next.release().await.expect("released");
    }
}
