//! Plans and the advice drawn from them, and everything that is not to be run for one.

use crate::{insight::soon, support::*};
use local_stack::Database;
use postgres_pool_manager::{
    PostgresPoolManager,
    insight::{AdviceKind, InsightError, OptimizeOptions, Optimized},
    sqlx,
};

fn analyze() -> OptimizeOptions {
    OptimizeOptions { analyze: true, timeout: SOON, ..OptimizeOptions::default() }
}

async fn plan(pool: &PostgresPoolManager, sql: &str) -> Optimized {
    pool.optimize_query(sql, &OptimizeOptions::default()).await.unwrap()
}

async fn orders() -> (PostgresPoolManager, Database) {
    let (pool, db) = pool(2).await;
    db.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, status varchar(20), note text, at timestamptz); \
         INSERT INTO orders SELECT i, i % 5000, CASE WHEN i % 2 = 0 THEN 'open' ELSE 'done' END, repeat('n', 50), \
         now() - i * interval '1 minute' FROM generate_series(1, 50000) i; ANALYZE orders",
    )
    .await
    .unwrap();
    (pool, db)
}

#[tokio::test]
async fn a_missing_index_is_named_with_its_ddl_and_the_ddl_helps() {
    let (pool, db) = orders().await;
    let sql = "SELECT * FROM orders WHERE customer_id = 42 AND at > now() - interval '1 day';";
    let seen = plan(&pool, sql).await;
    assert!(!seen.analyzed && seen.execution_ms.is_none());
    assert_eq!(seen.advice.len(), 1, "{seen:?}");
    let advice = &seen.advice[0];
    assert_eq!(advice.kind, AdviceKind::MissingIndex, "{seen:?}");
    assert_eq!(advice.table.as_deref(), Some("public.orders"));
    let ddl = advice.ddl.clone().unwrap();
    assert_eq!(ddl, "CREATE INDEX CONCURRENTLY ON \"public\".\"orders\" (customer_id, at)");
    db.sql(&ddl).await.unwrap();
    let after = plan(&pool, sql).await;
    assert!(after.advice.is_empty() && after.total_cost < seen.total_cost / 5.0, "{after:?}");

    // A filter that keeps half of the rows is served by no index; a small table needs none.
    let half = plan(&pool, "SELECT * FROM orders WHERE status = 'open'").await;
    assert_eq!(half.advice[0].kind, AdviceKind::SequentialScan, "{half:?}");
    assert!(half.advice[0].ddl.is_none() && half.advice[0].message.contains("would not help"), "{half:?}");
    db.sql("CREATE TABLE small AS SELECT i FROM generate_series(1, 100) i; ANALYZE small").await.unwrap();
    assert!(plan(&pool, "SELECT * FROM small WHERE i = 5").await.advice.is_empty());
    let lower = plan(&pool, "SELECT * FROM orders WHERE lower(note) = 'x'").await;
    assert!(lower.advice[0].ddl.as_ref().unwrap().ends_with("(lower(note))"), "{lower:?}");
}

#[tokio::test]
async fn parameters_are_planned_without_values() {
    let (pool, _db) = orders().await;
    let seen = plan(&pool, "SELECT * FROM orders WHERE customer_id = $1 AND status = $2").await;
    assert_eq!(seen.advice[0].kind, AdviceKind::MissingIndex, "{seen:?}");
    assert!(seen.plan.to_string().contains("$1"), "{}", seen.plan);
    let refused = pool.optimize_query("SELECT * FROM orders WHERE id = $1", &analyze()).await.unwrap_err();
    assert!(matches!(refused, InsightError::Parameters), "{refused}");
    let unclear = pool.optimize_query("SELECT $1", &OptimizeOptions::default()).await;
    assert!(unclear.is_ok(), "text by default: {unclear:?}");
}

#[tokio::test]
async fn spills_and_wrong_estimates_show_when_it_is_run() {
    let (pool, db) = orders().await;
    let before = plan(&pool, "SELECT * FROM orders ORDER BY note, at").await;
    assert_eq!(before.advice.last().unwrap().kind, AdviceKind::SpillToDisk, "foreseen: {before:?}");
    let sorted = pool.optimize_query("SELECT * FROM orders ORDER BY note, at", &analyze()).await.unwrap();
    let spill = sorted.advice.iter().find(|advice| advice.kind == AdviceKind::SpillToDisk).unwrap();
    assert!(sorted.analyzed && sorted.execution_ms.unwrap() > 0.0);
    assert!(spill.message.contains("to disk") && spill.message.contains("work_mem"), "{spill:?}");
    // Two columns that say the same, and statistics that do not know.
    db.sql("CREATE TABLE pairs (a int, b int) WITH (autovacuum_enabled = off)").await.unwrap();
    db.sql("INSERT INTO pairs SELECT i % 100, i % 100 FROM generate_series(1, 200000) i; ANALYZE pairs")
        .await
        .unwrap();
    let sql = "SELECT * FROM pairs WHERE a = 1 AND b = 1";
    let wrong = pool.optimize_query(sql, &analyze()).await.unwrap();
    let misestimate = wrong.advice.iter().find(|advice| advice.kind == AdviceKind::RowMisestimate).unwrap();
    assert_eq!(misestimate.table.as_deref(), Some("public.pairs"), "{wrong:?}");
    assert!(misestimate.message.contains("2000 came"), "{misestimate:?}");
}

#[tokio::test]
async fn what_is_no_single_statement_with_a_plan_is_refused_each_by_name() {
    let (pool, _db) = pool(1).await;
    let options = OptimizeOptions::default();
    let refused = async |sql: &str| pool.optimize_query(sql, &options).await.unwrap_err();
    assert!(matches!(refused("").await, InsightError::EmptySql));
    assert!(matches!(refused(" -- nothing\n;").await, InsightError::EmptySql));
    assert!(matches!(refused("SELECT 1; SELECT 2").await, InsightError::SeveralStatements));
    assert!(matches!(refused("DROP TABLE t").await, InsightError::NotExplainable { word } if word == "DROP"));
    assert!(matches!(refused("EXPLAIN ANALYZE SELECT 1").await, InsightError::NotExplainable { .. }));
    assert!(matches!(refused("SELECT 'open").await, InsightError::Unterminated("a literal")));
    let unknown = refused("SELECT * FROM nowhere").await;
    assert!(
        matches!(&unknown, InsightError::Database(e) if e.sqlstate().as_deref() == Some("42P01")),
        "{unknown}"
    );
    assert!(!unknown.is_usage() && refused("").await.is_usage());
}

#[tokio::test]
async fn a_write_is_planned_and_never_run() {
    let (pool, db) = orders().await;
    db.sql(
        "CREATE SEQUENCE s; CREATE TABLE log (line text); \
         CREATE FUNCTION noisy() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('x'); RETURN 1; END $$; \
         CREATE FUNCTION quiet(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 + 1'; \
         CREATE FUNCTION lying() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN INSERT INTO log VALUES ('x'); RETURN 1; END $$; \
         CREATE VIEW hidden AS SELECT id FROM orders LIMIT noisy(); CREATE VIEW nested AS SELECT * FROM hidden; \
         CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN noisy(); END $$; \
         CREATE OPERATOR ## (LEFTARG = int, RIGHTARG = int, FUNCTION = plus); \
         CREATE FUNCTION step(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN noisy(); END $$; \
         CREATE AGGREGATE agg(int) (SFUNC = step, STYPE = int, INITCOND = '0'); \
         CREATE FUNCTION member(orders) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN noisy(); END $$; \
         CREATE DOMAIN checked AS int CHECK (noisy() > 0)",
    )
    .await
    .unwrap();
    let written = "SELECT (SELECT count(*) FROM log) || '/' || (SELECT count(*) FROM orders) || '/' || last_value || is_called FROM s";
    let before = scalar(&db, written).await;
    let insert = "INSERT INTO log VALUES ('x')";
    assert!(plan(&pool, insert).await.total_cost > 0.0, "without analyze it is only planned");
    assert!(
        plan(&pool, "WITH x AS (DELETE FROM orders RETURNING id) SELECT * FROM x").await.total_cost > 0.0
    );

    let refused = async |sql: &str| pool.optimize_query(sql, &analyze()).await.unwrap_err();
    for sql in [
        insert,
        "UPDATE orders SET note = ''",
        "WITH x AS (DELETE FROM orders RETURNING id) SELECT * FROM x",
        "SELECT * INTO copied FROM orders",
    ] {
        assert!(matches!(refused(sql).await, InsightError::Writes { .. }), "{sql}");
    }
    assert!(matches!(refused("SELECT * FROM orders WHERE id = 1 FOR UPDATE").await, InsightError::LocksRows));
    assert!(matches!(
        refused("SELECT id FROM (SELECT * FROM orders FOR SHARE) o").await,
        InsightError::LocksRows
    ));
    for sql in [
        "SELECT nextval('s')",
        "SELECT setval('s', 100)",
        "SELECT noisy()",
        "SELECT \"noisy\" /* x */ ()",
        "SELECT public.noisy() FROM orders",
        "SELECT 1 LIMIT noisy()",
        "SELECT * FROM (VALUES (noisy()), (2)) v",
        "SELECT 1 WHERE noisy() IN (SELECT id FROM orders)",
        "SELECT * FROM hidden",
        "SELECT * FROM nested",
        "SELECT 1 ## id FROM orders",
        "SELECT agg(id) FROM orders",
        "SELECT 1::checked",
        "SELECT o.member FROM orders o",
        "SELECT 1 FROM orders o WHERE o.member IN (SELECT id FROM orders)",
        "SELECT pg_terminate_backend(1)",
        "SELECT lo_create(0)",
        "SELECT query_to_xml('DELETE FROM orders', true, true, '')",
        "SELECT pg_advisory_lock(1)",
        "SELECT * FROM pg_sleep(1)",
    ] {
        let error = refused(sql).await;
        assert!(matches!(error, InsightError::Volatile { .. }), "{sql}: {error}");
    }
    // Declared stable and writing all the same: the read-only transaction has the last word.
    let lying = refused("SELECT lying()").await;
    assert!(matches!(&lying, InsightError::Writes { .. } | InsightError::Database(_)), "{lying}");
    assert_eq!(scalar(&db, written).await, before);

    for sql in [
        "SELECT count(*), sum(quiet(id)), lower('x'), random(), now() FROM orders WHERE status IN ('open', 'nextval(')",
        "TABLE orders",
        "VALUES (1), (2)",
        "WITH x AS (SELECT 1 AS noisy) SELECT noisy FROM x",
        "(SELECT 1) UNION ALL (SELECT 2)",
    ] {
        let run = pool.optimize_query(sql, &analyze()).await;
        assert!(run.as_ref().is_ok_and(|seen| seen.execution_ms.is_some()), "{sql}: {run:?}");
    }
}

#[tokio::test]
async fn a_long_statement_is_stopped_and_nothing_stays_behind() {
    let (pool, db) = pool(1).await;
    let endless = "SELECT count(*) FROM generate_series(1, 1000000000000)";
    let options = OptimizeOptions { timeout: millis(300), ..analyze() };
    let stopped = pool.optimize_query(endless, &options).await.unwrap_err();
    assert!(matches!(stopped, InsightError::Timeout { operation: "the statement" }), "{stopped}");
    // The caller's own deadline, where that comes first.
    let deadline = resilience::Deadline::after(millis(500));
    let stopped = pool.insight().optimize_query(None, endless, &analyze(), deadline).await.unwrap_err();
    assert!(matches!(stopped, InsightError::Timeout { .. }), "{stopped}");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name LIKE '%:insight'";
    local_stack::wait_for("no session left", SOON, async || scalar(&db, open).await == "0").await;
    assert!(pool.insight().sizes(None, 1, soon()).await.is_ok());
    sqlx::query("SELECT 1").execute(&pool.primary()).await.unwrap();
}
