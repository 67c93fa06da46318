//! What a client may not do.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use local_stack::Stack;
use ops_http::{Limits, Listen, ServeOptions, Server};
use serde_json::json;

use crate::support::{Site, answer, ask, connect, request};

async fn strict() -> Site {
    let limits = Limits {
        connections: 4,
        header_timeout: Duration::from_millis(300),
        body_bytes: 1000,
        connection_age: Duration::from_secs(2),
        ..Limits::default()
    };
    Site::on(Stack::shared().await.unwrap(), limits).await
}

#[tokio::test(flavor = "multi_thread")]
async fn long_heads_and_bodies_are_refused() {
    let site = strict().await;
    let long = request("GET", "/livez", None, "")
        .replace("host: x", &format!("host: x\r\nx-long: {}", "y".repeat(20_000)));
    assert_eq!(ask(&site.address(), &long).await.status, 431);
    let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
    let many = request("GET", "/livez", None, "").replace("host: x\r\n", &format!("host: x\r\n{many}"));
    assert_eq!(ask(&site.address(), &many).await.status, 431);
    let answer = site.post("/v1/cache/set", &json!({"key": "k", "value": "v".repeat(2000)})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("body_too_large")));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dawdles_is_cut_off_and_keeps_nobody_out() {
    let site = strict().await;
    let address = site.address();
    tokio::task::spawn_blocking(move || {
        // More than may be open at once, and none of them ends its head.
        let mut slow: Vec<_> = (0..8).map(|_| connect(&address)).collect();
        for stream in &mut slow {
            stream.write_all(b"GET /livez HT").unwrap();
        }
        let mut honest = connect(&address);
        honest.write_all(request("GET", "/livez", None, "").as_bytes()).unwrap();
        assert_eq!(answer(&mut honest).status, 200);
    })
    .await
    .unwrap();
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_the_same_and_goes_with_the_server() {
    let site = Site::shared().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    let options = ServeOptions {
        listen: Listen::Unix(path.clone()),
        token: Some(site.token.clone()),
        ..ServeOptions::default()
    };
    let server = Server::start(site.services.clone(), options).unwrap();
    assert_eq!(server.url(), format!("unix:{}", path.display()));
    let (socket, text) = (path.clone(), request("POST", "/v1/pool/stats", Some(&site.token), "{}"));
    let answered = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        answer(&mut stream)
    })
    .await
    .unwrap();
    assert_eq!(answered.status, 200, "{answered:?}");
    server.shutdown(Duration::from_secs(5)).await;
    assert!(!path.exists());
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let site = Site::shared().await;
    let _idle = connect(&site.address());
    let began = std::time::Instant::now();
    site.server.shutdown(Duration::from_secs(20)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
