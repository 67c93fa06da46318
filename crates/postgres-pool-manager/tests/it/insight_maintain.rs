//! Vacuum, analyze, reindex: of what is there, by whom it may be, within the caller's deadline.

use crate::{
    insight::{poor, soon},
    support::*,
};
use local_stack::wait_for;
use postgres_pool_manager::insight::{InsightError, Maintained, ReindexOptions, Target, VacuumOptions};
use resilience::Deadline;

fn table(name: &str) -> Target {
    name.parse().unwrap()
}

fn names(done: &Maintained) -> Vec<&str> {
    done.tables.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn a_table_or_a_schema_is_vacuumed_analyzed_and_reindexed() {
    let (pool, db) = pool(2).await;
    db.sql(
        "CREATE SCHEMA \"My s\"; CREATE TABLE \"My s\".\"T;--\" (id int) WITH (autovacuum_enabled = off); \
         CREATE TABLE \"My s\".u (id int PRIMARY KEY); CREATE MATERIALIZED VIEW \"My s\".m AS SELECT 1 AS a; \
         CREATE INDEX ti ON \"My s\".\"T;--\" (id); INSERT INTO \"My s\".\"T;--\" SELECT generate_series(1, 1000); \
         DELETE FROM \"My s\".\"T;--\"",
    )
    .await
    .unwrap();
    let (insight, mut told) = (pool.insight(), Vec::new());
    let one = table("\"My s\".\"T;--\"");
    let mut tell = |progress: postgres_pool_manager::insight::MaintenanceProgress| told.push(progress);
    let done = insight.vacuum(&one, &VacuumOptions::default(), soon(), &mut tell).await.unwrap();
    assert_eq!((names(&done), done.operation), (vec!["\"My s\".\"T;--\""], "VACUUM"));
    assert!(done.tables[0].1 >= 0.0 && done.skipped.is_empty());
    let vacuumed = "SELECT (last_vacuum IS NOT NULL) || '/' || (last_analyze IS NOT NULL) || '/' || n_dead_tup \
        FROM pg_stat_user_tables WHERE relname = 'T;--'";
    wait_for("the vacuum to be counted", SOON, async || scalar(&db, vacuumed).await == "true/true/0").await;
    let steps: Vec<_> = told.iter().map(|p| (p.done, p.total, p.table.is_empty())).collect();
    assert_eq!(steps, [(0, 1, false), (1, 1, true)]);

    let schema = Target::Schema("My s".into());
    assert_eq!(insight.analyze(&schema, soon(), &mut |_| {}).await.unwrap().tables.len(), 3);
    let file = "SELECT relfilenode FROM pg_class WHERE relname = 'ti'";
    let before = scalar(&db, file).await;
    for concurrently in [true, false] {
        let options = ReindexOptions { concurrently };
        let done = insight.reindex(&schema, &options, soon(), &mut |_| {}).await.unwrap();
        assert_eq!((done.tables.len(), done.invalid_indexes.len()), (3, 0), "{done:?}");
    }
    assert_ne!(scalar(&db, file).await, before, "built anew");
    let full = VacuumOptions { full: true, analyze: false };
    insight.vacuum(&one, &full, soon(), &mut |_| {}).await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_is_named_and_nothing_else_is_done() {
    let (pool, db) = pool(1).await;
    db.sql("CREATE TABLE victim (id int)").await.unwrap();
    let insight = pool.insight();
    for name in ["nowhere", "public.nowhere", "nowhere.victim", "\"victim; DROP TABLE victim\"", "VICTIM2"] {
        let error = insight.analyze(&table(name), soon(), &mut |_| {}).await.unwrap_err();
        assert!(matches!(&error, InsightError::UnknownObject { kind: "table", .. }), "{name}: {error}");
        assert!(error.to_string().contains(db.name()), "{error}");
    }
    for text in ["", "victim; DROP TABLE victim", "a.b.c", "a b", "'victim'", "victim\"", "1"] {
        assert!(text.parse::<Target>().is_err(), "{text}");
    }
    let schema = Target::Schema("nowhere".into());
    let error = insight.analyze(&schema, soon(), &mut |_| {}).await.unwrap_err();
    assert!(
        matches!(&error, InsightError::UnknownObject { kind: "schema", name, .. } if name == "nowhere"),
        "{error}"
    );
    assert_eq!(
        names(&insight.analyze(&table("Victim"), soon(), &mut |_| {}).await.unwrap()),
        ["public.victim"]
    );
}

#[tokio::test]
async fn a_table_of_another_owner_is_left_out_and_said() {
    let (pool, db) = pool(1).await;
    let (poor, user) = poor(&db).await;
    db.sql(&format!(
        "CREATE TABLE theirs (id int); CREATE TABLE own (id int); ALTER TABLE own OWNER TO \"{user}\""
    ))
    .await
    .unwrap();
    let insight = poor.insight();
    let error =
        insight.vacuum(&table("theirs"), &VacuumOptions::default(), soon(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(&error, InsightError::Forbidden { user: named, .. } if *named == user), "{error}");
    let schema = Target::Schema("public".into());
    let done = insight.vacuum(&schema, &VacuumOptions::default(), soon(), &mut |_| {}).await.unwrap();
    assert_eq!(names(&done), ["public.own"]);
    assert_eq!(done.skipped.len(), 1);
    assert!(done.skipped[0].table == "public.theirs" && done.skipped[0].why.contains("owner"), "{done:?}");
    drop(pool);
}

#[tokio::test]
async fn the_callers_deadline_is_the_limit_and_not_the_pools_own() {
    let db = database().await;
    // A pool whose statements may take 200 ms, and an index that takes longer to build.
    let settings = postgres_pool_manager::Config { statement_timeout: millis(200), ..config(db.url(), 1) };
    let pool = settings.connect().await.unwrap();
    db.sql(
        "CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN $1; END $$; \
         CREATE TABLE t AS SELECT generate_series(1, 5) AS id; CREATE INDEX slow_index ON t (slow(id))",
    )
    .await
    .unwrap();
    let (insight, plain) = (pool.insight(), ReindexOptions { concurrently: false });
    let done = insight.reindex(&table("t"), &plain, soon(), &mut |_| {}).await.unwrap();
    assert!(done.tables[0].1 > 0.3, "{done:?}");
    let short = Deadline::after(millis(300));
    let error = insight.reindex(&table("t"), &plain, short, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, InsightError::Timeout { .. }), "{error}");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REINDEX%' AND state = 'active' \
        AND datname = current_database()";
    wait_for("the server to stop, too", SOON, async || scalar(&db, running).await == "0").await;

    // A build that broke leaves an index that serves nobody; it is named.
    db.sql("CREATE TABLE d AS SELECT 1 AS a FROM generate_series(1, 2)").await.unwrap();
    assert!(db.sql("CREATE UNIQUE INDEX CONCURRENTLY broken ON d (a)").await.is_err());
    let done = insight.analyze(&table("d"), soon(), &mut |_| {}).await.unwrap();
    assert_eq!(done.invalid_indexes, ["public.broken"]);
}
