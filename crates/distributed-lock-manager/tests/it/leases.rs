//! The holder is told in time.

use crate::support::{PATIENCE, manager, memory, namespace, own, redis, shared};
use distributed_lock_manager::{LockError, LockOptions};
use local_stack::wait_for;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

fn short() -> LockOptions {
    LockOptions::default().lease(Duration::from_secs(1)).wait(PATIENCE)
}

#[tokio::test]
async fn renewal_keeps_it() {
    let (one, two) = redis().await;
    let guard = one.acquire("job", short().lease(Duration::from_millis(600))).await.expect("acquired");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(!guard.is_lost());
        assert!(
            guard.remaining() > Duration::from_millis(50) && guard.remaining() < Duration::from_millis(600)
        );
        let busy = two.try_acquire("job", short()).await;
        assert!(matches!(busy, Err(LockError::Busy { .. })), "{busy:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    guard.release().await.expect("it was held until now");
}

#[tokio::test]
async fn renewal_goes_on_after_shutdown_has_begun() {
    let (one, two) = redis().await;
    let guard = one.acquire("job", short().lease(Duration::from_millis(600))).await.expect("acquired");
    let begun = Instant::now();
    let work = async {
        while begun.elapsed() < Duration::from_secs(2) {
            assert!(!guard.is_lost());
            let busy = two.try_acquire("job", short()).await;
            assert!(matches!(busy, Err(LockError::Busy { .. })), "{busy:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        guard.release().await.expect("it was held until now");
    };
    tokio::join!(one.shutdown(PATIENCE), work);
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < PATIENCE);
    assert_eq!((one.stats().held, one.stats().released, one.stats().lost), (0, 1, 0));
}

#[tokio::test]
async fn without_renewal_it_ends_and_the_holder_is_told_before_redis() {
    told_before_the_end(redis().await).await;
}

#[tokio::test]
async fn without_renewal_it_ends_and_the_holder_is_told_before_memory() {
    told_before_the_end(memory()).await;
}

async fn told_before_the_end(
    (one, two): (
        distributed_lock_manager::DistributedLockManager,
        distributed_lock_manager::DistributedLockManager,
    ),
) {
    for _ in 0..2 {
        let guard = one.acquire("job", short().lease(Duration::from_secs(3)).renew(false)).await;
        let guard = guard.expect("acquired");
        let told = Arc::new(AtomicBool::new(false));
        let lost = tokio::spawn({
            let (lost, told) = (guard.lost(), Arc::clone(&told));
            async move {
                lost.await;
                told.store(true, SeqCst);
            }
        });
        let next = two.acquire("job", short()).await.expect("the lease ended");
        assert!(told.load(SeqCst), "told before somebody else has it");
        lost.await.expect("no panic");
        assert!(guard.is_lost() && guard.remaining() == Duration::ZERO);
        assert!(matches!(guard.release().await, Err(LockError::Lost { .. })));
        next.release().await.expect("it was not touched");
    }
}

#[tokio::test]
async fn a_paused_redis_costs_the_lock_and_the_holder_knows_in_time() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let one = manager(master.port(), &namespace).await;
    let two = manager(master.port(), &namespace).await;
    let lease = Duration::from_secs(2);
    let guard = one.acquire("job", short().lease(lease)).await.expect("acquired");
    let lost = guard.lost();
    master.pause().expect("paused");
    // Renewals hang from here on; the last successful one was sent before.
    let paused = Instant::now();
    lost.await;
    let told = paused.elapsed();
    // The nominal end is at most lease - drift after the pause, and he is told a tenth of the lease before.
    assert!(told < lease.mul_f64(0.98), "told {told:?} after the pause, the lease being {lease:?}");
    assert!(guard.is_lost());
    master.resume().expect("resumed");
    let next = two.acquire("job", short()).await.expect("acquired");
    assert!(next.token() > guard.token());
    drop(guard);
    assert!(!next.is_lost());
}

#[tokio::test]
async fn work_under_a_lost_lock_is_dropped_before_the_lease_ends() {
    let (stack, namespace) = (shared().await, namespace());
    let one = manager(stack.redis().master().port(), &namespace).await;
    let two = manager(stack.redis().master().port(), &namespace).await;
    struct Working(Arc<AtomicBool>);
    impl Drop for Working {
        fn drop(&mut self) {
            self.0.store(false, SeqCst);
        }
    }
    let working = Arc::new(AtomicBool::new(true));
    let work = one.with_lock("job", short().renew(false), async |guard| {
        let _working = Working(Arc::clone(&working));
        assert!(guard.token() > 0);
        std::future::pending::<()>().await;
    });
    let next = async {
        wait_for("held", PATIENCE, async || one.stats().held == 1).await;
        let next = two.acquire("job", short()).await.expect("the lease ended");
        assert!(!working.load(SeqCst), "the work was dropped before somebody else had the lock");
        next
    };
    let (result, _next) = tokio::join!(work, next);
    assert!(matches!(result, Err(LockError::Lost { .. })), "{result:?}");
    let spawned = tokio::spawn({
        let two = two.clone();
        async move { two.with_lock("other", short(), async |guard| guard.token()).await }
    });
    assert!(spawned.await.expect("no panic").expect("done") > 0);
    assert!(two.try_acquire("other", short()).await.is_ok(), "released afterwards");
}

#[tokio::test]
async fn a_lock_taken_away_by_hand_is_noticed() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = manager(master.port(), &namespace).await;
    let guard = one.acquire("job", short()).await.expect("acquired");
    for shard in 0..64 {
        let key = format!("{namespace}:k:{{s{shard}}}:l:job");
        master.redis_command(&["DEL", &key]).await.expect("deleted");
    }
    wait_for("told by the next renewal", Duration::from_millis(700), async || guard.is_lost()).await;
    assert!(matches!(guard.check(), Err(LockError::Lost { .. })));
}

#[tokio::test]
async fn a_lock_found_gone_at_its_release_is_counted_and_the_work_kept() {
    let (stack, namespace) = (shared().await, namespace());
    let master = stack.redis().master();
    let one = manager(master.port(), &namespace).await;
    let delete = async || {
        for shard in 0..64 {
            let key = format!("{namespace}:k:{{s{shard}}}:l:job");
            master.redis_command(&["DEL", &key]).await.expect("deleted");
        }
    };
    let long = short().lease(Duration::from_secs(60));
    let done = one.with_lock("job", long, async |_| {
        delete().await;
        42
    });
    assert_eq!(done.await.expect("what was done is not thrown away"), 42);
    assert_eq!((one.stats().lost, one.stats().released), (1, 0));
    let guard = one.acquire("job", long).await.expect("acquired");
    delete().await;
    assert!(matches!(guard.release().await, Err(LockError::Lost { .. })));
    assert_eq!((one.stats().lost, one.stats().held), (2, 0));
}

#[test]
fn a_guard_may_outlive_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let guard = runtime.block_on(async {
        let (one, _) = memory();
        one.acquire("job", short()).await.expect("acquired")
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    assert!(!guard.is_lost());
    drop(guard);
}
