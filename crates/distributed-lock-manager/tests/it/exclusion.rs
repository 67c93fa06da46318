//! One holder at a time, waiters woken in order, and honest answers to those who get nothing. Over both stores.

use crate::support::{PATIENCE, memory, redis, shared, soon};
use distributed_lock_manager::{Config, DistributedLockManager, LockError, LockOptions};
use local_stack::wait_for;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

fn patient() -> LockOptions {
    LockOptions::default().wait(PATIENCE)
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_tasks_redis() {
    thirty_two_tasks(redis().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_tasks_memory() {
    thirty_two_tasks(memory()).await;
}

async fn thirty_two_tasks((one, two): (DistributedLockManager, DistributedLockManager)) {
    let inside = Arc::new(AtomicI64::new(0));
    let last = Arc::new(AtomicU64::new(0));
    let tasks = (0..32).map(|task| {
        let manager = if task % 2 == 0 { one.clone() } else { two.clone() };
        let (inside, last) = (Arc::clone(&inside), Arc::clone(&last));
        tokio::spawn(async move {
            for _ in 0..20 {
                let guard = manager.acquire("job", patient()).await.expect("acquired");
                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two holders");
                assert!(last.swap(guard.token(), SeqCst) < guard.token(), "tokens grow");
                tokio::task::yield_now().await;
                assert_eq!(inside.fetch_sub(1, SeqCst), 1, "two holders");
                guard.release().await.expect("released");
            }
        })
    });
    let started = Instant::now();
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    eprintln!("640 sections of 32 tasks over two managers: {:?}", started.elapsed());
    for manager in [&one, &two] {
        let stats = manager.stats();
        assert_eq!((stats.acquired, stats.released, stats.held, stats.lost), (320, 320, 0, 0));
        assert!(stats.contention_rate > 0.5 && stats.timeout_rate == 0.0, "{stats:?}");
        assert!(stats.average_hold_seconds > 0.0);
    }
}

#[tokio::test]
async fn busy_and_timeout_redis() {
    busy_and_timeout(redis().await).await;
}

#[tokio::test]
async fn busy_and_timeout_memory() {
    busy_and_timeout(memory()).await;
}

async fn busy_and_timeout((one, two): (DistributedLockManager, DistributedLockManager)) {
    let guard = one.acquire("job", LockOptions::default()).await.expect("acquired");
    let busy = two.try_acquire("job", LockOptions::default()).await.expect_err("held");
    let LockError::Busy { holder, remaining, name } = busy else { panic!("{busy:?}") };
    assert_eq!((name.as_str(), holder), ("job", format!("pid {}", std::process::id())));
    assert!(remaining > Duration::from_secs(25) && remaining <= Duration::from_secs(30), "{remaining:?}");
    let started = Instant::now();
    let wait = Duration::from_millis(200);
    let late = two.acquire("job", LockOptions::default().wait(wait)).await.expect_err("held");
    assert!(matches!(&late, LockError::Timeout { holder: Some(_), .. }), "{late:?}");
    assert!(started.elapsed() >= wait && started.elapsed() < wait + Duration::from_secs(5));
    guard.release().await.expect("released");
    two.try_acquire("job", LockOptions::default()).await.expect("free").release().await.expect("released");
    let stats = two.stats();
    assert_eq!((stats.busy, stats.timed_out, stats.acquired), (1, 1, 1));
    assert!((stats.timeout_rate - 0.5).abs() < 1e-9);
}

#[tokio::test]
async fn a_remote_waiter_is_woken_not_polling() {
    let (one, two) = redis().await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let guard = one.acquire("job", patient()).await.expect("acquired");
        let waiting = tokio::spawn({
            let two = two.clone();
            async move {
                let guard = two.acquire("job", patient()).await.expect("acquired");
                (Instant::now(), guard)
            }
        });
        wait_for("it waits", PATIENCE, async || two.stats().waiting == 1).await;
        let released = Instant::now();
        guard.release().await.expect("released");
        let (acquired, guard) = waiting.await.expect("no panic");
        times.push(acquired.saturating_duration_since(released));
        guard.release().await.expect("released");
    }
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    eprintln!("release to acquired by another process: p50 {p50:?}, p99 {p99:?}");
    assert!(p50 < Duration::from_millis(100), "{p50:?}: it was not woken");
}

#[tokio::test]
async fn waiters_of_one_process_are_served_in_order() {
    let (one, _two) = redis().await;
    let guard = one.acquire("job", patient()).await.expect("acquired");
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for task in 0..20 {
        let (manager, order) = (one.clone(), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let guard = manager.acquire("job", patient()).await.expect("acquired");
            order.lock().expect("no panic").push(task);
            guard.release().await.expect("released");
        }));
        wait_for("it waits", PATIENCE, async || one.stats().waiting == task + 1).await;
    }
    guard.release().await.expect("released");
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(*order.lock().expect("no panic"), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn names_and_leases_outside_the_limits_are_refused() {
    let (one, _two) = memory();
    for name in ["", "a\nb", &"x".repeat(513)] {
        let refused = one.try_acquire(name, LockOptions::default()).await;
        assert!(matches!(refused, Err(LockError::Invalid { what: "lock name", .. })), "{name:?}");
    }
    for lease in [Duration::from_millis(99), Duration::from_secs(24 * 3600 + 1)] {
        let refused = one.try_acquire("x", LockOptions::default().lease(lease)).await;
        assert!(matches!(refused, Err(LockError::Invalid { what: "lease", .. })), "{lease:?}");
    }
    for name in ["x", &"x".repeat(512), "with space {and} braces}", "ü"] {
        let (redis, _) = redis().await;
        let guard = redis.try_acquire(name, LockOptions::default()).await.expect("acquired");
        assert_eq!(guard.name(), name);
        guard.release().await.expect("released");
    }
    let wrong = Config { max_waiters: 0, default_lease: Duration::ZERO, ..Config::default() };
    assert_eq!(wrong.validate().expect_err("two problems").len(), 2);
}

#[tokio::test]
async fn without_a_backend_every_call_says_so() {
    let manager = Config::default().build(None).expect("good settings");
    let acquired = manager.acquire("x", LockOptions::default()).await;
    assert!(matches!(acquired, Err(LockError::Unavailable { .. })));
    assert!(matches!(manager.health_check(soon()).await, Err(LockError::Unavailable { .. })));
    assert!(!manager.status().connected);
    assert_eq!(manager.stats().unavailable, 1);
}

#[tokio::test]
async fn shutdown_sends_waiters_away_and_waits_for_guards() {
    let (one, two) = redis().await;
    let guard = one.acquire("job", patient()).await.expect("acquired");
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.acquire("job", patient()).await.map(drop) }
    });
    wait_for("it waits", PATIENCE, async || one.stats().waiting == 1).await;
    one.shutdown(Duration::from_millis(100)).await;
    assert!(matches!(waiting.await.expect("no panic"), Err(LockError::Shutdown)));
    assert!(matches!(one.try_acquire("x", patient()).await, Err(LockError::Shutdown)));
    assert!(!guard.is_lost());
    let started = Instant::now();
    tokio::join!(one.shutdown(PATIENCE), async { drop(guard) });
    assert!(started.elapsed() < PATIENCE, "it ends with the last guard");
    drop(two.try_acquire("job", patient()).await.expect("the guard's drop still released it"));
}

#[tokio::test]
async fn eviction_is_warned_of_or_refused() {
    use crate::support::{link, namespace, own};
    use distributed_lock_manager::{Eviction, RedisLockBackend};
    let stack = own().await;
    let master = stack.redis().master();
    master.redis_command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.expect("set");
    let backend = |eviction| async move {
        let link = link(master.port(), &namespace()).await;
        let backend = RedisLockBackend::with_eviction(link, eviction).expect("a runtime");
        Config::default().build(Some(Arc::new(backend))).expect("good settings")
    };
    let warned = backend(Eviction::Warn).await;
    assert!(warned.status().warning.is_some_and(|warning| warning.contains("allkeys-lru")));
    drop(warned.try_acquire("x", LockOptions::default()).await.expect("acquired"));
    let refused = backend(Eviction::Refuse).await.try_acquire("x", LockOptions::default()).await;
    assert!(matches!(refused, Err(LockError::Unavailable { .. })));
    let fine = RedisLockBackend::new(link(shared().await.redis().master().port(), &namespace()).await);
    let fine = Config::default().build(Some(Arc::new(fine.expect("a runtime")))).expect("good settings");
    assert_eq!(fine.status().warning, None);
}
