//! Starting: how long it takes, where things are, who runs them.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use local_stack::{PostgresOptions, RedisOptions, SharedStack, Stack};

#[tokio::test]
async fn both_servers_are_up_soon() {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let stack = Stack::builder()
            .postgres(PostgresOptions::default())
            .redis(RedisOptions::default())
            .start()
            .await
            .expect("both start");
        println!("Postgres and Redis up in {:?}", stack.started_in());
        best = best.min(stack.started_in());
    }
    // The goal is two seconds; the machine may be busy with the other tests, so the best of three is held to five.
    assert!(best < Duration::from_secs(5), "took {best:?}");
}

#[tokio::test]
async fn replicas_are_up_soon_after() {
    let stack = Stack::builder()
        .postgres(PostgresOptions::with_replicas(2))
        .redis(RedisOptions::with_replicas(2))
        .start()
        .await
        .expect("all six start");
    println!("Postgres and Redis with two replicas each up in {:?}", stack.started_in());
    assert_eq!((stack.postgres().servers().count(), stack.redis().servers().count()), (3, 3));
    assert!(stack.started_in() < Duration::from_secs(20));
}

#[test]
fn a_private_redis_is_up_at_once() {
    let stack = Stack::builder().redis(RedisOptions::default()).start_blocking().expect("Redis starts");
    println!("Redis alone up in {:?}", stack.started_in());
    assert!(stack.started_in() < Duration::from_secs(2));
    assert!(stack.try_postgres().is_err());
}

#[test]
fn the_directory_is_private_and_no_server_runs_as_root() {
    let stack = Stack::builder()
        .postgres(PostgresOptions::default())
        .redis(RedisOptions::default())
        .start_blocking()
        .expect("both start");
    let directory = stack.directory().expect("a directory of our own");
    for path in [directory.to_owned(), directory.join("postgres-0"), directory.join("redis-0")] {
        let data = path.metadata().expect("there");
        assert_eq!(data.permissions().mode() & 0o777, 0o700, "{}", path.display());
        assert_ne!(data.uid(), 0, "{}", path.display());
    }
    for server in [stack.postgres().primary(), stack.redis().master()] {
        let pid = server.pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let uids = status.lines().find(|line| line.starts_with("Uid:")).expect("its user");
        assert!(!uids.split_whitespace().any(|uid| uid == "0"), "{uids}");
        assert!(server.addr().expect("an address").ip().is_loopback());
        assert!(server.socket().expect("a socket").exists());
        assert!(!server.log().is_empty(), "{} writes a log", server.name());
    }
    assert!(stack.postgres_url().starts_with("postgres://postgres:"), "a password is asked for over TCP");
}

static OWN: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::default()));

#[test]
fn a_shared_stack_is_one_and_outlives_its_first_runtime() {
    let pids: Vec<_> = (0..2)
        .map(|_| {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let (one, two) = tokio::join!(OWN.get(), OWN.get());
                let (one, two) = (one.expect("it starts"), two.expect("it starts"));
                assert_eq!(one.redis().master().pid(), two.redis().master().pid());
                one.redis().master().redis_command(&["PING"]).await.expect("it answers");
                one.redis().master().pid()
            })
        })
        .collect();
    assert!(pids[0].is_some());
    assert_eq!(pids[0], pids[1]);
}
