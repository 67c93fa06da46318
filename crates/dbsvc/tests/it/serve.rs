//! `dbsvc serve` and the commands of a running instance, from start to signal.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use local_stack::{PostgresOptions, RedisOptions, Stack, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Place, SOON, mode_of, run};

#[tokio::test]
async fn a_running_instance_answers_every_command_and_ends_on_sigterm() {
    let place = Place::shared().await;
    let directory = tempfile::tempdir().unwrap();
    let token_file = directory.path().join("token").display().to_string();
    let mut serving = place.serve(&["--token-file", &token_file, "--mode", "high_availability"]).await;
    assert_eq!(serving.told["mode"], "high_availability");
    assert_eq!(mode_of(Path::new(&token_file)), 0o600);
    let health = serving.until_health_exits(0).await.json();
    assert_eq!(health["components"]["database"]["status"], "healthy", "{health}");

    for (args, exit) in [
        (&["stats"][..], 0),
        (&["stats", "cache"], 0),
        (&["stats", "nothing"], 64),
        (&["admin"], 0),
        (&["admin", "health", "check", r#"{"now": true}"#], 0),
        (&["admin", "health", "fly"], 64),
        (&["cache", "stats"], 0),
        (&["cache", "set", "user:1", r#"{"name": "Ada"}"#, "--ttl", "60"], 0),
        (&["cache", "get", "user:1"], 0),
        (&["cache", "get", "user:2"], 1),
        (&["cache", "invalidate", "user:1", "user:2"], 0),
        (&["cache", "get", "user:1"], 1),
        (&["cache", "clear", "--l1"], 0),
        (&["cache", "clear"], 0),
        (&["pool", "stats"], 0),
        (&["pool", "resize", "6", "--overflow", "2"], 0),
        (&["pool", "resize", "49", "--overflow", "2"], 64),
        (&["redis", "status"], 0),
        (&["locks", "stats"], 0),
        (&["pubsub", "stats"], 0),
        (&["pubsub", "publish", "orders.new", r#"{"id": 7}"#], 0),
    ] {
        for json in [true, false] {
            let args: Vec<&str> = args.iter().copied().chain(json.then_some("--json")).collect();
            let ran = serving.run(&args).await;
            assert_eq!(ran.exit, exit, "{args:?}: {ran:?}");
            assert_eq!(ran.out.is_empty(), exit == 64 && !json, "{args:?}: {ran:?}");
            if json {
                let _parses = ran.json();
            }
        }
    }
    // The last word of a cache that was emptied, through the two other ways to name an instance.
    let token = std::fs::read_to_string(&token_file).unwrap();
    let named =
        run(&[("DBSVC_URL", serving.url()), ("DBSVC_TOKEN", token.trim())], &["pool", "stats", "--json"])
            .await;
    assert_eq!((named.exit, named.json()["pool_size"].as_i64()), (0, Some(6)), "{named:?}");
    let up = directory.path().join("up.json");
    std::fs::write(&up, json!({"http": serving.url(), "admin_token": token.trim(), "pid": 1}).to_string())
        .unwrap();
    let up = up.display().to_string();
    assert_eq!(run(&[], &["health", "--up", &up]).await.exit, 0);
    assert_eq!(run(&[], &["--up", &up, "health"]).await.exit, 0, "before the command as well as after it");
    let wrong = run(&[("DBSVC_URL", serving.url()), ("DBSVC_TOKEN", &"x".repeat(64))], &["stats"]).await;
    assert_eq!(wrong.exit, 64, "{wrong:?}");
    assert!(wrong.err.contains("unauthorized"), "{wrong:?}");

    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await, 0);
    assert_eq!(run(&[], &["health", "--url", serving.url()]).await.exit, 69);
}

#[tokio::test]
async fn an_admin_shutdown_ends_it_and_a_token_nobody_gave_is_private_and_goes() {
    let place = Place::shared().await;
    let mut serving = place.serve(&[]).await;
    let token_file = Path::new(serving.token_file()).to_owned();
    assert_eq!(mode_of(&token_file), 0o600);
    let asked = serving.run(&["admin", "service", "shutdown"]).await;
    assert_eq!(asked.exit, 0, "{asked:?}");
    assert_eq!(serving.exit().await, 0);
    assert!(!token_file.exists());
}

#[tokio::test]
async fn settings_are_swapped_while_it_runs() {
    let place = Place::shared().await;
    let serving = place.serve(&[]).await;
    let swap = |settings| json!({ "settings": settings }).to_string();
    let done = serving
        .run(&["admin", "service", "reconfigure", &swap(json!({"CACHE_L1_SIZE": "77"})), "--json"])
        .await;
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(done.json()["changed"].as_array().unwrap().contains(&json!("CACHE_L1_SIZE")), "{done:?}");
    let stats = serving.run(&["cache", "stats", "--json"]).await.json();
    // The cache rounds up to whole shards.
    assert!((77..100).contains(&stats["l1_max_size"].as_u64().unwrap()), "{stats}");
    // An override need not agree with what the environment says of the same server.
    let other = json!({"REDIS_NAMESPACE": "elsewhere", "REDIS_DATABASE": "1"});
    let over = serving.run(&["admin", "service", "reconfigure", &swap(other), "--json"]).await;
    assert_eq!(over.exit, 0, "{over:?}");
    assert!(over.json()["rebuilt"].as_array().unwrap().contains(&json!("redis")), "{over:?}");
    let wrong =
        serving.run(&["admin", "service", "reconfigure", &swap(json!({"CACHE_L1_SIZE": "many"}))]).await;
    assert_eq!(wrong.exit, 64, "{wrong:?}");
    serving.stop().await;
}

#[tokio::test]
async fn a_unix_socket_and_a_taken_port() {
    let place = Place::shared().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("http.sock").display());
    let serving = place.serve(&["--listen", &socket]).await;
    assert_eq!(serving.url(), socket);
    serving.until_health_exits(0).await;
    let taken = run(&place.env(), &["serve", "--listen", &socket]).await;
    assert_eq!(taken.exit, 64, "{taken:?}");
    serving.stop().await;
    assert!(!directory.path().join("http.sock").exists());

    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let taken = run(&place.env(), &["serve", "--listen", &address]).await;
    assert_eq!((taken.exit, taken.out.as_str()), (64, ""), "{taken:?}");
    assert!(taken.err.contains(&address) && taken.err.contains("HTTP_LISTEN"), "{taken:?}");
}

#[tokio::test]
async fn servers_that_refuse_or_are_not_there() {
    let mut place = Place::shared().await;
    let good = place.env[0].1.clone();
    place.env[0].1 = place.database.primary().url_as("postgres", "not-the-password", place.database.name());
    for command in ["serve", "migrate"] {
        let refused = run(&place.env(), &[command]).await;
        assert_eq!((refused.exit, refused.out.as_str()), (64, ""), "{refused:?}");
        assert!(
            refused.err.contains("DATABASE_PASSWORD") && !refused.err.contains("not-the-password"),
            "{refused:?}"
        );
    }
    place.env[0].1 = "postgres://postgres:pw@127.0.0.1:1/x".to_owned();
    for command in ["serve", "migrate"] {
        let gone = run(&place.env(), &[command]).await;
        assert_eq!(gone.exit, 69, "{gone:?}");
        assert!(gone.err.contains("127.0.0.1:1"), "{gone:?}");
    }
    // Redis may be away: the service runs degraded, and says so.
    place.env[0].1 = good;
    place.env[1].1 = "redis://127.0.0.1:1".to_owned();
    let serving = place.serve(&[]).await;
    let health = serving.until_health_exits(1).await;
    assert_eq!(health.json()["status"], "degraded", "{health:?}");
    serving.stop().await;
}

#[tokio::test]
async fn servers_that_die_show_in_the_exit_code() {
    let stack = Stack::builder().postgres(PostgresOptions::default()).redis(RedisOptions::default());
    let place = Place::on(stack.start().await.unwrap()).await;
    let mut serving = place.serve(&[]).await;
    serving.until_health_exits(0).await;
    let well = serving.run(&["redis", "status"]).await;
    let master = place.stack.redis().master().target();
    assert!(well.exit == 0 && well.out.contains("redis: well") && well.out.contains(&master), "{well:?}");
    place.stack.redis().master().kill().unwrap();
    serving.until_health_exits(1).await;
    let away = serving.run(&["redis", "status"]).await;
    assert!(away.exit == 2 && away.out.contains("redis: not connected: "), "{away:?}");
    place.stack.postgres().primary().kill().unwrap();
    let down = serving.until_health_exits(2).await;
    assert_eq!(down.json()["components"]["database"]["status"], "unhealthy", "{down:?}");

    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await, 0);
}

/// An admin call whose body never ends: it keeps the drain from ending.
fn unending_call(address: &str, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/pool/stats HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 99\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[tokio::test]
async fn a_drain_is_as_long_as_the_grace_and_a_second_signal_ends_it_at_once() {
    let place = Place::shared().await;
    for (grace, second, exit) in [("25", Some(Signal::INT), 2), ("1", None, 1)] {
        let mut serving = place.serve(&["--grace", grace]).await;
        let token = std::fs::read_to_string(serving.token_file()).unwrap();
        let address = serving.url().strip_prefix("http://").unwrap().to_owned();
        let _open = unending_call(&address, token.trim());
        // Once a later connection was answered, the earlier one has been taken too.
        assert_eq!(serving.run(&["health"]).await.err, "");
        let began = Instant::now();
        serving.signal(Signal::TERM);
        wait_for("no connection is taken any more", SOON, async || TcpStream::connect(&address).is_err())
            .await;
        if let Some(signal) = second {
            serving.signal(signal);
        }
        assert_eq!(serving.exit().await, exit);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        assert!(!Path::new(serving.token_file()).exists());
    }
}

#[tokio::test]
async fn a_redis_that_refuses_the_password_is_a_matter_of_settings() {
    let redis = RedisOptions { password: Some("the-right-password".to_owned()), ..RedisOptions::default() };
    let stack = Stack::builder().postgres(PostgresOptions::default()).redis(redis).start().await.unwrap();
    let mut place = Place::on(stack).await;
    place.env[1].1 = place.stack.redis().master().url_as("default", "wrong-password", "0");
    let refused = run(&place.env(), &["serve"]).await;
    assert_eq!((refused.exit, refused.out.as_str()), (64, ""), "{refused:?}");
    assert!(refused.err.contains("REDIS_PASSWORD") && !refused.err.contains("wrong-password"), "{refused:?}");
}

#[tokio::test]
async fn the_log_level_follows_debug_and_never_silences_the_audit_trail() {
    let place = Place::shared().await;
    for (name, value, debugged) in [("LOG_LEVEL", "error", false), ("DEBUG", "true", true)] {
        let mut env = place.env();
        env.push((name, value));
        let log = tempfile::NamedTempFile::new().unwrap();
        let stderr = log.reopen().unwrap();
        let mut serving = place.serve_with(&env, &[], stderr.into()).await;
        let refused =
            run(&[("DBSVC_URL", serving.url()), ("DBSVC_TOKEN", &"x".repeat(64))], &["stats"]).await;
        assert_eq!(refused.exit, 64, "{refused:?}");
        serving.signal(Signal::TERM);
        assert_eq!(serving.exit().await, 0);
        let log = std::fs::read_to_string(log.path()).unwrap();
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["target"] == "audit"), "{name}: {log}");
        assert_eq!(lines.iter().any(|line| line["level"] == "DEBUG"), debugged, "{name}: {log}");
        assert_eq!(
            lines.iter().any(|line| line["level"] == "INFO" && line["target"] != "audit"),
            debugged,
            "{log}"
        );
    }
}
