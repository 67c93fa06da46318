//! Sessions held for too long: what is told about them, and what is taken back.

use crate::support::*;
use local_stack::wait_for;
use postgres_pool_manager::{Config, Error, EventStream, PoolEvent, Session, sqlx};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::task::JoinSet;
use tracing::Instrument;

async fn next(events: &mut EventStream) -> PoolEvent {
    tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap()
}

async fn echo(session: &mut Session, n: i32) -> Result<i32, Error> {
    sqlx::query_scalar("SELECT $1::int").bind(n).fetch_one(session).await.map_err(Error::from)
}

#[tokio::test]
async fn a_session_held_for_long_is_reported() {
    let db = database().await;
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    let _log = tracing::subscriber::set_default(subscriber);
    let settings = Config { leak_threshold: Some(millis(20)), ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    let mut events = pool.events();
    let (span, line) = (tracing::info_span!("checkout", order = 7), line!() + 1);
    let mut held = pool.write().instrument(span.clone()).await.unwrap();
    let here = format!("{}:{line}:", file!());
    sqlx::query("SELECT 'a secret', $1 -- why").bind(1).execute(&mut held).await.unwrap();
    wait_for("the leak in the statistics", SOON, async || pool.pool_stats().leaks == 1).await;
    let PoolEvent::SessionHeld { host, taken_at, span: name, statement, held_ms } = next(&mut events).await
    else {
        panic!("another event")
    };
    assert_eq!(
        (host.as_str(), name, statement.as_deref()),
        ("primary", Some("checkout"), Some("SELECT ?, $1"))
    );
    assert!(taken_at.starts_with(&here) && held_ms >= 20, "{taken_at}, {held_ms} ms");
    let text = log.text();
    for part in ["checkout{order=7}", "held beyond the leak threshold host=primary", &here, "SELECT ?, $1"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    drop((held, span));
    assert_eq!(pool.pool_stats().leaks, 0);
    assert!(log.text().contains("came back"), "{}", log.text());
    let back = next(&mut events).await;
    assert!(
        matches!(&back, PoolEvent::SessionReturned { taken_at, .. } if taken_at.starts_with(&here)),
        "{back:?}"
    );
    // Reported once for each time: the next loan is another.
    drop(pool.write().await.unwrap());
    assert_eq!(log.text().matches("came back").count(), 1);
}

/// Held, forgotten for good, in the middle of a statement: each loses its connection, and the permit comes back once.
#[tokio::test]
async fn a_session_held_too_long_is_taken_back() {
    let db = database().await;
    let settings = Config { reclaim_after: Some(millis(300)), ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    let mut events = pool.events();
    let (mut held, line) = (pool.write().await.unwrap(), line!());
    let here = format!("{}:{line}:", file!());
    let first = backend(&mut held).await;
    // Waits for the permit of a session that still exists.
    let mut other = pool.write().await.unwrap();
    assert_ne!(backend(&mut other).await, first);
    let error = echo(&mut held, 1).await.unwrap_err();
    let Error::Reclaimed { taken_at } = &error else { panic!("{error:?}") };
    assert!(taken_at.to_string().starts_with(&here), "{taken_at}");
    assert!(error.to_string().contains(&here) && !error.is_retryable(), "{error}");
    let event = next(&mut events).await;
    assert!(
        matches!(&event, PoolEvent::SessionReclaimed { taken_at, statement: Some(sql), .. }
            if taken_at.starts_with(&here) && sql == "SELECT pg_backend_pid()"),
        "{event:?}"
    );
    assert_eq!(scalar(&db, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {first}")).await, "0");
    drop(held);
    assert_eq!((pool.pool_stats().active_connections, pool.pool_stats().discarded_total), (1, 1));
    drop(other);
    assert_eq!((pool.pool_stats().active_connections, pool.pool_stats().idle), (0, 1));
    std::mem::forget(pool.write().await.unwrap());
    let mut busy = pool.write().await.unwrap();
    let error = Error::from(sqlx::query("SELECT pg_sleep(30)").execute(&mut busy).await.unwrap_err());
    assert!(matches!(error, Error::Reclaimed { .. }), "{error:?}");
    let mut again = pool.write().await.unwrap();
    assert_eq!(echo(&mut again, 7).await.unwrap(), 7);
    drop((busy, again));
    wait_idle(&pool, "every permit back").await;
    assert_eq!(pool.pool_stats().discarded_total, 3);
}

#[tokio::test]
async fn what_is_taken_back_from_a_silent_server_frees_its_permit_too() {
    let (pool, proxy, _db) = proxied(|config| config.reclaim_after = Some(millis(100))).await;
    let held = pool.write().await.unwrap();
    proxy.black_hole(true);
    wait_for("the permit back", SOON, async || pool.pool_stats().active_connections == 0).await;
    drop(held);
    assert_eq!(pool.pool_stats().active_connections, 0);
    proxy.heal();
    let mut session = pool.write().await.unwrap();
    assert_eq!(echo(&mut session, 7).await.unwrap(), 7);
}

#[tokio::test]
async fn a_commit_under_way_is_not_taken_back() {
    let db = database().await;
    let settings = Config { reclaim_after: Some(millis(1000)), ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    db.sql("CREATE TABLE t (n int)").await.unwrap();
    let mut tx = pool.begin(Default::default()).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    tx.before_commit("SELECT pg_sleep(2.5)");
    tx.commit().await.unwrap();
    // Before it was begun there is nothing to be left to its end.
    let tx = pool.begin(Default::default()).await.unwrap();
    wait_for("taken back", SOON, async || pool.pool_stats().active_connections == 0).await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, Error::Reclaimed { .. }), "{error:?}");
    assert_eq!(scalar(&db, "SELECT count(*) FROM t").await, "1");
}

/// Sessions that come back about when they are taken back: one of the two frees the permit, never both, never neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coming_back_and_being_taken_back_free_one_permit() {
    const SIZE: u32 = 8;
    let db = database().await;
    let settings =
        Config { reclaim_after: Some(millis(100)), leak_threshold: None, ..config(db.url(), SIZE) };
    let pool = settings.connect().await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..48_u64 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let session = pool.write().await.unwrap();
            tokio::time::sleep(Duration::from_millis(60 + n * 37 % 500)).await;
            drop(session);
        });
    }
    tasks.join_all().await;
    wait_idle(&pool, "every permit back").await;
    let taken_back = pool.pool_stats().discarded_total;
    eprintln!("48 sessions, {taken_back} taken back");
    assert!((1..48).contains(&taken_back), "{taken_back}");
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'database-services'";
    wait_for("as many at the server as here", SOON, async || {
        scalar(&db, connected).await == pool.pool_stats().idle.to_string()
    })
    .await;
    // All of them are still there to be had.
    let all = futures_util::future::join_all((0..SIZE).map(|_| pool.write())).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

/// What was logged, on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
