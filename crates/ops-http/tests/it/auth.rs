//! What needs the token, and that refusals say nothing.

use ops_http::{ServeOptions, Server, Token};
use serde_json::json;

use crate::support::{Site, ask, request};

const OPEN: [&str; 8] = [
    "/livez",
    "/readyz",
    "/health",
    "/health/cache",
    "/health/database",
    "/health/redis",
    "/health/database-services",
    "/metrics",
];
const SHUT: [&str; 4] = ["/health/detailed", "/metrics/json", "/metrics/database-services", "/v1"];

#[tokio::test(flavor = "multi_thread")]
async fn details_and_admin_need_the_token() {
    let site = Site::shared().await;
    site.until("/readyz", 200).await;
    for path in OPEN {
        let answer = site.get_anonymous(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text.contains("127.0.0.1"), "{path} names a host to anybody: {}", answer.text);
    }
    // Whoever has the token sees which server is meant, everybody else that it is the same one.
    let pool = |text: &str| {
        let line =
            text.lines().find(|line| line.starts_with("db_client_connection_max{")).unwrap().to_owned();
        line.split('"').nth(1).unwrap().to_owned()
    };
    assert!(pool(&site.get("/metrics").await.text).starts_with("127.0.0.1:"));
    let aliases =
        (pool(&site.get_anonymous("/metrics").await.text), pool(&site.get_anonymous("/metrics").await.text));
    assert!(aliases.0.starts_with("server-") && aliases.0 == aliases.1, "{aliases:?}");
    let other = Token::generate().unwrap();
    for path in SHUT {
        assert_eq!(site.get(path).await.status, 200, "{path}");
        for token in [None, Some(&other)] {
            let answer = ask(&site.address(), &request("GET", path, token, "")).await;
            assert_eq!(answer.status, 401, "{path}");
            assert!(
                answer.has_header("www-authenticate: bearer realm=\"database-services\""),
                "{}",
                answer.head
            );
            assert_eq!(answer.json()["code"], "unauthorized");
        }
    }
    let answer = ask(&site.address(), &request("POST", "/v1/cache/clear", None, r#"{"scope":"all"}"#)).await;
    assert_eq!(answer.status, 401);
    // Whether an action exists is not told either.
    let answer = ask(&site.address(), &request("POST", "/v1/no/such", None, "")).await;
    assert_eq!(answer.status, 401);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_details_and_admin_are_shut_and_health_is_open() {
    let site = Site::shared().await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let server =
        Server::start(site.services.clone(), ServeOptions { listen, ..ServeOptions::default() }).unwrap();
    let address = server.addr().to_string();
    let answer = ask(&address, &request("POST", "/v1/cache/stats", Some(&site.token), "{}")).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("admin_closed")));
    assert_eq!(ask(&address, &request("GET", "/livez", None, "")).await.status, 200);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_holds_a_secret() {
    let site = Site::shared().await;
    let password = site.database.primary().password().unwrap().to_owned();
    assert!(password.len() > 5);
    for path in OPEN.iter().chain(&SHUT) {
        let answer = site.get(path).await;
        assert!(!answer.text.contains(&password) && !answer.text.contains(site.token.expose()), "{path}");
    }
    for action in ["config/show", "health/check", "pool/stats", "service/reconfigure"] {
        let answer = site.post(&format!("/v1/{action}"), &json!({})).await;
        assert!(!answer.text.contains(&password) && !answer.text.contains(site.token.expose()), "{action}");
    }
    site.end().await;
}
