//! What is refused behind PgBouncer and what is not.

use super::*;

fn refused(sql: &str) -> Option<String> {
    match judge(sql, true, false) {
        Ok(()) => None,
        Err(Error::SessionState { statement }) => Some(statement),
        Err(other) => panic!("{sql}: {other}"),
    }
}

#[test]
fn what_outlives_its_transaction_is_refused() {
    for (sql, statement) in [
        ("SET search_path = x", "SET"),
        ("set role other", "set"),
        ("RESET ALL", "RESET"),
        ("LISTEN x", "LISTEN"),
        ("/* y */ PREPARE p AS SELECT 1", "PREPARE"),
        ("CREATE TEMP TABLE t ()", "CREATE"),
        ("create or replace temporary view v as select 1", "create"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "DECLARE"),
        ("SELECT pg_try_advisory_lock(1)", "pg_advisory_lock"),
        ("SELECT set_config('a.b', 'c', false)", "set_config"),
        ("SELECT set_config('a.b', $1, $2)", "set_config"),
        ("SELECT 1 INTO TEMP t", "SELECT INTO TEMP"),
        ("SELECT 1; SET a = 1", "SET"),
        ("BEGIN", "BEGIN"),
        ("COMMIT", "COMMIT"),
        ("DISCARD ALL", "DISCARD"),
    ] {
        assert_eq!(refused(sql).as_deref(), Some(statement), "{sql}");
    }
    assert!(matches!(judge("COMMIT", true, true), Err(Error::TransactionControl { .. })));
}

#[test]
fn what_ends_with_its_transaction_is_not() {
    for sql in [
        "SELECT 1; SELECT 2",
        "SET LOCAL search_path = x",
        "SELECT set_config('app.user', concat('a', ',b'), true)",
        "SELECT set_config('a.b', $1, TRUE), set_config('a.c', ')', true)",
        "SELECT pg_advisory_xact_lock(1)",
        "CREATE TABLE t ()",
        "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
        "DECLARE c CURSOR FOR SELECT 1",
        "DO $$ BEGIN PERFORM 1; END $$",
        "CALL p()",
        "NOTIFY x",
        "",
    ] {
        assert_eq!(refused(sql), None, "{sql}");
    }
}

#[test]
fn limits_come_with_the_beginning() {
    let config = Config { connection_check_interval: None, ..Config::default() };
    assert_eq!(
        begin(&config, "BEGIN READ ONLY"),
        "BEGIN READ ONLY; SET LOCAL statement_timeout = 30000; SET LOCAL idle_in_transaction_session_timeout = 60000"
    );
}
