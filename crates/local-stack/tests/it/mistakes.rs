//! Wrong settings and broken machines: each error names the thing and the mend, and nothing is left behind.

use std::time::Duration;

use local_stack::{Error, ExternalUrls, PostgresOptions, Provider, RedisOptions, Stack, wait_for};

use crate::PATIENCE;

#[tokio::test]
async fn a_server_that_dies_at_start_leaves_its_log() {
    let settings = vec![("shared_buffers".into(), "banana".into())];
    let error = Stack::builder()
        .postgres(PostgresOptions { settings, ..PostgresOptions::default() })
        .start()
        .await
        .expect_err("no such amount");
    let Error::DiedAtStart { server, log, tail, .. } = &error else { panic!("{error}") };
    assert_eq!(server, "postgres-0");
    assert!(tail.contains("banana"), "{tail}");
    assert!(error.to_string().contains(&log.display().to_string()));
    let home = log.parent().and_then(|logs| logs.parent()).expect("a stack's directory").join("postgres-0");
    wait_for("the data are removed", PATIENCE, async || !home.exists()).await;
    assert!(log.exists(), "the log is kept");
    std::fs::remove_dir_all(log.parent().and_then(|logs| logs.parent()).expect("the directory"))
        .expect("removed");
}

#[tokio::test]
async fn a_wrong_line_for_redis_is_named() {
    let config = vec!["no-such-directive yes".into()];
    let error = Stack::builder()
        .redis(RedisOptions { config, ..RedisOptions::default() })
        .start()
        .await
        .expect_err("no such directive");
    assert!(error.to_string().contains("no-such-directive"), "{error}");
    let Error::DiedAtStart { log, .. } = &error else { panic!("{error}") };
    let directory = log.parent().and_then(|logs| logs.parent()).expect("a stack's directory").to_owned();
    wait_for("only logs are left", PATIENCE, async || !directory.join("redis-0").exists()).await;
    std::fs::remove_dir_all(directory).expect("removed");
}

#[tokio::test]
async fn external_urls_are_checked() {
    let start = async |urls| {
        let builder = Stack::builder().redis(RedisOptions::default()).provider(Provider::External(urls));
        builder.within(Duration::from_millis(200)).start().await.expect_err("wrong").to_string()
    };
    let of = |url: &str| ExternalUrls { redis: Some(url.into()), ..ExternalUrls::default() };
    assert!(start(ExternalUrls::default()).await.contains("LOCAL_STACK_REDIS_URL: not set"));
    assert!(start(of("localhost:6379")).await.contains("not of the form"));
    assert!(start(of("postgres://localhost")).await.contains("not its scheme"));
    assert!(start(of("rediss://localhost")).await.contains("TLS"));
    let unreachable = start(of("redis://127.0.0.1:1")).await;
    assert!(
        unreachable.contains("redis-0 was not ready") && unreachable.contains("refused"),
        "{unreachable}"
    );
}

#[test]
fn no_password_is_shown_by_debug() {
    let urls = ExternalUrls { redis: Some("redis://:secret@127.0.0.1:1".into()), ..ExternalUrls::default() };
    let builder = Stack::builder()
        .postgres(PostgresOptions { password: Some("secret".into()), ..PostgresOptions::default() })
        .redis(RedisOptions { password: Some("secret".into()), ..RedisOptions::default() });
    let shown = format!("{:?}", builder.clone().provider(Provider::External(urls)));
    assert!(!shown.contains("secret"), "{shown}");
    let stack = Stack::builder()
        .redis(RedisOptions { password: Some("secret".into()), ..RedisOptions::default() })
        .start_blocking()
        .expect("it starts");
    let shown = format!("{stack:?} {:?}", stack.redis().master());
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn a_part_that_was_not_asked_for_is_named() {
    let stack = Stack::builder().redis(RedisOptions::default()).start_blocking().expect("it starts");
    let error = stack.database_blocking().expect_err("no Postgres");
    assert_eq!(error.to_string(), "this stack has no Postgres; ask for it in Stack::builder()");
    let error = stack.redis().master().sql_blocking("postgres", "select 1").expect_err("no SQL");
    assert!(error.to_string().contains("SQL on redis-0"), "{error}");
}

/// Not a test by itself: a start under the environment that [`a_wrong_environment_is_named`] makes.
#[test]
fn as_starter() {
    if std::env::var_os(STARTER).is_some() {
        let pgbouncer = std::env::var_os("LOCAL_STACK_PGBOUNCER").is_some();
        let options = (PostgresOptions { pgbouncer, ..PostgresOptions::default() }, RedisOptions::default());
        let error =
            Stack::builder().postgres(options.0).redis(options.1).start_blocking().expect_err("wrong");
        println!("said: {error}");
    }
}

const STARTER: &str = "LOCAL_STACK_TEST_STARTER";

#[test]
fn a_wrong_environment_is_named() {
    use std::os::unix::fs::PermissionsExt as _;

    let scratch = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).expect("passable");
    let (long, private) = (scratch.path().join("x".repeat(60)), scratch.path().join("private"));
    for (directory, mode) in [(&long, 0o1777), (&private, 0o700)] {
        std::fs::create_dir(directory).expect("created");
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)).expect("set");
    }
    let text = |path: &std::path::Path| path.to_str().expect("a plain path").to_owned();
    let mut cases = vec![
        ("LOCAL_STACK_POSTGRES_BIN_DIR", "/etc".to_owned(), "`/etc` holds no `postgres` and `initdb`"),
        ("LOCAL_STACK_REDIS_SERVER", "/etc/passwd".to_owned(), "`/etc/passwd` is no program"),
        ("LOCAL_STACK_PGBOUNCER", "/etc/passwd".to_owned(), "`/etc/passwd` is no program"),
        ("LOCAL_STACK_REDIS_SERVER", "/bin/false".to_owned(), "/bin/false --version failed"),
        ("LOCAL_STACK_DIR", text(&scratch.path().join("none")), "find "),
        ("LOCAL_STACK_DIR", text(&long), "too long for a socket; set LOCAL_STACK_DIR"),
        ("LOCAL_STACK_POSTGRES_URL", "postgres://127.0.0.1/x".to_owned(), "LOCAL_STACK_REDIS_URL: not set"),
        ("LOCAL_STACK_PROVIDER", "podman".to_owned(), "`podman` is none of native, containers, external"),
        ("LOCAL_STACK_PROVIDER", "external".to_owned(), "LOCAL_STACK_POSTGRES_URL: not set"),
    ];
    if !cfg!(feature = "containers") {
        cases.push(("LOCAL_STACK_PROVIDER", "containers".to_owned(), "--features local-stack/containers"));
    }
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        // Only root changes users, and only another user can be kept out.
        cases.extend([
            ("LOCAL_STACK_USER", "nosuchuser".to_owned(), "`nosuchuser` is no unprivileged user"),
            ("LOCAL_STACK_USER", "root".to_owned(), "`root` is no unprivileged user"),
            ("LOCAL_STACK_DIR", text(&private), "may not pass"),
            ("LOCAL_STACK_DIR", text(scratch.path()), "Permission denied; set LOCAL_STACK_DIR"),
        ]);
    }
    for (name, value, expected) in cases {
        let output = std::process::Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "mistakes::as_starter", "--nocapture", "--test-threads=1"])
            .env_remove("LOCAL_STACK_PROVIDER")
            .envs([(STARTER, "1"), (name, &value)])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("said: ") && said.contains(expected), "{name}={value}: {said}");
    }
}
