//! Servers, links and managers for the tests. No assertions about what is tested.

use distributed_lock_manager::{Config, DistributedLockManager, MemoryLockBackend, RedisLockBackend};
use local_stack::{RedisOptions, SharedStack, Stack};
use redis_link::{Deps, Endpoint, RedisLink, SelfKeptEpochs, Topology};
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For tests that do no harm to the server.
static HARMLESS: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::default()));

pub(crate) async fn shared() -> Stack {
    HARMLESS.get().await.expect("Redis starts")
}

/// For tests that do.
pub(crate) async fn own() -> Stack {
    Stack::builder().redis(RedisOptions::default()).start().await.expect("Redis starts")
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

pub(crate) fn namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

pub(crate) fn link_config(port: u16, namespace: &str) -> redis_link::Config {
    redis_link::Config {
        topology: Topology::standalone(Endpoint::new("127.0.0.1", port)),
        namespace: namespace.to_owned(),
        probe_interval: Duration::from_millis(100),
        // A machine that is busy with other things is no fault.
        probe_timeout: Duration::from_secs(10),
        ..redis_link::Config::default()
    }
}

pub(crate) async fn connected(config: redis_link::Config) -> RedisLink {
    let link = config.connect(Deps::new(Arc::new(SelfKeptEpochs::new()))).await.expect("good settings");
    link.ready(soon()).await.expect("connected");
    link
}

/// A link of its own, as another process would have.
pub(crate) async fn link(port: u16, namespace: &str) -> RedisLink {
    connected(link_config(port, namespace)).await
}

pub(crate) async fn manager(port: u16, namespace: &str) -> DistributedLockManager {
    let backend = RedisLockBackend::new(link(port, namespace).await).expect("a runtime");
    let config = Config { attempt_timeout: Duration::from_secs(10), ..Config::default() };
    config.build(Some(Arc::new(backend))).expect("good settings")
}

/// Two managers on one store, as two processes have them.
pub(crate) async fn redis() -> (DistributedLockManager, DistributedLockManager) {
    let (port, namespace) = (shared().await.redis().master().port(), namespace());
    (manager(port, &namespace).await, manager(port, &namespace).await)
}

pub(crate) fn memory() -> (DistributedLockManager, DistributedLockManager) {
    let backend = Arc::new(MemoryLockBackend::new());
    let manager = || Config::default().build(Some(Arc::clone(&backend) as _)).expect("good settings");
    (manager(), manager())
}
