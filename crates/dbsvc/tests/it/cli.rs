//! Usage: help, completion, version, what is said of wrong usage, and a reader that goes away.

use std::process::Stdio;

use crate::support::{Env, command, run};

const COMMANDS: [&[&str]; 42] = [
    &["serve"],
    &["config"],
    &["config", "check"],
    &["config", "show"],
    &["config", "explain"],
    &["migrate"],
    &["health"],
    &["stats"],
    &["admin"],
    &["cache"],
    &["cache", "get"],
    &["cache", "set"],
    &["cache", "invalidate"],
    &["cache", "clear"],
    &["pool", "stats"],
    &["pool", "resize"],
    &["pool", "sessions"],
    &["pool", "kill"],
    &["pool", "cancel"],
    &["pool", "slow"],
    &["pool", "explain"],
    &["replicas"],
    &["replicas", "list"],
    &["replicas", "add"],
    &["replicas", "drain"],
    &["replicas", "remove"],
    &["replicas", "weight"],
    &["replicas", "force-primary"],
    &["db", "activity"],
    &["db", "indexes"],
    &["db", "sizes"],
    &["db", "replication"],
    &["db", "vacuum"],
    &["db", "analyze"],
    &["db", "reindex"],
    &["failover", "status"],
    &["failover", "promote"],
    &["failover", "repoint"],
    &["locks", "stats"],
    &["pubsub", "publish"],
    &["completion"],
    &["version"],
];

#[tokio::test]
async fn every_command_has_help_on_stdout() {
    let top = run(&[], &["--help"]).await;
    assert_eq!((top.exit, top.err.as_str()), (0, ""));
    assert!(top.out.contains("69  a server cannot be reached") && top.out.contains("64  usage or settings"));
    for words in COMMANDS {
        let args: Vec<&str> = words.iter().chain(&["--help"]).copied().collect();
        let help = run(&[], &args).await;
        assert_eq!((help.exit, help.err.as_str()), (0, ""), "{words:?}");
        assert!(help.out.contains("--json"), "{words:?}");
    }
    for words in [["serve"], ["migrate"], ["health"], ["stats"], ["admin"], ["completion"]] {
        let help = run(&[], &[words[0], "--help"]).await.out;
        assert!(help.contains("Example"), "{words:?} shows none");
    }
}

#[tokio::test]
async fn version_and_completion_are_results() {
    let version = run(&[], &["version", "--json"]).await;
    assert_eq!((version.exit, version.json()["name"].as_str()), (0, Some("dbsvc")));
    assert!(run(&[], &["--version"]).await.out.starts_with("dbsvc "));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&[], &["completion", shell]).await;
        assert_eq!(script.exit, 0);
        assert!(script.out.contains("migrate"), "{shell}");
    }
}

#[tokio::test]
async fn wrong_usage_is_64_on_stderr() {
    let token = "t".repeat(64);
    let cases: [(Env<'_>, &[&str], &str); 15] = [
        (&[], &[], "Usage"),
        (&[], &["fly"], "fly"),
        (&[], &["serve", "--listen", "nowhere"], "127.0.0.1:8000"),
        (&[], &["serve", "--mode", "warp"], "high_availability"),
        (&[], &["cache", "set", "k"], "VALUE"),
        (&[], &["health"], "--up FILE"),
        (&[], &["health", "--url", "https://localhost"], "TLS"),
        (&[], &["health", "--url", "nonsense"], "http://HOST:PORT"),
        (
            &[],
            &["health", "--url", "http://127.0.0.1:1", "--token-file", "/nonexistent/token"],
            "--token-file",
        ),
        (&[], &["health", "--up", "/nonexistent/up.json"], "xtask up"),
        (&[("DBSVC_URL", "http://127.0.0.1:1"), ("DBSVC_TOKEN", "short")], &["stats"], "DBSVC_TOKEN"),
        (
            &[("DBSVC_URL", "http://127.0.0.1:1"), ("DBSVC_TOKEN", &token)],
            &["admin", "cache", "get", "{"],
            "no JSON",
        ),
        (&[("DBSVC_URL", "http://127.0.0.1:1"), ("DBSVC_TOKEN", &token)], &["admin", "a/b", "get"], "a/b"),
        (&[("LOG_LEVEL", "loud")], &["serve"], "LOG_LEVEL"),
        (&[("LOG_LEVEL", "a=b=c")], &["health", "--url", "http://127.0.0.1:1"], "LOG_LEVEL"),
    ];
    for (env, args, said) in cases {
        let wrong = run(env, args).await;
        assert_eq!(wrong.exit, 64, "{args:?}: {wrong:?}");
        assert!(wrong.err.contains(said) && wrong.out.is_empty(), "{args:?}: {wrong:?}");
        assert!(!wrong.err.contains(&token));
    }
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_69() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("none.sock").display());
    for url in ["http://127.0.0.1:1", &socket] {
        let gone = run(&[], &["health", "--url", url]).await;
        assert_eq!((gone.exit, gone.out.as_str()), (69, ""), "{gone:?}");
        assert!(gone.err.contains(url) && gone.err.contains("dbsvc serve"), "{gone:?}");
    }
    let json = run(&[], &["health", "--json", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!((json.exit, json.json()["exit"].as_i64()), (69, Some(69)));
}

#[tokio::test]
async fn a_port_that_says_nothing_is_69_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let gone = run(&[], &["health", "--url", &url, "--timeout", "1"]).await;
    assert_eq!(gone.exit, 69, "{gone:?}");
    assert!(gone.err.contains("--timeout"), "{gone:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        command(&[], &["config", "show"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
