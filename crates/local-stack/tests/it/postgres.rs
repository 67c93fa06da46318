//! Replication and faults of Postgres.

use std::time::{Duration, Instant};

use local_stack::{Auth, Error, PostgresOptions, Server, Stack, wait_for};

use crate::{PATIENCE, first};

async fn started(options: PostgresOptions) -> Stack {
    Stack::builder().postgres(options).start().await.expect("Postgres starts")
}

async fn answers(server: &Server) -> bool {
    let server = server.clone();
    let asked = tokio::spawn(async move { server.wait_ready(Duration::from_millis(300)).await });
    asked.await.expect("no panic").is_ok()
}

#[tokio::test]
async fn what_the_primary_writes_the_replicas_read() {
    let stack = started(PostgresOptions::with_replicas(2)).await;
    let postgres = stack.postgres();
    postgres
        .primary()
        .sql("postgres", "create table t (x int); insert into t values (7)")
        .await
        .expect("written");
    postgres.wait_replicas(PATIENCE).await.expect("replicated");
    for replica in postgres.replicas() {
        assert_eq!(first(&replica.sql("postgres", "select x from t").await.expect("read")), Some("7"));
        let refused = replica.sql("postgres", "insert into t values (8)").await;
        assert!(matches!(refused, Err(Error::Refused { message, .. }) if message.starts_with("25006")));
    }
}

#[tokio::test]
async fn a_paused_server_answers_nobody_until_it_is_resumed() {
    let stack = started(PostgresOptions::with_replicas(1)).await;
    let (primary, replica) = (stack.postgres().primary(), &stack.postgres().replicas()[0]);
    primary.sql("postgres", "create table t (x int)").await.expect("created");
    replica.pause().expect("paused");
    assert!(replica.is_paused() && replica.is_running());
    assert!(!answers(replica).await);
    primary.sql("postgres", "insert into t values (1)").await.expect("the primary goes on");
    stack.postgres().wait_replicas(PATIENCE).await.expect("a paused one is not waited for");
    replica.resume().expect("resumed");
    stack.postgres().wait_replicas(PATIENCE).await.expect("it catches up");
    assert_eq!(first(&replica.sql("postgres", "select count(*) from t").await.expect("read")), Some("1"));

    primary.pause().expect("paused");
    // A session that exists is stopped as well, not only the server that accepts new ones.
    let busy = primary.clone();
    let session = tokio::spawn(async move { busy.sql("postgres", "select 1").await });
    assert!(!answers(primary).await);
    assert!(!session.is_finished());
    primary.resume().expect("resumed");
    session.await.expect("no panic").expect("answered late");
}

#[tokio::test]
async fn a_killed_server_keeps_port_and_data_over_a_restart() {
    let stack = started(PostgresOptions::with_replicas(1)).await;
    let (primary, replica) = (stack.postgres().primary(), &stack.postgres().replicas()[0]);
    primary.sql("postgres", "create table t (x int); insert into t values (1)").await.expect("written");
    let (url, pid) = (primary.url(), primary.pid());
    primary.kill().expect("killed");
    assert!(!primary.is_running() && primary.pid().is_none());
    let refused = primary.sql("postgres", "select 1").await;
    assert!(matches!(refused, Err(Error::NotRunning { .. })), "{refused:?}");
    assert!(matches!(primary.pause(), Err(Error::NotRunning { .. })));

    let start = Instant::now();
    primary.restart().await.expect("restarted after a kill");
    println!("a killed Postgres is back in {:?}", start.elapsed());
    assert_eq!(primary.url(), url);
    assert_ne!(primary.pid(), pid);
    primary.sql("postgres", "insert into t values (2)").await.expect("written again");
    stack.postgres().wait_replicas(PATIENCE).await.expect("the replica finds it again");
    assert_eq!(first(&replica.sql("postgres", "select count(*) from t").await.expect("read")), Some("2"));

    primary.pause().expect("paused");
    primary.restart().await.expect("restarted while paused");
    assert!(!primary.is_paused());
    primary.sql("postgres", "select 1").await.expect("it answers");
    replica.restart().await.expect("a replica restarts too");
    stack.postgres().wait_replicas(PATIENCE).await.expect("and follows");
}

#[tokio::test]
async fn a_promoted_replica_can_be_written_and_followed() {
    let stack = started(PostgresOptions::with_replicas(2)).await;
    let postgres = stack.postgres();
    postgres.primary().sql("postgres", "create table t (x int)").await.expect("created");
    postgres.wait_replicas(PATIENCE).await.expect("replicated");
    postgres.primary().kill().expect("killed");
    let start = Instant::now();
    postgres.promote(0).await.expect("promoted");
    println!("a replica is promoted in {:?}", start.elapsed());
    let [promoted, other] = postgres.replicas() else { panic!("two replicas") };
    promoted.sql("postgres", "insert into t values (1)").await.expect("it can be written");
    other.follow(promoted).await.expect("it follows");
    wait_for("the other one has it", PATIENCE, async || {
        let rows = other.sql("postgres", "select count(*) from t").await.expect("read");
        first(&rows) == Some("1")
    })
    .await;
    assert!(matches!(promoted.follow(other).await, Err(Error::Refused { .. })));
    assert!(matches!(postgres.promote(2).await, Err(Error::NoSuchPart { .. })));
}

#[tokio::test]
async fn options_reach_the_server() {
    let stack = started(PostgresOptions {
        auth: Auth::Scram,
        password: Some("it's $00123".into()),
        max_connections: 17,
        durable: true,
        own_identity: true,
        settings: vec![("work_mem".into(), "5MB".into())],
        ..PostgresOptions::default()
    })
    .await;
    let primary = stack.postgres().primary();
    for (name, value) in
        [("max_connections", "17"), ("fsync", "on"), ("full_page_writes", "on"), ("work_mem", "5MB")]
    {
        let rows = primary.sql("postgres", &format!("show {name}")).await.expect("shown");
        assert_eq!(first(&rows), Some(value), "{name}");
    }
    let stored =
        primary.sql("postgres", "select rolpassword from pg_authid where rolname = 'postgres'").await;
    assert!(first(&stored.expect("stored")).is_some_and(|hash| hash.starts_with("SCRAM-SHA-256")));
    let rules =
        primary.sql("postgres", "select auth_method from pg_hba_file_rules where type = 'host'").await;
    assert_eq!(first(&rules.expect("rules")), Some("scram-sha-256"));
    assert!(primary.url().contains("it%27s%20%2400123"), "{}", primary.url());

    let other = Stack::shared().await.expect("the shared stack");
    let identity = "select system_identifier from pg_control_system()";
    let ours = primary.sql("postgres", identity).await.expect("ours");
    let theirs = other.postgres().primary().sql("postgres", identity).await.expect("theirs");
    assert_ne!(ours, theirs);
}

#[tokio::test]
async fn a_commit_waits_for_the_synchronous_standbys() {
    let options = PostgresOptions { synchronous: true, ..PostgresOptions::with_replicas(2) };
    let stack = started(options).await;
    let (primary, replicas) = (stack.postgres().primary(), stack.postgres().replicas());
    let states = "select distinct sync_state, count(*) over () from pg_stat_replication";
    let rows = primary.sql("postgres", states).await.expect("read");
    assert_eq!(rows, [["sync", "2"].map(|text| Some(text.to_owned()))]);
    primary.sql("postgres", "create table t (x int)").await.expect("both have it");

    replicas[1].pause().expect("paused");
    let writer = primary.clone();
    let write = tokio::spawn(async move { writer.sql("postgres", "insert into t values (1)").await });
    let waiting = "select 1 from pg_stat_activity where wait_event = 'SyncRep' and query like 'insert%'";
    wait_for("the commit waits", PATIENCE, async || {
        primary.sql("postgres", waiting).await.is_ok_and(|rows| !rows.is_empty())
    })
    .await;
    // It is on this disk already, and yet nobody may see it.
    assert_eq!(first(&primary.sql("postgres", "select count(*) from t").await.expect("read")), Some("0"));
    assert!(!write.is_finished());
    replicas[1].resume().expect("resumed");
    write.await.expect("no panic").expect("committed");

    // What was committed is on either of them, without any waiting.
    primary.kill().expect("killed");
    stack.postgres().promote(1).await.expect("promoted");
    assert_eq!(first(&replicas[1].sql("postgres", "select count(*) from t").await.expect("read")), Some("1"));
    replicas[1].sql("postgres", "insert into t values (2)").await.expect("it waits for nobody");
}

#[tokio::test]
async fn a_standby_that_comes_back_is_waited_for_again() {
    let options = PostgresOptions { synchronous: true, ..PostgresOptions::with_replicas(1) };
    let stack = started(options).await;
    let (postgres, replica) = (stack.postgres(), &stack.postgres().replicas()[0]);
    replica.kill().expect("killed");
    let writer = postgres.primary().clone();
    let write = tokio::spawn(async move { writer.sql("postgres", "create table t (x int)").await });
    replica.restart().await.expect("restarted");
    write.await.expect("no panic").expect("committed once it was back");
    postgres.wait_synchronous(PATIENCE).await.expect("it is a synchronous standby");

    let alone = PostgresOptions { synchronous: true, ..PostgresOptions::default() };
    let refused = Stack::builder().postgres(alone).start().await.expect_err("nobody to wait for");
    assert!(matches!(&refused, Error::Setting { name, .. } if name == "synchronous"), "{refused}");
}
