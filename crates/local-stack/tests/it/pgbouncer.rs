//! PgBouncer before Postgres: who comes in, what transaction mode means, and faults of both.

use std::time::Duration;

use local_stack::{
    Auth, Certificate, Error, Kind, PostgresOptions, RedisOptions, Server, Stack, TlsOptions, wait_for,
};

use crate::{PATIENCE, first};

async fn started(options: PostgresOptions) -> Stack {
    let options = PostgresOptions { pgbouncer: true, ..options };
    Stack::builder().postgres(options).start().await.expect("Postgres and PgBouncer start")
}

/// What a client of Postgres' own gets over TCP, password and certificates checked.
async fn psql(url: &str, sql: &str) -> Result<String, String> {
    let output = tokio::process::Command::new("psql")
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, url])
        .env("PGCONNECT_TIMEOUT", "10")
        .output()
        .await
        .expect("psql runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

async fn waiting_clients(pgbouncer: &Server) -> usize {
    let rows = pgbouncer.sql("pgbouncer", "show clients").await.expect("shown");
    rows.iter().flatten().flatten().filter(|state| *state == "waiting").count()
}

#[tokio::test]
async fn it_lets_in_whom_postgres_lets_in() {
    for auth in [Auth::Password, Auth::Scram, Auth::Trust] {
        let password = Some("a\"b 'c".to_owned());
        let stack = started(PostgresOptions { auth, password, ..PostgresOptions::default() }).await;
        println!("Postgres and PgBouncer up in {:?}", stack.started_in());
        let (primary, pgbouncer) = (stack.postgres().primary(), stack.postgres().pgbouncer());
        assert_eq!((pgbouncer.kind(), pgbouncer.name()), (Kind::PgBouncer, "pgbouncer-0"));
        assert_ne!(pgbouncer.port(), primary.port());
        assert_eq!((pgbouncer.user(), pgbouncer.password()), (primary.user(), primary.password()));
        assert_eq!(psql(&pgbouncer.url(), "select 1").await, Ok("1".into()), "{auth:?}");
        for sql in ["create role app login password 'app'", "create database mine"] {
            primary.sql("postgres", sql).await.expect("created");
        }
        let whoami = "select current_user || '@' || current_database()";
        let app = pgbouncer.url_as("app", "app", "mine");
        assert_eq!(psql(&app, whoami).await, Ok("app@mine".into()), "{auth:?}");
        let wrong = psql(&pgbouncer.url_as("postgres", "wrong", "postgres"), "select 1").await;
        assert_eq!(wrong.is_ok(), auth == Auth::Trust, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_connection_is_lent_for_a_transaction_and_no_longer() {
    let settings = [("default_pool_size", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let stack =
        started(PostgresOptions { pgbouncer_settings: settings.to_vec(), ..PostgresOptions::default() })
            .await;
    let (primary, pgbouncer) = (stack.postgres().primary(), stack.postgres().pgbouncer());
    let pid = async |server: &Server| {
        let rows = server.sql("postgres", "select pg_backend_pid()").await.expect("asked");
        first(&rows).map(str::to_owned).expect("a number")
    };
    assert_eq!(pid(pgbouncer).await, pid(pgbouncer).await, "two clients, one connection");
    assert_ne!(pid(primary).await, pid(primary).await);
    let mode = pgbouncer.sql("pgbouncer", "show config").await.expect("shown");
    assert!(mode.iter().flatten().flatten().any(|value| value == "transaction"), "{mode:?}");

    // The first one's transaction has the only connection.
    let client = pgbouncer.clone();
    let long = tokio::spawn(async move {
        client.sql("postgres", "begin; select pg_advisory_xact_lock(7); select pg_sleep(600)").await
    });
    let busy = "select pid from pg_stat_activity where wait_event = 'PgSleep'";
    wait_for("it is in its transaction", PATIENCE, async || {
        !primary.sql("postgres", busy).await.expect("asked").is_empty()
    })
    .await;
    let client = pgbouncer.clone();
    let second = tokio::spawn(async move { client.sql("postgres", "select 2").await });
    wait_for("the second one waits", PATIENCE, async || waiting_clients(pgbouncer).await == 1).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'";
    primary.sql("postgres", end).await.expect("ended");
    assert!(long.await.expect("no panic").is_err());
    assert_eq!(first(&second.await.expect("no panic").expect("its turn")), Some("2"));
}

#[tokio::test]
async fn kill_pause_and_restart_of_either() {
    let stack = started(PostgresOptions::default()).await;
    let (primary, pgbouncer) = (stack.postgres().primary(), stack.postgres().pgbouncer());
    let (url, pid) = (pgbouncer.url(), pgbouncer.pid());
    pgbouncer.pause().expect("paused");
    assert!(pgbouncer.wait_ready(Duration::from_millis(100)).await.is_err());
    primary.sql("postgres", "select 1").await.expect("Postgres goes on");
    pgbouncer.resume().expect("resumed");
    assert_eq!(psql(&url, "select 1").await, Ok("1".into()));

    pgbouncer.kill().expect("killed");
    assert!(matches!(pgbouncer.sql("postgres", "select 1").await, Err(Error::NotRunning { .. })));
    assert!(psql(&url, "select 1").await.expect_err("nobody there").contains("refused"));
    let thief = std::net::TcpListener::bind(pgbouncer.target()).expect("the port is free now");
    let refused = pgbouncer.restart().await.expect_err("it is taken");
    assert!(matches!(refused, Error::PortTaken { port } if port == pgbouncer.port()), "{refused}");
    drop(thief);
    pgbouncer.restart().await.expect("restarted");
    assert_eq!(psql(&url, "select 1").await, Ok("1".into()));
    pgbouncer.restart().await.expect("restarted while it ran");
    assert_eq!((pgbouncer.url(), pgbouncer.pid() == pid), (url.clone(), false));

    primary.kill().expect("killed");
    pgbouncer.wait_ready(PATIENCE).await.expect("PgBouncer itself is there");
    primary.restart().await.expect("restarted");
    wait_for("it has found Postgres again", PATIENCE, async || psql(&url, "select 1").await.is_ok()).await;

    for refused in
        [pgbouncer.promote().await, pgbouncer.follow(primary).await, pgbouncer.restart_empty().await]
    {
        assert!(matches!(refused, Err(Error::NoSuchPart { .. })), "{refused:?}");
    }
    assert!(stack.stop().await, "nothing is left");
    assert_eq!(pgbouncer.pid(), None);
}

#[tokio::test]
async fn it_speaks_tls_as_its_primary_does() {
    let tls = Some(TlsOptions::mutual());
    let stack = started(PostgresOptions { tls, ..PostgresOptions::default() }).await;
    let pgbouncer = stack.postgres().pgbouncer();
    let url = pgbouncer.url();
    assert_eq!(psql(&url, "select 1").await, Ok("1".into()), "{url}");
    assert_eq!(
        psql(&stack.postgres_url(), "select 1").await,
        Ok("1".into()),
        "libpq trusts Postgres as well"
    );
    let plain = url.split('?').next().expect("some").to_owned() + "?sslmode=disable";
    assert!(psql(&plain, "select 1").await.is_err());
    let nameless = url.split("&sslcert").next().expect("some");
    assert!(psql(&format!("{nameless}&sslcert=/none&sslkey=/none"), "select 1").await.is_err());

    for (certificate, reason) in
        [(Certificate::Expired, "certificate verify failed"), (Certificate::WrongHost, "elsewhere")]
    {
        pgbouncer.use_certificate(certificate).await.expect("exchanged");
        let refused = psql(&url, "select 1").await.expect_err("a client does not trust it");
        assert!(refused.contains(reason), "{refused}");
    }
    let refused = psql(&stack.postgres_url(), "select 1").await;
    assert_eq!(refused, Ok("1".into()), "Postgres itself is as it was");
    pgbouncer.use_certificate(Certificate::Valid).await.expect("exchanged");
    assert_eq!(psql(&url, "select 1").await, Ok("1".into()));
}

#[tokio::test]
async fn without_being_asked_for_it_is_not_there() {
    let stack = Stack::builder().redis(RedisOptions::default()).start().await.expect("it starts");
    assert!(stack.redis().master().sql("pgbouncer", "show pools").await.is_err());
    let stack = Stack::shared().await.expect("the shared stack");
    let missing = stack.postgres().try_pgbouncer().expect_err("not asked for");
    assert_eq!(missing.to_string(), "this stack has no PgBouncer; ask for it in Stack::builder()");
}
