//! Connecting to what is not there or not right: each error names the thing and the mend.

use crate::support::*;
use local_stack::{FaultProxy, via, wait_for};
use postgres_pool_manager::{
    Config, ConnectFailure, Error, PoolState, ReplicaEndpoint, Schema, roles_sql, sqlx,
};
use resilience::Deadline;

async fn failure(config: Config) -> (ConnectFailure, String) {
    match config.connect().await.unwrap_err() {
        Error::Connect { failure, host, source } => {
            (failure, format!("{}", Error::Connect { host, failure, source }))
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let db = database().await;
    let server = db.primary();
    let wrong_password = server.url_as("postgres", "wrong", db.name());
    let (kind, text) = failure(Config::new(wrong_password)).await;
    assert_eq!(kind, ConnectFailure::Credentials);
    assert!(text.contains("password") && !text.contains("wrong"), "{text}");
    let pool = Config::new(server.url_as("postgres", server.password().unwrap(), db.name()))
        .connect()
        .await
        .unwrap();
    assert!(!format!("{pool:?}").contains(server.password().unwrap()), "a password shows in Debug");
    let (kind, text) = failure(Config::new(server.url_for("no_such_database"))).await;
    assert_eq!(kind, ConnectFailure::NoDatabase);
    assert!(text.contains("does not exist"), "{text}");
    let nobody_listens = via(&db.url(), ([127, 0, 0, 1], 1).into());
    let (kind, text) = failure(Config::new(nobody_listens)).await;
    assert_eq!(kind, ConnectFailure::Unreachable);
    assert!(text.contains("127.0.0.1:1"), "{text}");
    let replicas = vec![ReplicaEndpoint::new("second", db.url(), 1)];
    let (kind, text) = failure(Config { replicas, ..Config::new(db.url()) }).await;
    assert_eq!(kind, ConnectFailure::NotReplica);
    assert!(text.contains("second") && text.contains("it is writable"), "{text}");
    db.sql(&format!(
        "CREATE ROLE {0}_poor LOGIN PASSWORD 'p'; REVOKE CONNECT ON DATABASE {0} FROM PUBLIC",
        db.name()
    ))
    .await
    .unwrap();
    let (kind, text) =
        failure(Config::new(server.url_as(&format!("{}_poor", db.name()), "p", db.name()))).await;
    assert_eq!(kind, ConnectFailure::Rights);
    assert!(text.contains("grant CONNECT"), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let db = database().await;
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    proxy.black_hole(true);
    let connect_timeout = millis(700);
    let settings = Config { connect_timeout, ..config(db.url_via(proxy.addr()), 1) };
    let (kind, _) = failure(settings.clone()).await;
    assert_eq!(kind, ConnectFailure::Unreachable);
    let pool = Config { lazy_connect: true, ..settings }.connect().await.unwrap();
    assert_eq!(pool.status().state, PoolState::Disconnected);
    let error = pool.write().deadline(Deadline::after(millis(2000))).await.unwrap_err();
    assert!(error.to_string().contains("last connect error: cannot connect to primary"), "{error}");
    proxy.heal();
    pool.write().await.unwrap();
    assert_eq!(pool.status().state, PoolState::Connected);
}

/// A caller waits for its whole deadline, for a successor may come within it; then it is told why nothing came.
#[tokio::test]
async fn callers_of_a_server_that_refuses_wait_for_their_deadline_and_are_told_why() {
    let db = database().await;
    let server = db.primary();
    let user = format!("{}_moved", db.name());
    db.sql(&format!("CREATE ROLE {user} LOGIN PASSWORD 'old'")).await.unwrap();
    let proxy = FaultProxy::start(server.target()).await.unwrap();
    let url = via(&server.url_as(&user, "old", db.name()), proxy.addr());
    let pool = config(url, 1).connect().await.unwrap();
    let mut lost = pool.write().await.unwrap();
    proxy.cut_and_refuse();
    // Its connection goes, and no other can be opened.
    sqlx::query("SELECT 1").execute(&mut lost).await.unwrap_err();
    drop(lost);
    let refused = async |expected: &str| {
        let began = std::time::Instant::now();
        let error = pool.write().deadline(Deadline::after(millis(600))).await.unwrap_err();
        let took = began.elapsed();
        assert!(took >= millis(600) && took < millis(3000), "{took:?}");
        assert!(error.is_retryable(), "{error}");
        let Error::AcquireTimeout { last_connect_error: Some(why), active: 0, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(why.contains(expected) && error.to_string().contains(why), "{error}");
    };
    refused("it cannot be reached").await;
    refused("Connection refused").await;
    // Reachable again, under another password: the latest reason counts.
    db.sql(&format!("ALTER ROLE {user} PASSWORD 'new'")).await.unwrap();
    proxy.heal();
    wait_for("the other reason", SOON, async || {
        let error = pool.write().deadline(Deadline::after(millis(300))).await.unwrap_err();
        error.to_string().contains("user or password refused")
    })
    .await;
    refused("user or password refused").await;
    db.sql(&format!("ALTER ROLE {user} PASSWORD 'old'")).await.unwrap();
    let mut session = pool.write().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut session).await.unwrap();
    assert_eq!(pool.status().state, PoolState::Connected);
}

#[tokio::test]
async fn wrong_settings_are_refused_before_anything_is_done() {
    let error = Config { size: 0, ..Config::new("postgres://x@h/d") }.connect().await.unwrap_err();
    assert!(error.to_string().contains("size: a pool of 0 connections"), "{error}");
    let keepalive = std::time::Duration::MAX;
    let error = Config { keepalive, ..Config::new("postgres://x@h/d") }.connect().await.unwrap_err();
    assert!(error.to_string().contains("keepalive: has to be 1 ms to 24 days"), "{error}");
}

#[tokio::test]
async fn a_connect_that_goes_away_leaves_nothing_behind() {
    let db = database().await;
    let (near, far) = (
        FaultProxy::start(db.primary().target()).await.unwrap(),
        FaultProxy::start(db.primary().target()).await.unwrap(),
    );
    near.delay(millis(10));
    far.black_hole(true);
    let replicas = vec![ReplicaEndpoint::new("far", db.url_via(far.addr()), 1)];
    let settings = Config { min_idle: 50, replicas, ..config(db.url_via(near.addr()), 50) };
    // The primary is there and has more connections opened in the background, the replica is waited for.
    let connecting = tokio::spawn(settings.connect());
    wait_for("more connections", SOON, async || near.connections() >= 2).await;
    near.cut();
    near.refuse(true);
    connecting.abort();
    let tasks = tokio::runtime::Handle::current().metrics();
    wait_for("no task left", SOON, async || tasks.num_alive_tasks() == 0).await;
}

#[tokio::test]
async fn sessions_have_their_limits_set_at_start_up() {
    let (pool, _db) = pool(1).await;
    let mut session = pool.write().await.unwrap();
    for (name, value) in [
        ("statement_timeout", "30s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("client_connection_check_interval", "1s"),
        ("tcp_keepalives_idle", "15"),
        ("tcp_user_timeout", "30000"),
        ("application_name", "database-services"),
    ] {
        let sql = "SELECT current_setting($1)";
        let found: String =
            postgres_pool_manager::sqlx::query_scalar(sql).bind(name).fetch_one(&mut session).await.unwrap();
        assert_eq!(found, value, "{name}");
    }
}

#[tokio::test]
async fn the_run_time_role_reads_and_writes_but_creates_nothing() {
    let (admin, db) = pool(1).await;
    let (owner, runtime) = (format!("{}_owner", db.name()), format!("{}_run", db.name()));
    let schema = Schema::default();
    // Twice: it may be run again.
    for _ in 0..2 {
        db.sql(&roles_sql(&schema, &owner, &runtime)).await.unwrap();
    }
    db.sql(&format!("ALTER ROLE {owner} PASSWORD 'o'; ALTER ROLE {runtime} PASSWORD 'r'")).await.unwrap();
    let as_role =
        |role: &str, password: &str| config(db.primary().url_as(role, password, db.name()), 1).connect();
    let owner = as_role(&owner, "o").await.unwrap();
    crate::migrations::migrate(&owner, crate::migrations::SETS).await.unwrap();
    let runtime = as_role(&runtime, "r").await.unwrap();
    let run = |sql: &'static str| {
        let primary = runtime.primary();
        async move { postgres_pool_manager::sqlx::query(sql).execute(&primary).await.map_err(Error::from) }
    };
    run("INSERT INTO database_services.things (name) VALUES ('a')").await.unwrap();
    run("UPDATE database_services.things SET name = 'b'").await.unwrap();
    run("SELECT * FROM database_services.migrations").await.unwrap();
    run("DELETE FROM database_services.things").await.unwrap();
    for forbidden in [
        "CREATE TABLE database_services.mine ()",
        "DROP TABLE database_services.things",
        "ALTER TABLE database_services.things ADD COLUMN x int",
        "TRUNCATE database_services.things",
    ] {
        assert_eq!(run(forbidden).await.unwrap_err().sqlstate().as_deref(), Some("42501"), "{forbidden}");
    }
    // A write gives its token to this role too.
    let token = runtime.read_token().await.unwrap();
    assert_ne!(token, postgres_pool_manager::ReadToken::PRIMARY_ONLY);
    drop(admin);
}
