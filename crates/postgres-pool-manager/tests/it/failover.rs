//! Another server becomes the primary: who is written to, what is lost, who has to wait, and for how long.

use crate::support::*;
use local_stack::{Database, FaultProxy, PostgresOptions, Server, Stack, via, wait_for};
use postgres_pool_manager::{
    Config, Error, HostState, PoolEvent, PostgresPoolManager, ReplicaEndpoint, Role, TransactionError, sqlx,
};
use resilience::Deadline;
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::task::JoinSet;

/// A primary behind a proxy and a synchronous standby; the pool knows both.
struct Ground {
    pool: PostgresPoolManager,
    proxy: FaultProxy,
    db: Database,
}

async fn stack(synchronous: bool) -> Database {
    let options = PostgresOptions { synchronous, durable: synchronous, ..PostgresOptions::with_replicas(1) };
    let stack = Stack::builder().postgres(options).start().await.unwrap();
    if synchronous {
        stack.postgres().wait_synchronous(SOON).await.unwrap();
    }
    stack.database().await.unwrap()
}

fn both(db: &Database, primary: String) -> Config {
    let replicas = vec![ReplicaEndpoint::new("standby", db.replica_url(0).unwrap(), 1)];
    Config { replicas, ..config(primary, 10) }
}

async fn ground() -> Ground {
    let db = stack(true).await;
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    let pool = both(&db, via(&db.url(), proxy.addr())).connect().await.unwrap();
    standby_is(&pool, HostState::Up).await;
    // Acknowledged is what the standby has applied.
    db.sql("CREATE TABLE log (writer int, n int); CREATE TABLE seen (n int)").await.unwrap();
    let token = pool.read_token().await.unwrap();
    wait_for("the tables at the standby", SOON, async || pool.read_after(&token).await.unwrap().is_replica())
        .await;
    Ground { pool, proxy, db }
}

fn standby(db: &Database) -> &Server {
    &db.stack().postgres().replicas()[0]
}

async fn standby_is(pool: &PostgresPoolManager, state: HostState) {
    wait_for(&format!("the standby {state:?}"), SOON, async || {
        pool.load_balancer().iter().any(|host| host.name == "standby" && host.state == state)
    })
    .await;
}

async fn primary_is(pool: &PostgresPoolManager, name: &str) {
    wait_for(&format!("{name} written to"), SOON, async || pool.load_balancer()[0].name == name).await;
    assert_eq!(pool.load_balancer()[0].role, Role::Primary);
}

/// What became of the load.
#[derive(Default)]
struct Seen {
    acknowledged: HashSet<(i32, i32)>,
    errors: BTreeMap<&'static str, u32>,
    writes: Vec<Instant>,
    longest_read: std::time::Duration,
}

fn kind(e: &TransactionError<sqlx::Error>) -> &'static str {
    match e {
        TransactionError::Closure(sqlx::Error::Io(_)) => "connection lost",
        TransactionError::Closure(_) => "statement",
        TransactionError::Database(Error::OutcomeUnknown { .. }) => "outcome unknown",
        TransactionError::Database(Error::AcquireTimeout { .. }) => "acquire time-out",
        TransactionError::Database(Error::PrimaryChanged { .. }) => "primary changed",
        TransactionError::Database(Error::RolledBack { .. }) => "rolled back",
        _ => "other",
    }
}

async fn write(pool: &PostgresPoolManager, writer: i32, n: i32) -> Result<(), TransactionError<sqlx::Error>> {
    pool.transaction(Default::default(), |tx| {
        Box::pin(async move {
            // Remote apply: what is acknowledged can be read at the standby.
            sqlx::query("SET LOCAL synchronous_commit = remote_apply").execute(&mut *tx).await?;
            let insert = sqlx::query("INSERT INTO log VALUES ($1, $2)").bind(writer).bind(n);
            insert.execute(&mut *tx).await.map(drop)
        })
    })
    .await
}

/// Eight who write and eight who read until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    writers: JoinSet<Seen>,
    readers: JoinSet<Seen>,
    written: Arc<AtomicU64>,
}

impl Load {
    fn on(pool: &PostgresPoolManager) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
        for id in 0..8 {
            let (pool, stop, written) = (pool.clone(), Arc::clone(&stop), Arc::clone(&written));
            writers.spawn(async move {
                let mut seen = Seen::default();
                for n in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    match write(&pool, id, n).await {
                        Ok(()) => {
                            seen.writes.push(Instant::now());
                            seen.acknowledged.insert((id, n));
                            written.fetch_add(1, Relaxed);
                        }
                        Err(e) => *seen.errors.entry(kind(&e)).or_default() += 1,
                    }
                }
                seen
            });
        }
        for _ in 0..8 {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            readers.spawn(async move {
                let mut seen = Seen::default();
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    if let Err(e) = sqlx::query("SELECT count(*) FROM seen").execute(&pool.replica()).await {
                        eprintln!("a read: {e}; {:?}", pool.route_explain(None));
                        *seen.errors.entry("read").or_default() += 1;
                    }
                    seen.longest_read = seen.longest_read.max(began.elapsed());
                }
                seen
            });
        }
        Self { stop, writers, readers, written }
    }

    async fn goes_on(&self) {
        let goal = self.written.load(Relaxed) + 100;
        wait_for("writes", SOON, async || self.written.load(Relaxed) >= goal).await;
    }

    async fn end(self) -> (Vec<Seen>, Vec<Seen>) {
        self.stop.store(true, Relaxed);
        (self.writers.join_all().await, self.readers.join_all().await)
    }
}

/// The longest silence of each writer that ends after `since`, counted from then; sorted.
fn silences(writers: &[Seen], since: Instant) -> Vec<std::time::Duration> {
    let first = |seen: &Seen| seen.writes.iter().find(|at| **at > since).map(|at| *at - since);
    let mut all: Vec<_> = writers.iter().map(|seen| first(seen).expect("it wrote again")).collect();
    all.sort();
    all
}

fn sum(all: &[Seen]) -> BTreeMap<&'static str, u32> {
    let mut errors = BTreeMap::new();
    for (kind, count) in all.iter().flat_map(|seen| &seen.errors) {
        *errors.entry(*kind).or_default() += count;
    }
    errors
}

/// Takes the primary away in a certain manner, promotes the standby, and judges what the load met.
async fn fail_over(
    ground: Ground,
    manner: &str,
    take_away: impl FnOnce(&Ground),
    limit: std::time::Duration,
) {
    let mut events = ground.pool.events();
    let load = Load::on(&ground.pool);
    load.goes_on().await;
    let lost = Instant::now();
    take_away(&ground);
    standby(&ground.db).promote().await.unwrap();
    let promoted = Instant::now();
    load.goes_on().await;
    let (writers, readers) = load.end().await;
    let after = silences(&writers, promoted);
    let errors = (sum(&writers), sum(&readers));
    let acknowledged: HashSet<_> = writers.iter().flat_map(|seen| &seen.acknowledged).copied().collect();
    let rows = standby(&ground.db).sql(ground.db.name(), "SELECT writer, n FROM log").await.unwrap();
    let number = |cell: &Option<String>| cell.as_deref().unwrap().parse::<i32>().unwrap();
    let kept: HashSet<_> = rows.iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
    assert_eq!(kept.len(), rows.len(), "something was written twice");
    let missing: Vec<_> = acknowledged.difference(&kept).collect();
    let longest_read = readers.iter().map(|seen| seen.longest_read).max().unwrap();
    eprintln!(
        "{manner}: promoted {:?} after the loss; first write {:?} later, the last writer's {:?}; {} acknowledged, {} lost; errors of writers {:?}, of readers {:?}; longest read {longest_read:?}",
        promoted - lost,
        after[0],
        after[7],
        acknowledged.len(),
        missing.len(),
        errors.0,
        errors.1,
    );
    assert!(missing.is_empty(), "{missing:?}");
    assert!(after[7] < limit, "{:?}", after);
    let unexpected = errors.0.keys().any(|kind| *kind != "outcome unknown");
    assert!(!unexpected && errors.1.is_empty(), "{errors:?}");
    assert!(errors.0.values().sum::<u32>() <= 8, "at most the COMMIT under way of each writer: {errors:?}");
    primary_is(&ground.pool, "standby").await;
    let mut changed = 0;
    while let Ok(Some(event)) = tokio::time::timeout(millis(100), events.next()).await {
        if let PoolEvent::PrimaryChanged { from, to, timeline } = event {
            assert_eq!((from.as_str(), to.as_str(), timeline), ("primary", "standby", 2));
            changed += 1;
        }
    }
    assert_eq!(changed, 1, "told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_and_nothing_acknowledged_is_lost() {
    let limit = millis(2500);
    fail_over(ground().await, "killed", |ground| ground.db.primary().kill().unwrap(), limit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_falls_silent_is_replaced_and_nothing_acknowledged_is_lost() {
    // It lives on, unseen: what is sent there gets no answer, and no refusal either.
    let limit = millis(5000);
    fail_over(ground().await, "black hole", |ground| ground.proxy.black_hole(true), limit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_primary_that_comes_back_is_not_written_to() {
    let db = stack(false).await;
    let pool = both(&db, db.url()).connect().await.unwrap();
    let mut events = pool.events();
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let token = pool.read_token().await.unwrap();
    wait_for("the table at the standby", SOON, async || pool.read_after(&token).await.unwrap().is_replica())
        .await;
    db.primary().kill().unwrap();
    standby(&db).promote().await.unwrap();
    primary_is(&pool, "standby").await;
    sqlx::query("INSERT INTO t VALUES (1)").execute(&pool.primary()).await.unwrap();
    db.primary().restart().await.unwrap();
    wait_for("it to be seen", SOON, async || pool.load_balancer()[1].state == HostState::Writable).await;
    for n in 2..50 {
        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&pool.primary()).await.unwrap();
        assert_eq!(pool.read().await.unwrap().host(), "standby", "nor read from");
    }
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "0", "at the former primary");
    let state = async {
        loop {
            if let PoolEvent::HostState { host, to: HostState::Writable, .. } = events.next().await.unwrap() {
                return host;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, state).await.unwrap(), "primary");
    // A service that starts now finds the right one too, whatever its settings say.
    let late = both(&db, db.url()).connect().await.unwrap();
    assert_eq!(late.write().await.unwrap().host(), "standby");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_the_former_primary_end_when_two_take_writes() {
    let db = stack(false).await;
    let pool = both(&db, db.url()).connect().await.unwrap();
    let mut events = pool.events();
    let mut idle = pool.write().await.unwrap();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    let mut busy = pool.write().await.unwrap();
    let asleep =
        tokio::spawn(async move { sqlx::query("SELECT pg_sleep(20)").execute(&mut busy).await.map(drop) });
    let began = Instant::now();
    // The old one is in perfect health.
    standby(&db).promote().await.unwrap();
    primary_is(&pool, "standby").await;
    let error = asleep.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("may have run there"), "{error}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let error = sqlx::query("SELECT 1").execute(&mut idle).await.unwrap_err();
    assert!(error.to_string().contains("was not sent"), "{error}");
    let error: Error = sqlx::query("SELECT 1").execute(&mut tx).await.unwrap_err().into();
    assert!(matches!(error, Error::PrimaryChanged { sent: false, .. }) && error.is_retryable(), "{error:?}");
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::PrimaryChanged { sent: false, .. }), "{error:?}");
    drop(idle);
    wait_idle(&pool, "every permit back").await;
    let mut told = Vec::new();
    while !told.iter().any(|event| matches!(event, PoolEvent::TwoPrimaries { kept, refused } if kept == "standby" && refused == "primary")) {
        told.push(tokio::time::timeout(SOON, events.next()).await.expect("told").unwrap());
    }
    sqlx::query("CREATE TABLE t ()").execute(&pool.primary()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_token_of_the_new_history_is_not_sent_to_the_former_primary() {
    let db = stack(false).await;
    db.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (0)").await.unwrap();
    let quick = both(&db, db.url()).connect().await.unwrap();
    // It looks so seldom that it does not notice by itself.
    let seldom = Config { probe_interval: std::time::Duration::from_secs(3600), ..both(&db, db.url()) };
    let seldom = seldom.connect().await.unwrap();
    assert_eq!(seldom.write().await.unwrap().host(), "primary");
    standby(&db).promote().await.unwrap();
    primary_is(&quick, "standby").await;
    let mut tx = quick.begin(Default::default()).await.unwrap();
    sqlx::query("UPDATE t SET n = 1").execute(&mut tx).await.unwrap();
    let token = tx.commit().await.unwrap();
    let mut session = seldom.read_after(&token).deadline(Deadline::after(SOON)).await.unwrap();
    let n: i32 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut session).await.unwrap();
    assert_eq!((n, session.host()), (1, "standby"), "stale");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_failover_a_promoted_replica_is_only_told() {
    let db = stack(false).await;
    let pool = Config { failover: false, ..both(&db, db.url()) }.connect().await.unwrap();
    standby(&db).promote().await.unwrap();
    standby_is(&pool, HostState::Writable).await;
    assert_eq!(pool.write().await.unwrap().host(), "primary");
    assert_eq!(pool.read().await.unwrap().host(), "primary");
    let explained = pool.route_explain(None);
    assert_eq!(explained.goes_to, "primary");
    assert!(explained.hosts[1].refusal.as_deref().unwrap().contains("Writable"), "{explained:?}");
}
