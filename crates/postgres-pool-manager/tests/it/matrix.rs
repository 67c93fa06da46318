//! Every await of a session's life, dropped exactly there: after its first poll, its second, and so on to its end, once
//! at the very moment it begins to wait and once when its wake-up has come and nobody looked. What crosses the network
//! comes in pieces, so that each read and write really waits. Random drops are in `cancel`.

#![allow(clippy::async_yields_async, reason = "what is made here is polled by hand")]

use crate::support::*;
use futures_util::TryStreamExt;
use local_stack::{Database, FaultProxy, wait_for};
use postgres_pool_manager::{
    CommitOutcome, Config, Error, PostgresPoolManager, Session, TransactionError, Tx, sqlx,
};
use sqlx::AssertSqlSafe;
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Instant,
};

const SIZE: u32 = 2;

/// Bytes a second, for answers that are long and short: some fifty, or seven, every twenty milliseconds.
const TRICKLE: u64 = 2_500;
const DRIP: u64 = 350;

/// When a future is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drop {
    /// When its last poll has left it waiting.
    AtOnce,
    /// When what it waits for has come, before it is polled for it.
    WhenWoken,
}

/// Polls a future so many times and drops it; `None`: it had not ended by then.
struct Polled<F> {
    future: Pin<Box<F>>,
    left: u32,
    when: Drop,
}

impl<F: Future> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 && self.when == Drop::AtOnce => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// One drop: which statement of the table it is about, and after how many polls it comes.
#[derive(Clone, Copy)]
struct Turn {
    id: i32,
    polls: u32,
    ended: bool,
}

struct Bench {
    pool: PostgresPoolManager,
    proxy: FaultProxy,
    db: Database,
    next: i32,
    drops: u32,
    points: u32,
}

impl Bench {
    async fn new(settings: impl FnOnce(&mut Config)) -> Self {
        let (pool, proxy, db) = proxied(|config| {
            config.size = SIZE;
            settings(config);
        })
        .await;
        db.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TYPE mood AS ENUM ('glad', 'sad')")
            .await
            .unwrap();
        Self { pool, proxy, db, next: 0, drops: 0, points: 0 }
    }

    /// Drops what `make` gives at each of its awaits; `look` is what has to hold afterwards.
    async fn exhaust<F: Future>(
        &mut self,
        (phase, rate): (&str, u64),
        mut make: impl AsyncFnMut(PostgresPoolManager, i32) -> F,
        mut look: impl AsyncFnMut(&Database, Turn),
    ) {
        let (mut drops, mut points) = (0, 0);
        for when in [Drop::AtOnce, Drop::WhenWoken] {
            for polls in 0.. {
                self.next += 1;
                let future = Box::pin(make(self.pool.clone(), self.next).await);
                self.proxy.throttle(rate);
                let ended = Polled { future, left: polls, when }.await.is_some();
                self.proxy.heal();
                self.whole(phase).await;
                look(&self.db, Turn { id: self.next, polls, ended }).await;
                if ended {
                    break;
                }
                drops += 1;
                points = points.max(polls);
            }
        }
        eprintln!("{phase}: {drops} drops at {points} points");
        assert!(points > 0, "{phase} never waited");
        self.drops += drops;
        self.points += points;
    }

    /// Every permit is back, every connection gives its own answers, nothing is open at the server.
    async fn whole(&self, phase: &str) {
        wait_idle(&self.pool, phase).await;
        let mut sessions = Vec::new();
        for _ in 0..SIZE {
            sessions.push(self.pool.write().await.unwrap());
        }
        for (n, session) in sessions.iter_mut().enumerate() {
            assert_eq!(echo(session, n as i32).await, n as i32, "{phase}");
        }
        let stats = self.pool.pool_stats();
        assert_eq!(
            (stats.active_connections, stats.idle, stats.connection_queue_size),
            (SIZE, 0, 0),
            "{phase}"
        );
        wait_for("nothing open at the server", SOON, async || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
            scalar(&self.db, open).await == "0"
        })
        .await;
    }
}

async fn echo(session: &mut Session, n: i32) -> i32 {
    sqlx::query_scalar("SELECT $1::int").bind(n).fetch_one(session).await.unwrap()
}

/// Until whatever is idle now is due for its check, by a clock that is two milliseconds coarse.
async fn due() {
    let began = Instant::now();
    wait_for("due for a check", SOON, async || began.elapsed() > millis(10)).await;
}

async fn nothing_more(_: &Database, _: Turn) {}

async fn rows(db: &Database, id: i32) -> String {
    scalar(db, &format!("SELECT count(*) FROM t WHERE id = {id}")).await
}

/// A transaction that has written its row.
async fn written(pool: &PostgresPoolManager, id: i32) -> Tx {
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES ($1)").bind(id).execute(&mut tx).await.unwrap();
    tx
}

/// Queue, connect and check: an acquisition at each of its waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acquisition_dropped_at_any_await() {
    let mut bench = Bench::new(|settings| settings.check_after_idle = millis(0)).await;
    let queue = async |pool: PostgresPoolManager, _| {
        let held = (pool.write().await.unwrap(), pool.write().await.unwrap());
        tokio::spawn(async move {
            // After the first poll, which queues; how long after makes no difference to whoever is dropped.
            tokio::time::sleep(millis(10)).await;
            drop(held);
        });
        async move { pool.write().await.map(drop) }
    };
    bench.exhaust(("queue", TRICKLE), queue, nothing_more).await;
    let connect = async |pool: PostgresPoolManager, _| {
        let mut both = [pool.write().await.unwrap(), pool.write().await.unwrap()];
        for session in &mut both {
            // Lost: given up, so that the next caller needs a new one.
            sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(session).await.unwrap_err();
        }
        drop(both);
        async move { pool.write().await.map(drop) }
    };
    bench.exhaust(("connect", TRICKLE), connect, nothing_more).await;
    let check = async |pool: PostgresPoolManager, _| {
        due().await;
        async move { pool.write().await.map(drop) }
    };
    bench.exhaust(("check", DRIP), check, nothing_more).await;
    eprintln!("acquisitions: {} drops at {} points", bench.drops, bench.points);
}

/// Prepared, with a type to be asked for, as text, as a stream; the session goes with its statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_dropped_at_any_await() {
    let mut bench = Bench::new(|_| {}).await;
    // A text of its own each time: prepared anew, and its type asked for on a new connection.
    let prepared = async |pool: PostgresPoolManager, id| {
        let mut session = pool.write().await.unwrap();
        async move {
            let sql = AssertSqlSafe(format!("SELECT 'glad'::mood, {id} + $1"));
            sqlx::query(sql).bind(id).fetch_all(&mut session).await.map(drop)
        }
    };
    bench.exhaust(("prepared", TRICKLE), prepared, nothing_more).await;
    let text = async |pool: PostgresPoolManager, _| {
        let mut session = pool.write().await.unwrap();
        async move { sqlx::raw_sql("SELECT repeat('x', 100); SELECT 1/0").execute(&mut session).await.map(drop) }
    };
    bench.exhaust(("text", TRICKLE), text, nothing_more).await;
    let stream = async |pool: PostgresPoolManager, _| async move {
        let primary = pool.primary();
        let mut rows = sqlx::query("SELECT repeat('x', 60) FROM generate_series(1, 8)").fetch(&primary);
        while rows.try_next().await?.is_some() {}
        Ok::<_, sqlx::Error>(())
    };
    bench.exhaust(("stream on a handle", TRICKLE), stream, nothing_more).await;
    let raw = async |pool: PostgresPoolManager, _| {
        let mut session = pool.write().await.unwrap();
        async move {
            let many = "BEGIN; SET work_mem = '1MB'; SELECT repeat('x', 200)";
            sqlx::raw_sql(many).execute(session.raw()).await.map(drop)
        }
    };
    bench.exhaust(("raw", TRICKLE), raw, nothing_more).await;
    eprintln!("statements: {} drops at {} points", bench.drops, bench.points);
}

/// The future goes, the session stays: its next statement gets its own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_each_of_its_dropped_statements() {
    let bench = Bench::new(|_| {}).await;
    let mut session = bench.pool.write().await.unwrap();
    let mut drops = 0;
    for when in [Drop::AtOnce, Drop::WhenWoken] {
        for left in 0.. {
            let sql = AssertSqlSafe(format!("SELECT 'sad'::mood, repeat('x', 80), {left} + $1"));
            bench.proxy.throttle(TRICKLE);
            let future = Box::pin(sqlx::query(sql).bind(left as i32).fetch_all(&mut session));
            let ended = Polled { future, left, when }.await.is_some();
            bench.proxy.heal();
            assert_eq!(echo(&mut session, 7).await, 7, "after {left} polls");
            if ended {
                break;
            }
            drops += 1;
        }
    }
    eprintln!("statements under a session that stays: {drops} drops");
    assert!(drops > 10, "{drops}");
    drop(session);
    bench.whole("a session that stayed").await;
    assert_eq!(bench.pool.pool_stats().discarded_total, 0, "it was clean all the time");
}

/// BEGIN and ROLLBACK: nothing was done. COMMIT: done as soon as it was begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_dropped_at_any_await() {
    let mut bench = Bench::new(|_| {}).await;
    let begin =
        async |pool: PostgresPoolManager, _| async move { pool.begin(Default::default()).await.map(drop) };
    bench.exhaust(("begin", DRIP), begin, nothing_more).await;
    let rollback = async |pool: PostgresPoolManager, id| written(&pool, id).await.rollback();
    let undone = async |db: &Database, turn: Turn| assert_eq!(rows(db, turn.id).await, "0");
    bench.exhaust(("rollback", DRIP), rollback, undone).await;
    let commit = async |pool: PostgresPoolManager, id| {
        let mut tx = written(&pool, id).await;
        tx.before_commit("SELECT repeat('x', 200)");
        tx.commit()
    };
    let done_if_begun = async |db: &Database, turn: Turn| {
        let expected = if turn.polls == 0 { "0" } else { "1" };
        assert_eq!(rows(db, turn.id).await, expected, "after {} polls, ended: {}", turn.polls, turn.ended);
    };
    bench.exhaust(("commit", TRICKLE), commit, done_if_begun).await;
    // Everything from acquisition to hook: the row is there if and only if the hook was told so.
    let told = Arc::new(Mutex::new(Vec::new()));
    let whole = async |pool: PostgresPoolManager, id| {
        let told = Arc::clone(&told);
        async move {
            let work = pool.transaction(Default::default(), |tx| {
                let told = Arc::clone(&told);
                Box::pin(async move {
                    sqlx::query("INSERT INTO t VALUES ($1)").bind(id).execute(&mut *tx).await?;
                    tx.on_commit(move |outcome| {
                        Box::pin(async move { told.lock().unwrap().push((id, outcome)) })
                    });
                    Ok(())
                })
            });
            let _: Result<(), TransactionError<sqlx::Error>> = work.await;
        }
    };
    let as_told = async |db: &Database, turn: Turn| {
        let told: Vec<_> = told.lock().unwrap().drain(..).collect();
        match told.as_slice() {
            [] => assert_eq!(rows(db, turn.id).await, "0"),
            [(id, CommitOutcome::Committed(_))] => {
                assert_eq!((*id, rows(db, turn.id).await.as_str()), (turn.id, "1"));
            }
            other => panic!("{other:?}"),
        }
    };
    bench.exhaust(("transaction", TRICKLE), whole, as_told).await;
    eprintln!("transactions: {} drops at {} points", bench.drops, bench.points);
}

/// The network goes with the caller: what the hook is told is true, or that nobody knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_dropped_and_cut_is_done_or_not_and_never_told_wrong() {
    // Idle connections are cut too: found out by their check, not by whoever looks.
    let bench = Bench::new(|settings| settings.check_after_idle = millis(0)).await;
    let (mut committed, mut unknown, mut undone) = (0, 0, 0);
    for polls in 0..24 {
        let mut tx = written(&bench.pool, polls).await;
        let (tell, told) = tokio::sync::oneshot::channel();
        tx.on_commit(|outcome| Box::pin(async move { tell.send(outcome).unwrap() }));
        bench.proxy.throttle(TRICKLE);
        let future = Box::pin(tx.commit());
        let ended = Polled { future, left: polls as u32, when: Drop::WhenWoken }.await;
        bench.proxy.cut();
        bench.proxy.heal();
        let told = told.await.ok();
        due().await;
        bench.whole("cut").await;
        let there = rows(&bench.db, polls).await == "1";
        match told {
            Some(CommitOutcome::Committed(_)) => {
                assert!(there, "told committed after {polls} polls");
                committed += 1;
            }
            Some(CommitOutcome::Unknown) => unknown += 1,
            None => {
                assert!(!there, "told nothing after {polls} polls, and it is there");
                undone += 1;
            }
        }
        if let Some(Err(error)) = ended {
            assert!(matches!(error, Error::OutcomeUnknown { .. } | Error::RolledBack { .. }), "{error:?}");
        }
    }
    eprintln!("commits cut: {committed} told committed, {unknown} unknown, {undone} not begun");
    assert!(committed > 0 && unknown > 0 && undone > 0, "{committed} {unknown} {undone}");
}
