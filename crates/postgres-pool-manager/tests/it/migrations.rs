//! The migrator: once, in order, one at a time, and never over a history that it does not know.

use crate::support::*;
use postgres_pool_manager::{
    Error, MigrateOptions, Migration, MigrationError, MigrationReport, MigrationSet, PostgresPoolManager,
};
use resilience::Deadline;

const THINGS: Migration = Migration {
    version: 1,
    name: "things",
    sql: "CREATE TABLE {schema}.things (id bigserial PRIMARY KEY, name text); CREATE INDEX ON {schema}.things (name)",
};
const MORE: Migration = Migration { version: 2, name: "more", sql: "CREATE TABLE {schema}.more (n int)" };
const FIRST: &[Migration] = &[THINGS];
const BOTH: &[Migration] = &[THINGS, MORE];

pub(crate) const SETS: &[MigrationSet] = &[MigrationSet { component: "tests", migrations: FIRST }];

pub(crate) async fn migrate(
    pool: &PostgresPoolManager,
    sets: &[MigrationSet],
) -> Result<MigrationReport, Error> {
    pool.migrate(sets, MigrateOptions::default()).await
}

fn set(migrations: &'static [Migration]) -> [MigrationSet; 1] {
    [MigrationSet { component: "tests", migrations }]
}

fn refusal(result: Result<MigrationReport, Error>) -> MigrationError {
    match result.unwrap_err() {
        Error::Migration(e) => e,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn it_runs_what_is_new_and_nothing_twice() {
    let (pool, db) = pool(1).await;
    let plan = MigrateOptions { dry_run: true, ..MigrateOptions::default() };
    let planned = pool.migrate(&set(BOTH), plan).await.unwrap();
    assert_eq!((planned.applied.len(), planned.dry_run), (2, true));
    assert_eq!(
        scalar(&db, "SELECT to_regnamespace('database_services') IS NULL").await,
        "t",
        "nothing was done"
    );
    assert_eq!(migrate(&pool, &set(FIRST)).await.unwrap().applied.len(), 1);
    let second = migrate(&pool, &set(BOTH)).await.unwrap();
    assert_eq!((second.applied[0].version, second.already_applied[0].version), (2, 1));
    assert!(migrate(&pool, &set(BOTH)).await.unwrap().applied.is_empty());
    assert_eq!(scalar(&db, "SELECT count(*) FROM database_services.migrations").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_migrators_at_once_take_turns() {
    let (first, db) = pool(1).await;
    let second = config(db.url(), 1).connect().await.unwrap();
    let sets = set(BOTH);
    let (a, b) = tokio::join!(migrate(&first, &sets), migrate(&second, &sets));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(
        (a.applied.len() + b.applied.len(), a.already_applied.len() + b.already_applied.len()),
        (2, 2)
    );
}

#[tokio::test]
async fn a_lock_that_is_held_is_waited_for_until_the_deadline() {
    let (pool, _db) = pool(2).await;
    let mut holder = pool.write().await.unwrap();
    let lock = "SELECT pg_advisory_lock(hashtextextended('migrate database_services', 0))";
    postgres_pool_manager::sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    // Long enough to connect on a busy machine: what ends it has to be the lock.
    let options = MigrateOptions { deadline: Deadline::after(millis(3000)), ..MigrateOptions::default() };
    let refused = refusal(pool.migrate(SETS, options).await);
    assert!(matches!(refused, MigrationError::Locked { .. }), "{refused}");
}

#[tokio::test]
async fn an_unknown_or_changed_history_is_refused() {
    let (pool, db) = pool(1).await;
    const CHANGED: &[Migration] = &[Migration { sql: "SELECT 1", ..THINGS }];
    const LATE: &[Migration] = &[Migration { version: 0, ..THINGS }, THINGS, MORE];
    const TWICE: &[Migration] = &[THINGS, THINGS];
    migrate(&pool, &set(BOTH)).await.unwrap();
    assert!(matches!(
        refusal(migrate(&pool, &set(FIRST)).await),
        MigrationError::Newer { server: 2, known: 1, .. }
    ));
    assert!(matches!(refusal(migrate(&pool, &set(LATE)).await), MigrationError::Skipped { version: 0, .. }));
    assert!(matches!(
        refusal(migrate(&pool, &set(TWICE)).await),
        MigrationError::Disordered { version: 1, .. }
    ));
    db.sql("DELETE FROM database_services.migrations WHERE version = 2").await.unwrap();
    let changed = refusal(migrate(&pool, &set(CHANGED)).await);
    assert!(matches!(changed, MigrationError::Changed { version: 1, .. }), "{changed}");
}

#[tokio::test]
async fn a_failing_migration_leaves_no_trace_and_those_before_it_stand() {
    let (pool, db) = pool(1).await;
    const BROKEN: &[Migration] =
        &[THINGS, Migration { version: 2, name: "broken", sql: "CREATE TABLE {schema}.half (); SELECT 1/0" }];
    let failed = refusal(migrate(&pool, &set(BROKEN)).await);
    assert!(failed.to_string().contains("tests 2 (broken)"), "{failed}");
    assert_eq!(scalar(&db, "SELECT max(version) FROM database_services.migrations").await, "1");
    assert_eq!(scalar(&db, "SELECT to_regclass('database_services.half') IS NULL").await, "t");
}
