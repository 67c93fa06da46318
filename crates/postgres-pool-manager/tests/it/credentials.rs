//! Passwords that change while the pool runs.

use crate::support::*;
use async_trait::async_trait;
use local_stack::{FaultProxy, wait_for};
use postgres_pool_manager::{
    Config, ConnectFailure, CredentialError, CredentialProvider, Credentials, Error, PasswordFile, PoolEvent,
    PostgresPoolManager, sqlx,
};
use resilience::Deadline;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// A file that holds a password, replaced as orchestrators replace it: by a rename.
struct File {
    directory: TempDir,
}

impl File {
    fn new(password: &str) -> Self {
        let file = Self { directory: TempDir::new().unwrap() };
        file.write(password);
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    fn write(&self, password: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, format!("{password}\n")).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    fn provider(path: &Path) -> Option<Arc<dyn CredentialProvider>> {
        Some(Arc::new(PasswordFile { username: None, path: path.to_owned() }))
    }
}

/// An own role of the database's, so that a test rotates nobody else's password.
async fn role(db: &local_stack::Database, password: &str) -> String {
    let name = format!("{}_app", db.name());
    db.sql(&format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'")).await.unwrap();
    db.primary().url_as(&name, "not this one", db.name())
}

async fn rotate(db: &local_stack::Database, password: &str) {
    db.sql(&format!("ALTER ROLE {}_app PASSWORD '{password}'", db.name())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_rotations_under_load_fail_no_request() {
    let db = database().await;
    let (url, file) = (role(&db, "p0").await, File::new("p0"));
    let credentials = File::provider(&file.path());
    // Short lives and little idleness: connections are opened all the time, with whatever holds then.
    let settings = Config {
        credentials,
        max_overflow: 4,
        max_lifetime: millis(200),
        overflow_idle_timeout: millis(20),
        ..config(url, 2)
    };
    let pool = settings.connect().await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..8 {
        let (pool, stop, done) = (pool.clone(), Arc::clone(&stop), Arc::clone(&done));
        load.spawn(async move {
            while !stop.load(Relaxed) {
                let one: i32 =
                    sqlx::query_scalar("SELECT $1").bind(1).fetch_one(&pool.primary()).await.unwrap();
                assert_eq!(one, 1);
                done.fetch_add(1, Relaxed);
            }
        });
    }
    let started = Instant::now();
    for rotation in 1..=20 {
        let (password, opened) = (format!("p{rotation}"), pool.pool_stats().opened_total);
        // Either order, with a while in between in which attempts are made and refused.
        if rotation % 2 == 0 {
            rotate(&db, &password).await;
            let refused = pool.pool_stats().connection_errors_total;
            wait_for("a refused attempt", SOON, async || pool.pool_stats().connection_errors_total > refused)
                .await;
            file.write(&password);
        } else {
            file.write(&password);
            rotate(&db, &password).await;
        }
        wait_for("connections with the new password", SOON, async || {
            pool.pool_stats().opened_total > opened + 1
        })
        .await;
    }
    stop.store(true, Relaxed);
    load.join_all().await;
    let stats = pool.pool_stats();
    println!(
        "20 rotations in {:?}: {} requests, {} connections opened, {} attempts refused, 0 requests failed",
        started.elapsed(),
        done.load(Relaxed),
        stats.opened_total,
        stats.connection_errors_total
    );
    assert!(done.load(Relaxed) > 100 && stats.opened_total > 40, "{stats:?}");
}

#[tokio::test]
async fn connections_that_stand_keep_what_they_logged_in_with() {
    let db = database().await;
    let (url, file) = (role(&db, "old").await, File::new("old"));
    let settings = Config { credentials: File::provider(&file.path()), ..config(url, 1) };
    let pool = settings.connect().await.unwrap();
    let pid = backend(&mut pool.write().await.unwrap()).await;
    rotate(&db, "new").await;
    file.write("new");
    assert_eq!(backend(&mut pool.write().await.unwrap()).await, pid);
    db.sql(&format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
    wait_for("a connection with the new password", SOON, async || {
        let session = pool.write().await;
        match session {
            Ok(mut session) => sqlx::query("SELECT 1").execute(&mut session).await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
    assert_ne!(backend(&mut pool.write().await.unwrap()).await, pid);
}

/// Log-ins that the server has seen, told by its log.
fn refusals(db: &local_stack::Database) -> usize {
    let role = format!("password authentication failed for user \"{}_app\"", db.name());
    db.primary().log().matches(&role).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_password_is_not_hammered_and_its_mend_is_seen_at_once() {
    let db = database().await;
    let (url, file) = (role(&db, "right").await, File::new("wrong"));
    let settings = Config { credentials: File::provider(&file.path()), ..config(url, 4) };
    let error = settings.clone().connect().await.unwrap_err();
    assert!(matches!(error, Error::Connect { failure: ConnectFailure::Credentials, .. }), "{error}");
    file.write("right");
    let pool = settings.connect().await.unwrap();
    file.write("wrong");
    let mut events = pool.events();
    let pid = backend(&mut pool.write().await.unwrap()).await;
    db.sql(&format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
    // Callers come and go; for three seconds the server sees a few log-ins, not hundreds.
    let (before, started) = (refusals(&db), Instant::now());
    let mut told = String::new();
    while started.elapsed() < Duration::from_secs(3) {
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let pool = pool.clone();
            callers.spawn(async move {
                let session = pool.write().deadline(Deadline::after(millis(300))).await;
                match session {
                    Ok(mut session) => {
                        sqlx::query("SELECT 1").execute(&mut session).await.err().map(Error::from)
                    }
                    Err(e) => Some(e),
                }
            });
        }
        for error in callers.join_all().await {
            told = error.expect("nobody gets in").to_string();
        }
    }
    let attempts = refusals(&db) - before;
    println!("{attempts} log-ins in {:?}; {told}", started.elapsed());
    assert!((1..=6).contains(&attempts), "{attempts} log-ins");
    let event = Deadline::after(SOON).run(events.next()).await.unwrap();
    assert!(matches!(event, Some(PoolEvent::ConnectRefused { host, .. }) if host == "primary"));
    assert!(told.contains("password authentication failed") && told.contains("asked again in"), "{told}");
    file.write("right");
    let mended = Instant::now();
    pool.write().await.unwrap();
    assert!(mended.elapsed() < Duration::from_secs(3), "{:?}", mended.elapsed());
}

/// Tells what it is told to tell.
#[derive(Debug)]
struct Vault(Mutex<Result<Credentials, CredentialError>>);

#[async_trait]
impl CredentialProvider for Vault {
    async fn credentials(&self) -> Result<Credentials, CredentialError> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn a_provider_that_cannot_tell_is_said_and_its_last_answer_used() {
    let db = database().await;
    let url = role(&db, "right").await;
    let vault = Arc::new(Vault(Mutex::new(Err(CredentialError("the vault is sealed".into())))));
    let credentials: Option<Arc<dyn CredentialProvider>> = Some(Arc::clone(&vault) as _);
    let settings = Config { credentials, ..config(url, 2) };
    let error = settings.clone().connect().await.unwrap_err();
    assert!(matches!(&error, Error::Connect { failure: ConnectFailure::NoCredentials, .. }), "{error}");
    assert!(error.to_string().contains("its password is not known"), "{error}");
    let user = format!("{}_app", db.name());
    let right = Credentials { username: Some(user.clone()), password: Some("right".into()) };
    *vault.0.lock().unwrap() = Ok(right);
    let pool = settings.connect().await.unwrap();
    *vault.0.lock().unwrap() = Err(CredentialError("the vault is sealed".into()));
    let _held = pool.write().await.unwrap();
    let mut another = pool.write().await.unwrap();
    let name: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut another).await.unwrap();
    assert_eq!(name, user);
}

/// Through a proxy that can be cut: probers and direct connections ask the provider as well.
#[tokio::test]
async fn whoever_connects_asks_for_the_credentials_of_now() {
    let db = database().await;
    let (url, file) = (role(&db, "old").await, File::new("old"));
    let proxy = FaultProxy::start(db.primary().target()).await.unwrap();
    let url = local_stack::via(&url, proxy.addr());
    let settings = Config { credentials: File::provider(&file.path()), ..config(url, 2) };
    let pool: PostgresPoolManager = settings.connect().await.unwrap();
    rotate(&db, "new").await;
    file.write("new");
    proxy.cut();
    pool.open_direct(Deadline::after(SOON)).await.unwrap().close().await.unwrap();
    let mut listener = pool.open_listener(Deadline::after(SOON)).await.unwrap();
    listener.listen("x").await.unwrap();
    wait_for("a session", SOON, async || sqlx::query("SELECT 1").execute(&pool.primary()).await.is_ok())
        .await;
}
