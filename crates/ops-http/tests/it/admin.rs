//! The admin transport: every action there is, bad input, and the audit trail.

use std::io::Write;
use std::sync::Arc;

use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{Site, ask, request};

#[tokio::test(flavor = "multi_thread")]
async fn cache_actions_do_what_they_say() {
    let site = Site::shared().await;
    assert_eq!(site.post("/v1/cache/get", &json!({"key": "a"})).await.json()["found"], false);
    let set = site.post("/v1/cache/set", &json!({"key": "a", "value": {"n": 1}, "ttl_seconds": 60})).await;
    assert_eq!((set.status, set.json()["stored"].as_bool()), (200, Some(true)), "{set:?}");
    let got = site.post("/v1/cache/get", &json!({"key": "a"})).await.json();
    assert_eq!((&got["found"], &got["value"]), (&json!(true), &json!({"n": 1})), "{got}");
    let gone = site.post("/v1/cache/invalidate", &json!({"keys": ["a", "b"]})).await.json();
    assert_eq!(gone["invalidated"], 2, "{gone}");
    assert_eq!(site.post("/v1/cache/get", &json!({"key": "a"})).await.json()["found"], false);
    for scope in ["l1", "all"] {
        assert_eq!(site.post("/v1/cache/clear", &json!({"scope": scope})).await.json()["cleared"], scope);
    }
    assert!(site.post("/v1/cache/stats", &json!({})).await.json()["total_requests"].as_u64().unwrap() >= 3);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_actions_do_what_they_say() {
    let site = Site::shared().await;
    let resized = site.post("/v1/pool/resize", &json!({"size": 12, "max_overflow": 3})).await;
    assert_eq!(resized.json()["after"], json!({"pool_size": 12, "overflow": 3}), "{resized:?}");
    let pool = site.post("/v1/pool/stats", &json!({})).await.json();
    assert_eq!((&pool["pool_size"], &pool["overflow"]), (&json!(12), &json!(3)));

    let published =
        site.post("/v1/pubsub/publish", &json!({"channel": "orders.new", "message": {"id": 7}})).await;
    assert_eq!(published.status, 200, "{published:?}");
    assert_eq!(site.post("/v1/pubsub/stats", &json!({})).await.json()["published"], 1);
    assert!(site.post("/v1/locks/stats", &json!({})).await.json().is_object());

    site.until_healthy().await;
    let report = site.post("/v1/health/check", &json!({"now": true})).await.json();
    assert_eq!(report["status"], "healthy", "{report}");
    let shown = site.post("/v1/config/show", &json!({})).await.json();
    let rows = shown.as_array().unwrap();
    let password = rows.iter().find(|row| row["name"] == "DATABASE_URL").unwrap();
    assert!(!password.to_string().contains("postgres:"), "{password}");
    let listed = site.get("/v1").await.json();
    assert!(listed.as_array().unwrap().len() >= 12, "{listed}");
    for row in listed.as_array().unwrap() {
        assert!(row["component"].is_string() && row["action"].is_string() && row["summary"].is_string());
    }
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_named() {
    let site = Site::shared().await;
    for (path, body, status, code) in [
        ("/v1/nothing/get", "{}", 404, "unknown_component"),
        ("/v1/cache/fly", "{}", 404, "unknown_action"),
        ("/v1/cache/get", "{", 400, "invalid_input"),
        ("/v1/cache/get", "[]", 400, "invalid_input"),
        ("/v1/cache/get", "", 400, "invalid_input"),
        ("/v1/cache/get", r#"{"key": 1}"#, 400, "invalid_input"),
        ("/v1/cache/get", r#"{"kay": "a"}"#, 400, "invalid_input"),
        ("/v1/cache/clear", r#"{"scope": "moon"}"#, 400, "invalid_input"),
        ("/v1/cache/invalidate", r#"{"keys": []}"#, 400, "invalid_input"),
        ("/v1/pool/resize", r#"{"size": -1}"#, 400, "invalid_input"),
        ("/v1/pool/sessions", r#"{"limit": 0}"#, 400, "invalid_input"),
        ("/v1/pool/sessions", r#"{"scope": "moon"}"#, 400, "invalid_input"),
        ("/v1/pool/sessions", r#"{"server": "nobody"}"#, 404, "unknown_server"),
        ("/v1/pool/cancel", r#"{"session": "17"}"#, 400, "invalid_input"),
        ("/v1/pool/cancel", r#"{"session": "17@1"}"#, 409, "refused"),
        ("/v1/pool/kill", "{}", 400, "invalid_input"),
        ("/v1/pool/kill", r#"{"session": "17@1", "kind": "slow"}"#, 400, "invalid_input"),
        ("/v1/pool/kill", r#"{"kind": "slow", "older_than_seconds": -1}"#, 400, "invalid_input"),
        ("/v1/pool/explain", r#"{"sql": "SELECT 1; SELECT 2"}"#, 422, "refused_statement"),
        ("/v1/pool/explain", r#"{"sql": "SELECT * FROM nowhere"}"#, 422, "failed"),
        ("/v1/replicas/weight", r#"{"replica": "nobody", "weight": 1}"#, 404, "unknown_replica"),
        ("/v1/replicas/weight", r#"{"replica": "nobody", "weight": -1}"#, 400, "invalid_input"),
        ("/v1/replicas/drain", r#"{"replica": "nobody"}"#, 404, "unknown_replica"),
        ("/v1/replicas/remove", r#"{"replica": "nobody"}"#, 404, "unknown_replica"),
        ("/v1/replicas/add", r#"{"replica": "user@host"}"#, 400, "invalid_input"),
        ("/v1/replicas/force_primary", r#"{"on": "yes"}"#, 400, "invalid_input"),
        ("/v1/health/reset_breaker", r#"{"name": "no such"}"#, 400, "invalid_input"),
        ("/v1/service/reconfigure", r#"{"settings": {}}"#, 409, "not_supported"),
        ("/v1/service/shutdown", "{}", 409, "not_supported"),
    ] {
        let answer = ask(&site.address(), &request("POST", path, Some(&site.token), body)).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status, problem["code"].as_str()),
            (status, Some(code)),
            "{path} {body}: {problem}"
        );
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
    let known = site.post("/v1/cache/fly", &json!({})).await.json()["known"].clone();
    assert!(known.as_array().unwrap().contains(&Value::from("cache/get")), "{known}");
    let refused = site.post("/v1/pool/resize", &json!({"size": 0})).await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
    // The budget is 50 by default, and the overflow that is not given is 20 as it was.
    for body in [json!({"size": 31}), json!({"size": 50, "max_overflow": 1}), json!({"size": u32::MAX})] {
        let refused = site.post("/v1/pool/resize", &body).await;
        let problem = refused.json();
        assert_eq!((refused.status, problem["code"].as_str()), (422, Some("over_budget")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("DATABASE_MAX_CONNECTIONS 50"), "{problem}");
    }
    assert_eq!(site.post("/v1/pool/resize", &json!({"size": 30})).await.status, 200);
    // It is each server's overflow that is kept, not the sum over all of them.
    let added = site.post("/v1/replicas/add", &json!({"replica": "127.0.0.1:1"})).await;
    assert_eq!(added.status, 200, "{added:?}");
    let resized = site.post("/v1/pool/resize", &json!({"size": 29})).await;
    assert_eq!(resized.json()["after"], json!({"pool_size": 29, "overflow": 20}), "{resized:?}");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_is_waited_for_is_heard() {
    let site = Site::shared().await;
    let asked = tokio::join!(site.server.shutdown_requested(), async {
        local_stack::wait_for("the request is taken", crate::support::SOON, async || {
            site.post("/v1/service/shutdown", &json!({})).await.status == 200
        })
        .await
    });
    let ((), _waited) = asked;
    assert_eq!(site.get("/readyz").await.status, 503);
    site.end().await;
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_and_every_refusal_is_audited_without_values() {
    let log = Log::default();
    // The only test of this binary that takes the process's subscriber.
    tracing_subscriber::fmt().json().with_env_filter("audit=info").with_writer(log.clone()).init();
    let site = Site::shared().await;
    let key = format!("audited-{}", std::process::id());
    site.post("/v1/cache/set", &json!({"key": key, "value": "a secret value"})).await;
    site.post("/v1/cache/get", &json!({"key": key, "wrong": true})).await;
    site.post("/v1/replicas/drain", &json!({"replica": key})).await;
    site.post("/v1/pool/kill", &json!({"session": key})).await;
    site.post("/v1/pool/explain", &json!({"sql": "SELECT 'a secret value'"})).await;
    ask(&site.address(), &request("POST", "/v1/cache/clear", None, "{}")).await;

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |what: &str, outcome: &str| {
        let found = events.iter().find(|event| {
            event["fields"]["what"] == what
                && event["fields"]["outcome"] == outcome
                && (event["fields"]["target"] == key.as_str() || outcome == "refused")
        });
        found.unwrap_or_else(|| panic!("no {what} {outcome} in {text}"))
    };
    let done = find("cache/set", "done");
    assert_eq!(done["target"], "audit");
    assert!(
        done["fields"]["who"]
            .as_str()
            .unwrap()
            .starts_with(&format!("token:{}@127.0.0.1:", site.token.fingerprint()))
    );
    assert_eq!(find("cache/get", "failed")["fields"]["code"], "invalid_input");
    assert_eq!(find("replicas/drain", "failed")["fields"]["code"], "unknown_replica");
    assert_eq!(find("pool/kill", "failed")["fields"]["code"], "invalid_input");
    assert!(text.contains("pool/explain"), "a statement is looked at, and not told: {text}");
    assert!(
        find("cache/clear", "refused")["fields"]["who"].as_str().unwrap().starts_with("anonymous@127.0.0.1:")
    );
    assert!(!text.contains("a secret value") && !text.contains(site.token.expose()), "{text}");
    site.end().await;
}
