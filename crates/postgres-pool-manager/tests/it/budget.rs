//! The fleet's budget: instances in one process and in several, against a server that counts.

use crate::{migrations, support::*};
use local_stack::{Database, FaultProxy, PostgresOptions, Stack, wait_for};
use postgres_pool_manager::{Config, PoolEvent, PostgresPoolManager, migrations as own, sqlx};
use resilience::Deadline;
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// 36 of 40, of which 3 are kept back.
const BUDGET: u32 = 36;
const USABLE: u32 = 33;
/// The prober's and the keeper's.
const BESIDE: u32 = 2;
const LEASE: Duration = Duration::from_secs(4);
/// A look, the end of what is in use, another look, on a busy machine.
const ADJUSTED: Duration = Duration::from_secs(20);

fn member(url: String, name: &str) -> Config {
    Config {
        max_overflow: 30,
        fleet_budget: Some(BUDGET),
        fleet_lease: LEASE,
        application_name: format!("fleet-{name}"),
        acquire_timeout: Duration::from_secs(60),
        ..config(url, 10)
    }
}

async fn migrated(db: &Database) {
    let pool = config(db.url(), 1).connect().await.unwrap();
    migrations::migrate(&pool, &[own()]).await.unwrap();
    pool.shutdown(SOON).await;
}

fn share(pool: &PostgresPoolManager) -> u32 {
    pool.fleet_budget().unwrap().share
}

/// Statements without end, from more callers than there are connections.
struct Load(JoinSet<()>);

impl Load {
    fn on(pool: &PostgresPoolManager, callers: usize) -> Self {
        Self::bearing(pool, callers, false)
    }

    /// `faults`: whether statements may fail, as they do when their connections are cut.
    fn bearing(pool: &PostgresPoolManager, callers: usize, faults: bool) -> Self {
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let pool = pool.clone();
            tasks.spawn(async move {
                loop {
                    let mut session = pool.write().await.unwrap();
                    let done = sqlx::query("SELECT pg_sleep(0.02)").execute(&mut session).await;
                    assert!(done.is_ok() || faults, "{done:?}");
                }
            });
        }
        Self(tasks)
    }

    async fn end(mut self) {
        while let Some(ended) = self.0.try_join_next() {
            ended.unwrap();
        }
        self.0.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_leave_is_taken_and_given_back_when_they_need_it() {
    let db = database().await;
    migrated(&db).await;
    let first = member(db.url(), "first").connect().await.unwrap();
    let mut events = first.events();
    assert_eq!(share(&first), USABLE, "alone it may have nearly everything at once");
    assert_eq!(first.pool_stats().max_connections, USABLE - BESIDE);
    let second = member(db.url(), "second").connect().await.unwrap();
    // At rest it lacks no more than half of an equal share.
    wait_for("the second one's part", ADJUSTED, async || share(&second) >= USABLE / 4).await;
    let told = Deadline::after(SOON).run(events.next()).await.unwrap();
    assert!(matches!(told, Some(PoolEvent::BudgetShare { budget: BUDGET, .. })), "{told:?}");
    let load = Load::on(&first, 40);
    wait_for("the first one uses what the second leaves", ADJUSTED, async || {
        first.pool_stats().active_connections >= USABLE / 2 + 3
    })
    .await;
    let other = Load::on(&second, 40);
    wait_for("both have their half", ADJUSTED, async || {
        (15..=17).contains(&share(&first)) && (15..=17).contains(&share(&second))
    })
    .await;
    wait_for("and use it", ADJUSTED, async || {
        second.pool_stats().active_connections >= 12 && first.pool_stats().active_connections <= 15
    })
    .await;
    let (one, two) = (first.fleet_budget().unwrap(), second.fleet_budget().unwrap());
    assert!(one.share + two.share <= USABLE && one.instances == 2, "{one:?} {two:?}");
    // A new size is a new wish; the share stays the limit.
    second.resize(5, 0).unwrap();
    wait_for("what the second no longer wants", ADJUSTED, async || share(&first) >= USABLE - 5 - BESIDE)
        .await;
    load.end().await;
    other.end().await;
    second.shutdown(SOON).await;
    wait_for("everything again", LEASE / 2, async || share(&first) == USABLE).await;
    assert_eq!(scalar(&db, "SELECT count(*) FROM database_services.connection_leases").await, "1");
    first.shutdown(SOON).await;
    assert_eq!(scalar(&db, "SELECT count(*) FROM database_services.connection_leases").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_table_it_makes_do_and_finds_it_when_it_is_there() {
    let db = database().await;
    let pool = member(db.url(), "early").connect().await.unwrap();
    assert_eq!(pool.pool_stats().max_connections, 2);
    assert!(pool.fleet_budget().unwrap().error.unwrap().contains("connection_leases"));
    backend(&mut pool.write().await.unwrap()).await;
    migrations::migrate(&pool, &[own()]).await.unwrap();
    wait_for("its share", SOON, async || share(&pool) == USABLE).await;
    assert_eq!(pool.fleet_budget().unwrap().error, None);
    // What is opened beside the pool is part of the share.
    let direct = pool.open_direct(Deadline::after(SOON)).await.unwrap();
    assert_eq!(pool.pool_stats().max_connections, USABLE - BESIDE - 1);
    drop(direct);
    assert_eq!(pool.pool_stats().max_connections, USABLE - BESIDE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgres_is_away_everyone_keeps_what_it_has() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).start().await.unwrap();
    let db = stack.database().await.unwrap();
    migrated(&db).await;
    let first = member(db.url(), "first").connect().await.unwrap();
    let second = member(db.url(), "second").connect().await.unwrap();
    wait_for("two shares", ADJUSTED, async || share(&second) >= USABLE / 4).await;
    let before = (share(&first), share(&second));
    db.primary().kill().unwrap();
    wait_for("it is missed", ADJUSTED, async || {
        first.fleet_budget().unwrap().error.is_some() && second.fleet_budget().unwrap().error.is_some()
    })
    .await;
    assert_eq!((share(&first), share(&second)), before);
    // For longer than a lease: nobody's can have been renewed, and nobody's is taken.
    let killed = Instant::now();
    wait_for("longer than a lease", ADJUSTED, async || killed.elapsed() > LEASE + LEASE / 2).await;
    db.primary().restart().await.unwrap();
    wait_for("both are back", ADJUSTED, async || {
        first.fleet_budget().unwrap().error.is_none() && second.fleet_budget().unwrap().error.is_none()
    })
    .await;
    for _ in 0..20 {
        assert!(share(&first) + share(&second) <= USABLE, "{} + {}", share(&first), share(&second));
        sqlx::query("SELECT 1").execute(&first.primary()).await.unwrap();
        sqlx::query("SELECT 1").execute(&second.primary()).await.unwrap();
    }
    wait_for("two shares again", ADJUSTED, async || {
        share(&first) + share(&second) == USABLE && share(&second) >= USABLE / 4
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_cut_off_for_longer_than_its_lease_comes_back_within_the_budget() {
    let options = PostgresOptions { max_connections: 40, ..PostgresOptions::default() };
    let stack = Stack::builder().postgres(options).start().await.unwrap();
    let db = stack.database().await.unwrap();
    migrated(&db).await;
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    let away = member(db.url_via(proxy.addr()), "away").connect().await.unwrap();
    let near = member(db.url(), "near").connect().await.unwrap();
    let (lost, load) = (Load::bearing(&away, 40, true), Load::on(&near, 40));
    wait_for("both have their half", ADJUSTED, async || share(&away) >= 15 && share(&near) >= 15).await;
    proxy.refuse(true);
    proxy.cut();
    wait_for("the other one has everything", LEASE + ADJUSTED, async || share(&near) == USABLE).await;
    assert!(share(&away) <= 17, "it keeps what it had, at most");
    proxy.heal();
    wait_for("both have their half again", ADJUSTED, async || {
        let open = away.pool_stats().active_connections;
        (15..=17).contains(&share(&away)) && (15..=17).contains(&share(&near)) && open >= 12
    })
    .await;
    assert_eq!(refusals(&db), 0, "the server refused somebody");
    load.end().await;
    lost.end().await;
}

/// How often the server had no connection left.
fn refusals(db: &Database) -> usize {
    let log = db.primary().log();
    ["too many clients", "remaining connection slots"].map(|words| log.matches(words).count()).iter().sum()
}

/// One instance under load, alone on its server; or, told so by its parent, a member of the fleet below until it is
/// killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_alone_grows_to_nearly_everything() {
    if let (Ok(url), Ok(name)) = (std::env::var("FLEET_URL"), std::env::var("FLEET_NAME")) {
        let pool = member(url, &name).connect().await.unwrap();
        let load = Load::on(&pool, 40);
        // The parent's end is ours: its pipe closes.
        let parent = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
        parent.await.unwrap().unwrap();
        return load.end().await;
    }
    let db = database().await;
    migrated(&db).await;
    let pool = member(db.url(), "alone").connect().await.unwrap();
    let load = Load::on(&pool, 40);
    wait_for("nearly everything in use", ADJUSTED, async || {
        pool.pool_stats().active_connections == USABLE - BESIDE
    })
    .await;
    load.end().await;
}

/// A member of the fleet in a process of its own.
struct Member {
    process: Child,
    name: String,
}

impl Member {
    fn start(url: &str, name: &str) -> Self {
        let test = "budget::one_instance_alone_grows_to_nearly_everything";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact"]).env("FLEET_URL", url).env("FLEET_NAME", name);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().unwrap(), name: name.to_owned() }
    }

    /// As a crash would: SIGKILL.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How many connections each member has, as the server counts.
async fn counted(db: &Database, members: &[&Member]) -> Vec<usize> {
    let sql = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'fleet-%'";
    let names: Vec<_> = db.sql(sql).await.unwrap().into_iter().flatten().flatten().collect();
    members.iter().map(|m| names.iter().filter(|n| **n == format!("fleet-{}", m.name)).count()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_are_never_refused_by_a_server_of_forty() {
    let options = PostgresOptions { max_connections: 40, ..PostgresOptions::default() };
    let stack = Stack::builder().postgres(options).start().await.unwrap();
    let db = stack.database().await.unwrap();
    migrated(&db).await;
    // Ordinary users: of forty connections three are the superuser's.
    db.sql(
        "CREATE ROLE fleet LOGIN PASSWORD 'f'; GRANT USAGE ON SCHEMA database_services TO fleet; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA database_services TO fleet",
    )
    .await
    .unwrap();
    let url = db.primary().url_as("fleet", "f", db.name());
    let mut most = 0;
    let started = Instant::now();
    let start = |n: u32| Member::start(&url, &n.to_string());
    let (mut a, b, c, d) = (start(1), start(2), start(3), start(4));
    let fair = async |members: &[&Member], at_least: usize, most: &mut usize| {
        let counts = counted(&db, members).await;
        *most = (*most).max(counts.iter().sum());
        counts.iter().all(|count| *count >= at_least)
    };
    wait_for("each of four has its part", ADJUSTED, async || fair(&[&a, &b, &c, &d], 6, &mut most).await)
        .await;
    println!("four members share after {:?}: {:?}", started.elapsed(), counted(&db, &[&a, &b, &c, &d]).await);
    a.kill();
    let killed = Instant::now();
    wait_for("the three others have the dead one's part", LEASE + ADJUSTED, async || {
        fair(&[&b, &c, &d], 9, &mut most).await
    })
    .await;
    println!(
        "the dead one's part is in use after {:?}: {:?}",
        killed.elapsed(),
        counted(&db, &[&b, &c, &d]).await
    );
    let e = start(5);
    let joined = Instant::now();
    wait_for("the new one has its part", ADJUSTED, async || fair(&[&b, &c, &d, &e], 6, &mut most).await)
        .await;
    println!(
        "a new one has its part after {:?}: {:?}",
        joined.elapsed(),
        counted(&db, &[&b, &c, &d, &e]).await
    );
    drop((b, c, d));
    let alone = Instant::now();
    wait_for("the last one has nearly everything", LEASE + ADJUSTED, async || {
        fair(&[&e], 30, &mut most).await
    })
    .await;
    println!("the last one has everything after {:?}: {:?}", alone.elapsed(), counted(&db, &[&e]).await);
    drop(e);
    println!("most at once {most} of 40, refused {}", refusals(&db));
    assert_eq!(refusals(&db), 0, "the server refused somebody");
    assert!((30..=BUDGET as usize).contains(&most), "{most}");
}
