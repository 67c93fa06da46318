//! Handles that are dropped without a shutdown: nothing hangs, no task and no connection stays.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use database_services::{ManagerMode, ServiceState, get_database_services};
use local_stack::{Stack, wait_for};

use crate::support::{Ground, PATIENCE};

async fn drop_leaves_nothing() {
    let ground = Ground::new().await;
    let runtime = tokio::runtime::Handle::current();
    let before = runtime.metrics().num_alive_tasks();
    for _ in 0..3 {
        let services = ground.running().await;
        assert!(runtime.metrics().num_alive_tasks() > before);
        drop(services);
        ground.no_connections_left().await;
    }
    let ended = async || runtime.metrics().num_alive_tasks() <= before;
    wait_for("every task has ended", PATIENCE, ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_without_shutdown_on_many_threads() {
    drop_leaves_nothing().await;
}

#[tokio::test]
async fn dropped_without_shutdown_on_one_thread() {
    drop_leaves_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_leaves_no_task() {
    let ground = Ground::new().await;
    let runtime = tokio::runtime::Handle::current();
    let before = runtime.metrics().num_alive_tasks();
    let services = ground.running().await;
    services.shutdown(Duration::from_secs(5)).await;
    drop(services);
    let ended = async || runtime.metrics().num_alive_tasks() <= before;
    wait_for("every task has ended", PATIENCE, ended).await;
}

#[test]
fn dropped_outside_and_after_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ground = runtime.block_on(Ground::new());
    let outside = runtime.block_on(ground.running());
    drop(outside);
    let late = runtime.block_on(ground.running());
    let panicking = runtime.block_on(ground.running());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = panicking;
        panic!("on purpose");
    }))
    .unwrap_err();
    runtime.shutdown_timeout(Duration::from_secs(5));
    let other = tokio::runtime::Runtime::new().unwrap();
    // The runtime that they lived on is gone: a shutdown has nothing to wait for, a drop nothing to do.
    other.block_on(async {
        tokio::time::timeout(PATIENCE, late.shutdown(Duration::from_secs(1))).await.unwrap()
    });
    drop(late);
    other.block_on(ground.no_connections_left());
}

/// Polls on this thread, which belongs to no runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(PATIENCE),
        }
    }
}

#[test]
fn shut_down_outside_of_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ground = runtime.block_on(Ground::new());
    let services = runtime.block_on(ground.running());
    block_on(services.shutdown(Duration::from_secs(5)));
    assert_eq!(services.state(), ServiceState::Stopped);
    runtime.block_on(ground.no_connections_left());
    let never_started = ground.services();
    block_on(never_started.shutdown(Duration::from_secs(5)));
    assert_eq!(never_started.state(), ServiceState::Stopped);
    let late = runtime.block_on(ground.running());
    runtime.shutdown_timeout(Duration::from_secs(5));
    block_on(late.shutdown(Duration::from_secs(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initialize_that_is_dropped_leaves_nothing_and_can_be_repeated() {
    let ground = Ground::new().await;
    for wait in [0, 1, 3, 10, 30, 60, 100] {
        let services = ground.services();
        let _ = tokio::time::timeout(Duration::from_millis(wait), services.initialize()).await;
        services.initialize().await.unwrap();
        drop(services);
        ground.no_connections_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_instance_comes_from_the_environment() {
    let stack = Stack::shared().await.unwrap();
    let ground = Ground::new().await;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "endings::child_of_an_environment", "--nocapture"])
        .env("DATABASE_URL", ground.database.url())
        .env("REDIS_URL", stack.redis_url())
        .env("REDIS_NAMESPACE", stack.redis_namespace())
        .env("SECURITY_AGENT_ID", "child")
        .env("DBSVC_TEST_CHILD", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && told.contains("child is done"),
        "{told}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

/// Runs only as the child of the test above; by itself it has no environment to read.
#[tokio::test(flavor = "multi_thread")]
async fn child_of_an_environment() {
    if std::env::var_os("DBSVC_TEST_CHILD").is_none() {
        return;
    }
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(get_database_services(ManagerMode::McpServer))).collect();
    let mut all = Vec::new();
    for call in calls {
        all.push(call.await.unwrap().unwrap());
    }
    assert_eq!(all[0].security_context().agent_id(), "child");
    assert!(all.iter().all(|services| services.is_initialized()));
    // The cache rounds up to whole shards.
    assert!((2_000..2_100).contains(&all[0].cache().stats().l1_max_size));
    let other = get_database_services(ManagerMode::Admin).await.unwrap();
    assert!((500..600).contains(&other.cache().stats().l1_max_size));
    all[0].shutdown(Duration::from_secs(5)).await;
    let fresh = get_database_services(ManagerMode::McpServer).await.unwrap();
    fresh.shutdown(Duration::from_secs(5)).await;
    other.shutdown(Duration::from_secs(5)).await;
    println!("child is done");
}
