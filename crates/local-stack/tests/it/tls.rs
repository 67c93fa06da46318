//! Servers that speak TLS: who is let in, who trusts whom, and what changes while they run.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::Duration;

use local_stack::{
    Authority, Certificate, ClientCertificates, Error, ExternalUrls, KeyPair, PostgresOptions, Provider,
    Redis, RedisOptions, Server, Stack, TlsOptions,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::PATIENCE;

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts the authority and nobody else, over a connection that is ready for TLS.
fn secured(socket: TcpStream, authority: &Authority, shows: Option<&KeyPair>) -> Stream {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca_file()).expect("a certificate")).expect("of a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("some version")
        .with_root_certificates(roots);
    let config = match shows {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let certificate = CertificateDer::from_pem_file(&pair.cert_file).expect("a certificate");
            let key = PrivateKeyDer::from_pem_file(&pair.key_file).expect("its key");
            config.with_client_auth_cert(vec![certificate], key).expect("they belong together")
        }
    };
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    StreamOwned::new(connection, socket)
}

fn read_some(mut stream: Stream) -> Result<String, String> {
    let mut bytes = [0_u8; 256];
    match stream.read(&mut bytes) {
        Ok(0) => Err("closed".into()),
        Ok(length) => Ok(String::from_utf8_lossy(&bytes[..length]).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What Redis answers to `PING`, or why it did not come to that.
fn ping(server: &Server, authority: &Authority, shows: Option<&KeyPair>) -> Result<String, String> {
    let mut stream = secured(TcpStream::connect(server.target()).expect("connected"), authority, shows);
    stream.write_all(b"PING\r\n").map_err(|error| error.to_string())?;
    read_some(stream)
}

/// How Postgres begins its answer to a client that introduces itself: `R` asks for a password, `E` is an error.
fn knock(server: &Server, authority: &Authority, shows: Option<&KeyPair>) -> Result<String, String> {
    let mut socket = TcpStream::connect(server.target()).expect("connected");
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).expect("asked for TLS");
    let mut answer = [0];
    socket.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"S", "it speaks TLS");
    let mut stream = secured(socket, authority, shows);
    stream.write_all(&startup()).map_err(|error| error.to_string())?;
    read_some(stream)
}

fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).expect("short");
    [length.to_be_bytes().as_slice(), body].concat()
}

async fn started(postgres: Option<TlsOptions>, redis: Option<TlsOptions>) -> Stack {
    let mut builder = Stack::builder();
    if let Some(tls) = postgres {
        builder = builder.postgres(PostgresOptions { tls: Some(tls), ..PostgresOptions::with_replicas(1) });
    }
    if let Some(tls) = redis {
        builder = builder.redis(RedisOptions { tls: Some(tls), ..RedisOptions::with_replicas(1) });
    }
    builder.start().await.expect("it starts")
}

#[tokio::test]
async fn redis_and_its_replica_speak_nothing_else() {
    let stack = started(None, Some(TlsOptions::default())).await;
    let (redis, authority) = (stack.redis(), stack.authority());
    redis.master().redis_command(&["SET", "k", "v"]).await.expect("our own way in is the socket");
    redis.wait_replicas(PATIENCE).await.expect("replicated");
    for server in redis.servers() {
        assert!(server.url().starts_with("rediss://127.0.0.1:"), "{}", server.url());
        assert_eq!(ping(server, authority, None), Ok("+PONG\r\n".into()));
        let mut plain = TcpStream::connect(server.target()).expect("connected");
        plain.write_all(b"PING\r\n").expect("sent");
        let mut answer = Vec::new();
        // It closes, by a reset or in good order, and may say why in TLS' words; a plain answer it does not give.
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"+"), "{answer:?}");
    }
}

#[tokio::test]
async fn redis_asks_for_client_certificates() {
    let stack = started(None, Some(TlsOptions::mutual())).await;
    let (redis, authority) = (stack.redis(), stack.authority());
    redis.wait_replicas(PATIENCE).await.expect("the replica shows one itself");
    let (master, client) = (redis.master(), authority.client());
    assert_eq!(ping(master, authority, Some(&client)), Ok("+PONG\r\n".into()));
    assert!(ping(master, authority, None).is_err());
    for wrong in [Certificate::Expired, Certificate::NotYetValid, Certificate::Stranger] {
        let pair = authority.issue(wrong).expect("issued");
        assert!(ping(master, authority, Some(&pair)).is_err(), "{wrong:?}");
    }
    let options = TlsOptions { client_certificates: ClientCertificates::Optional };
    let stack = started(None, Some(options)).await;
    let (master, authority) = (stack.redis().master(), stack.authority());
    assert_eq!(ping(master, authority, None), Ok("+PONG\r\n".into()));
    let stranger = authority.issue(Certificate::Stranger).expect("issued");
    assert!(ping(master, authority, Some(&stranger)).is_err());
}

#[tokio::test]
async fn postgres_speaks_nothing_else_over_tcp() {
    let stack = started(Some(TlsOptions::default()), None).await;
    let (postgres, authority) = (stack.postgres(), stack.authority());
    postgres.wait_replicas(PATIENCE).await.expect("replicated");
    let ca = authority.ca_file();
    for server in postgres.servers() {
        let url = server.url();
        assert!(
            url.ends_with(&format!("/postgres?sslmode=verify-full&sslrootcert={}", ca.display())),
            "{url}"
        );
        assert!(knock(server, authority, None).expect("let in").starts_with('R'));
    }
    let mut plain = TcpStream::connect(postgres.primary().target()).expect("connected");
    plain.write_all(&startup()).expect("sent");
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).expect("told and closed");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with('E') && answer.contains("no encryption"), "{answer}");
    let database = stack.database().await.expect("a database over the socket");
    assert!(database.url().contains("sslmode=verify-full"), "{}", database.url());
}

#[tokio::test]
async fn postgres_asks_for_client_certificates() {
    let stack = started(Some(TlsOptions::mutual()), None).await;
    let (primary, authority) = (stack.postgres().primary(), stack.authority());
    let url = primary.url();
    assert!(url.contains("&sslcert=/") && url.contains("&sslkey=/"), "{url}");
    let client = authority.client();
    assert!(knock(primary, authority, Some(&client)).expect("let in").starts_with('R'));
    let refused = knock(primary, authority, None).expect("told");
    assert!(refused.starts_with('E') && refused.contains("certificate"), "{refused}");
    let expired = authority.issue(Certificate::Expired).expect("issued");
    assert!(knock(primary, authority, Some(&expired)).is_err());
}

#[tokio::test]
async fn a_server_shows_what_it_is_given_while_it_runs_and_after() {
    let stack = started(Some(TlsOptions::default()), Some(TlsOptions::default())).await;
    let authority = stack.authority();
    let cases = [
        (Certificate::Expired, "xpired"),
        (Certificate::WrongHost, "not valid for name"),
        (Certificate::NotYetValid, "not valid yet"),
        (Certificate::Stranger, "Unknown"),
    ];
    let (redis, postgres) = (stack.redis().master(), stack.postgres().primary());
    let standing = ping_twice(redis, authority);
    for (certificate, reason) in cases {
        redis.use_certificate(certificate).await.expect("exchanged");
        let refused = ping(redis, authority, None).expect_err("a client does not trust it");
        assert!(refused.contains(reason), "{certificate:?}: {refused}");
        postgres.use_certificate(certificate).await.expect("exchanged");
        let refused = knock(postgres, authority, None).expect_err("a client does not trust it");
        assert!(refused.contains(reason), "{certificate:?}: {refused}");
    }
    standing();
    redis.restart().await.expect("restarted");
    assert!(ping(redis, authority, None).is_err(), "it still has the stranger's");
    redis.kill().expect("killed");
    redis.use_certificate(Certificate::Valid).await.expect("for later");
    redis.restart().await.expect("restarted");
    assert!(ping(redis, authority, None).is_ok());
    postgres.use_certificate(Certificate::ValidFor(Duration::from_secs(3600))).await.expect("exchanged");
    assert!(knock(postgres, authority, None).is_ok());
}

/// A connection that is pinged now, and again when the result is called: an exchange does not end it.
fn ping_twice(server: &Server, authority: &Authority) -> impl FnOnce() {
    let mut stream = secured(TcpStream::connect(server.target()).expect("connected"), authority, None);
    let mut ping = move || {
        stream.write_all(b"PING\r\n").expect("sent");
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"+PONG\r\n");
    };
    ping();
    ping
}

#[tokio::test]
async fn the_clients_pair_is_renewed_in_place_and_all_files_are_private() {
    let stack = started(Some(TlsOptions::mutual()), Some(TlsOptions::mutual())).await;
    let authority = stack.authority();
    let client = authority.client();
    let read =
        |pair: &KeyPair| (std::fs::read(&pair.cert_file).unwrap(), std::fs::read(&pair.key_file).unwrap());
    let before = read(&client);
    assert_eq!(authority.renew_client(Certificate::Expired).expect("renewed"), client, "the same files");
    assert!(ping(stack.redis().master(), authority, Some(&client)).is_err());
    authority.renew_client(Certificate::Valid).expect("renewed");
    let after = read(&client);
    assert!(before.0 != after.0 && before.1 != after.1);
    assert!(ping(stack.redis().master(), authority, Some(&client)).is_ok());

    let own = std::fs::metadata("/proc/self").expect("there").uid();
    let servers = stack.directory().expect("ours").join("redis-0").metadata().expect("there").uid();
    let place = stack.directory().expect("ours").join("authority");
    let owner = |name: &str, file: &str| {
        let data = place.join(name).join(file).metadata().expect("there");
        assert_eq!(data.permissions().mode() & 0o777, 0o600, "{name}/{file}");
        data.uid()
    };
    for name in ["redis-0", "redis-1", "postgres-0", "postgres-1"] {
        assert_eq!((owner(name, "certificate.pem"), owner(name, "key.pem")), (servers, servers), "{name}");
    }
    assert_eq!((owner("client", "certificate.pem"), owner("client", "key.pem")), (own, own));
    assert!(stack.stop().await, "nothing is left");
    assert!(!place.exists());
}

#[tokio::test]
async fn sentinels_speak_tls_to_everybody() {
    let options = RedisOptions { tls: Some(TlsOptions::mutual()), ..RedisOptions::with_sentinels(1) };
    let stack = Stack::builder().redis(options).start().await.expect("it starts");
    let (redis, authority) = (stack.redis(), stack.authority());
    let client = authority.client();
    for sentinel in redis.sentinels() {
        assert!(sentinel.url().starts_with("rediss://127.0.0.1:"), "{}", sentinel.url());
        assert_eq!(ping(sentinel, authority, Some(&client)), Ok("+PONG\r\n".into()));
        assert!(ping(sentinel, authority, None).is_err());
    }
    let now = redis.failover().await.expect("failed over");
    assert_eq!(ping(&now, authority, Some(&client)), Ok("+PONG\r\n".into()));
    redis.sentinels()[0].use_certificate(Certificate::Expired).await.expect("by a restart");
    let refused = ping(&redis.sentinels()[0], authority, Some(&client)).expect_err("a client sees it");
    assert!(refused.contains("xpired"), "{refused}");
}

#[tokio::test]
async fn the_nodes_of_a_cluster_speak_tls_to_each_other() {
    let options = RedisOptions { tls: Some(TlsOptions::default()), ..RedisOptions::cluster() };
    let stack = Stack::builder().redis(options).start().await.expect("it starts");
    let (redis, authority) = (stack.redis(), stack.authority());
    for server in redis.servers() {
        assert_eq!(ping(server, authority, None), Ok("+PONG\r\n".into()));
    }
    let tag = (0..).map(|n| format!("t{n}")).find(|tag| Redis::slot(tag) > 12_000).expect("some tag");
    let slot = Redis::slot(&tag);
    let socket = TcpStream::connect(redis.master().target()).expect("connected");
    let mut stream = secured(socket, authority, None);
    stream.write_all(format!("GET {tag}\r\n").as_bytes()).expect("sent");
    let moved = format!("-MOVED {slot} {}\r\n", redis.masters()[2].target());
    assert_eq!(read_some(stream), Ok(moved), "a client is sent to a port that speaks TLS");
    redis.failover_to(redis.replica_of(redis.master()).expect("one each")).await.expect("failed over");
    redis.masters()[2].redis_command(&["SET", &tag, "v"]).await.expect("set");
    redis.move_slot(slot, &redis.masters()[2], &redis.masters()[1]).await.expect("keys move over TLS");
    let value = redis.masters()[1].redis_command(&["GET", &tag]).await.expect("got");
    assert_eq!(value.as_text(), Some("v"));
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    let stack = Stack::builder().redis(RedisOptions::default()).start().await.expect("it starts");
    assert!(matches!(stack.try_authority(), Err(Error::NoSuchPart { .. })));
    let refused = stack.redis().master().use_certificate(Certificate::Valid).await.expect_err("no TLS");
    assert_eq!(refused.to_string(), "this stack has no TLS on redis-0; ask for it in Stack::builder()");
    let urls = ExternalUrls { redis: Some(stack.redis_url()), ..ExternalUrls::default() };
    let options = RedisOptions { tls: Some(TlsOptions::default()), ..RedisOptions::default() };
    let builder = Stack::builder().redis(options).provider(Provider::External(urls));
    let refused = builder.start().await.expect_err("not for servers of others");
    assert!(matches!(&refused, Error::Setting { name, .. } if name == "tls"), "{refused}");
}
