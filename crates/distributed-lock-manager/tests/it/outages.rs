//! Acquires while Redis cannot be reached.

use crate::support::{PATIENCE, connected, link, link_config, manager, namespace, own, shared};
use async_trait::async_trait;
use distributed_lock_manager::{
    Attempt, BackendStatus, Config, LockBackend, LockError, LockOptions, MemoryLockBackend, RedisLockBackend,
    Request, Wakes,
};
use local_stack::{FaultProxy, RedisOptions, Stack, wait_for};
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

#[tokio::test]
async fn unavailable_at_once_or_after_the_wait_and_back_by_itself() {
    let (stack, namespace) = (own().await, namespace());
    let master = stack.redis().master();
    let one = manager(master.port(), &namespace).await;
    drop(one.try_acquire("x", LockOptions::default()).await.expect("acquired"));
    master.kill().expect("killed");
    wait_for("noticed", PATIENCE, async || !one.status().connected).await;
    let started = Instant::now();
    let refused = one.try_acquire("x", LockOptions::default()).await;
    assert!(matches!(refused, Err(LockError::Unavailable { .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    let wait = Duration::from_millis(300);
    let late = one.acquire("x", LockOptions::default().wait(wait)).await;
    assert!(matches!(late, Err(LockError::Unavailable { .. })), "{late:?}");
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.acquire("y", LockOptions::default().wait(PATIENCE)).await }
    });
    master.restart().await.expect("restarted");
    drop(waiting.await.expect("no panic").expect("acquired once Redis was back"));
}

#[tokio::test]
async fn a_time_out_is_unknown_and_leaves_no_lock_behind() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let backend = RedisLockBackend::new(link(proxy.addr().port(), &namespace).await).expect("a runtime");
    let config = Config { attempt_timeout: Duration::from_millis(200), ..Config::default() };
    let one = config.build(Some(Arc::new(backend))).expect("good settings");
    let two = manager(stack.redis().master().port(), &namespace).await;
    drop(one.try_acquire("warm", LockOptions::default()).await.expect("acquired"));
    // Questions arrive, answers come too late.
    proxy.delay_each(Duration::ZERO, Duration::from_millis(400));
    let unknown = one.try_acquire("job", LockOptions::default()).await;
    assert!(matches!(unknown, Err(LockError::Unknown { .. })), "{unknown:?}");
    wait_for("the compensating release", Duration::from_secs(5), async || {
        two.try_acquire("job", LockOptions::default()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_missed_wake_costs_no_more_than_the_lease() {
    let (stack, namespace) = (shared().await, namespace());
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    let holder = manager(stack.redis().master().port(), &namespace).await;
    let backend = RedisLockBackend::new(link(proxy.addr().port(), &namespace).await).expect("a runtime");
    let backend = Arc::new(backend);
    let waiter = Config::default().build(Some(Arc::clone(&backend) as _)).expect("good settings");
    // From here on nothing but the cut makes it ask.
    wait_for("it hears", PATIENCE, async || backend.hears_releases()).await;
    let options = LockOptions::default().wait(PATIENCE).lease(Duration::from_secs(60));
    let guard = holder.acquire("job", options).await.expect("acquired");
    let waiting = tokio::spawn({
        let waiter = waiter.clone();
        async move { waiter.acquire("job", options).await }
    });
    wait_for("it waits", PATIENCE, async || waiter.stats().contended == 1).await;
    // Released while the waiter cannot hear it; when it can hear again it asks.
    proxy.refuse(true);
    proxy.cut();
    guard.release().await.expect("released");
    proxy.heal();
    let acquired = tokio::time::timeout(Duration::from_secs(15), waiting).await.expect("in time");
    drop(acquired.expect("no panic").expect("acquired"));
}

#[tokio::test]
async fn a_user_who_may_not_subscribe_waits_no_longer_than_a_second() {
    let acl = "user app on >pass ~* &* +@all -subscribe\nuser other on >pass ~* &* +@all\n";
    let options = RedisOptions { acl: Some(acl.into()), ..RedisOptions::default() };
    let stack = Stack::builder().redis(options).start().await.expect("Redis starts");
    let (master, namespace) = (stack.redis().master(), namespace());
    let as_user = async |user: &str| {
        let link = redis_link::Config {
            username: Some(user.into()),
            password: Some("pass".into()),
            ..link_config(master.port(), &namespace)
        };
        let backend = RedisLockBackend::new(connected(link).await).expect("a runtime");
        Config::default().build(Some(Arc::new(backend))).expect("good settings")
    };
    let (waiter, holder) = (as_user("app").await, as_user("other").await);
    let warned = || waiter.status().warning.is_some_and(|warning| warning.contains("subscribe"));
    wait_for("warned", PATIENCE, async || warned()).await;
    assert!(waiter.status().connected);
    let options = LockOptions::default().wait(PATIENCE).lease(Duration::from_secs(60));
    let guard = holder.acquire("job", options).await.expect("acquired");
    let waiting = tokio::spawn({
        let waiter = waiter.clone();
        async move { waiter.acquire("job", options).await }
    });
    wait_for("it waits", PATIENCE, async || waiter.stats().contended == 1).await;
    guard.release().await.expect("released");
    let acquired = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("in time");
    drop(acquired.expect("no panic").expect("acquired"));
    // With the right it is woken.
    master.redis_command(&["ACL", "SETUSER", "app", "+subscribe"]).await.expect("given");
    wait_for("no longer warned", PATIENCE, async || waiter.status().warning.is_none()).await;
}

/// Memory in which an acquire gets no answer and happens later.
#[derive(Debug, Default)]
struct Late {
    memory: Arc<MemoryLockBackend>,
    happened: Arc<AtomicBool>,
}

#[async_trait]
impl LockBackend for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn scope(&self) -> &str {
        self.memory.scope()
    }

    fn attach(&self, wakes: Wakes) {
        self.memory.attach(wakes);
    }

    async fn acquire(&self, request: &Request, deadline: Deadline) -> Result<Attempt, LockError> {
        let (memory, request) = (Arc::clone(&self.memory), request.clone());
        let unknown = LockError::Unknown { operation: "acquire", name: request.name.to_string() };
        let happened = Arc::clone(&self.happened);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let attempt = memory.acquire(&request, deadline).await;
            happened.store(matches!(attempt, Ok(Attempt::Granted { .. })), SeqCst);
        });
        Err(unknown)
    }

    async fn renew(&self, request: &Request, deadline: Deadline) -> Result<bool, LockError> {
        self.memory.renew(request, deadline).await
    }

    async fn release(&self, request: &Request, deadline: Deadline) -> Result<bool, LockError> {
        self.memory.release(request, deadline).await
    }

    fn status(&self) -> BackendStatus {
        self.memory.status()
    }

    async fn health_check(&self, deadline: Deadline) -> Result<Duration, LockError> {
        self.memory.health_check(deadline).await
    }
}

#[tokio::test]
async fn an_acquire_that_happens_after_its_compensation_is_undone_as_well() {
    let late = Late::default();
    let (memory, happened) = (Arc::clone(&late.memory), Arc::clone(&late.happened));
    let one = Config::default().build(Some(Arc::new(late))).expect("good settings");
    let two = Config::default().build(Some(memory)).expect("good settings");
    let options = LockOptions::default().lease(Duration::from_secs(60));
    let unknown = one.try_acquire("job", options).await;
    assert!(matches!(unknown, Err(LockError::Unknown { .. })), "{unknown:?}");
    wait_for("it has happened", PATIENCE, async || happened.load(SeqCst)).await;
    assert!(matches!(two.try_acquire("job", options).await, Err(LockError::Busy { .. })));
    wait_for("undone", Duration::from_secs(5), async || two.try_acquire("job", options).await.is_ok()).await;
}
