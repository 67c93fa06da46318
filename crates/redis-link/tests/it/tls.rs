//! TLS with a real server. The certificates beside this file are for 127.0.0.1, good for a century, and trusted by
//! nobody else.

use crate::support::{config_for, connected, deps, own, soon};
use local_stack::{RedisOptions, Stack};
use redis_link::{Config, Error, TlsConfig};
use std::{
    fs::Permissions,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls").join(name)
}

/// A server with a TLS port beside its plain one, which asks clients for a certificate but does not insist.
async fn server() -> (Stack, u16) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // The server may run as another user, who cannot read the repository.
    let number = NEXT.fetch_add(1, Relaxed);
    let directory = std::env::temp_dir().join(format!("redis-link-tls-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    for name in ["ca.pem", "server.pem", "server-key.pem"] {
        let copy = directory.join(name);
        std::fs::copy(file(name), &copy).expect("copied");
        std::fs::set_permissions(&copy, Permissions::from_mode(0o644)).expect("readable");
    }
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let line = |setting: &str, name: &str| format!("{setting} {}", directory.join(name).display());
    let lines = vec![
        format!("tls-port {port}"),
        line("tls-ca-cert-file", "ca.pem"),
        line("tls-cert-file", "server.pem"),
        line("tls-key-file", "server-key.pem"),
        "tls-auth-clients optional".to_owned(),
    ];
    let stack = own(RedisOptions { config: lines, ..RedisOptions::default() }).await;
    std::fs::remove_dir_all(&directory).expect("removed");
    (stack, port)
}

#[tokio::test]
async fn verified_encrypted_and_with_a_certificate_of_our_own() {
    let (_stack, port) = server().await;
    let trusting = TlsConfig { ca_file: Some(file("ca.pem")), ..TlsConfig::default() };
    let with_ours = TlsConfig {
        cert_file: Some(file("server.pem")),
        key_file: Some(file("server-key.pem")),
        ..trusting.clone()
    };
    let anybody = TlsConfig { danger_accept_any_certificate: true, ..TlsConfig::default() };
    for tls in [trusting, with_ours, anybody] {
        let link = connected(Config { tls: Some(tls), ..config_for(port) }).await;
        assert!(link.health_check(soon()).await.is_ok());
        let channel = link.keys().channel("x").expect("a good name");
        link.subscribe(&[channel], Default::default(), soon()).await.expect("subscribed");
        link.dedicated(soon()).await.expect("opened");
    }
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_said_at_once() {
    let (_stack, port) = server().await;
    let untrusted = Config { tls: Some(TlsConfig::default()), ..config_for(port) };
    let missing = TlsConfig { ca_file: Some(file("missing.pem")), ..TlsConfig::default() };
    let missing = Config { tls: Some(missing), ..config_for(port) };
    for (settings, word) in [(untrusted, "UnknownIssuer"), (missing, "missing.pem")] {
        let error = settings.connect(deps()).await.expect_err("refused");
        assert!(matches!(&error, Error::Tls { message, .. } if message.contains(word)), "{error:?}");
    }
    // A plain client on a TLS port: the server sends an alert, or just hangs up.
    match config_for(port).connect(deps()).await {
        Err(error) => {
            assert!(matches!(&error, Error::Tls { message, .. } if message.contains("TLS")), "{error:?}")
        }
        Ok(link) => {
            let cause = link.status().last_error.expect("not connected");
            assert!(cause.contains("TLS"), "{cause}");
        }
    }
}
