//! Faults in several places at once around one master. Not clusters, which have `hard_clusters`.

use crate::support::{
    PASSWORD, PATIENCE, USER, config, config_secure, config_sentinel, connected, deps, endpoint, own, secure,
    soon,
};
use async_trait::async_trait;
use local_stack::{Redis, RedisOptions, wait_for};
use redis_link::{Config, CredentialError, CredentialProvider, Credentials, Endpoint, Generation, Topology};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// A generation that has lasted as long as this is replaced at once; one that was short-lived, after a pause.
const SETTLED: Duration = Duration::from_millis(1200);

/// A vault that can hang.
#[derive(Debug, Default)]
struct Vault {
    password: Mutex<Option<String>>,
    hangs: AtomicBool,
    unanswered: AtomicU64,
}

#[async_trait]
impl CredentialProvider for Vault {
    async fn credentials(&self) -> Result<Credentials, CredentialError> {
        if self.hangs.load(Relaxed) {
            self.unanswered.fetch_add(1, Relaxed);
            std::future::pending::<()>().await;
        }
        let password = self.password.lock().expect("no panic").clone();
        Ok(Credentials {
            username: password.is_some().then(|| USER.into()),
            password: password.map(Into::into),
        })
    }
}

async fn lasts(generation: &Generation) {
    timeout(SETTLED, generation.died()).await.expect_err("nothing ends it");
}

#[tokio::test]
async fn the_epoch_grows_when_the_name_returns_to_an_old_master() {
    let stack = own(RedisOptions::with_sentinels(0)).await;
    let other = own(RedisOptions::default()).await;
    let (old, new) = (endpoint(stack.redis().master()), endpoint(other.redis().master()));
    let link = connected(config_sentinel(&stack)).await;
    let first = link.ready(soon()).await.expect("connected").epoch();
    let name = async |master: &Endpoint| {
        let port = master.port.to_string();
        for sentinel in stack.redis().sentinels() {
            sentinel.redis_command(&["SENTINEL", "REMOVE", Redis::MASTER_NAME]).await.expect("removed");
            let monitor = ["SENTINEL", "MONITOR", Redis::MASTER_NAME, &master.host, &port, "2"];
            sentinel.redis_command(&monitor).await.expect("named");
        }
        wait_for("the link to follow", PATIENCE, async || link.status().master == master.to_string()).await;
        link.ready(soon()).await.expect("connected").epoch()
    };
    let second = name(&new).await;
    // Its epoch key is still there, with the epoch that it had; meanwhile the other one was written to.
    let third = name(&old).await;
    assert!(first < second && second < third, "{first} {second} {third}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_swallows_everything_delays_neither_start_nor_reconnect() {
    let stack = own(RedisOptions::with_sentinels(1)).await;
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = hole.local_addr().expect("an address").port();
    // As long as a Sentinel is given for an answer.
    let mut settings = Config { probe_timeout: Duration::from_secs(4), ..config_sentinel(&stack) };
    let Topology::Sentinel(sentinels) = &mut settings.topology else { panic!("it is one") };
    sentinels.sentinels.insert(0, Endpoint::new("127.0.0.1", port));
    let began = Instant::now();
    let link = connected(settings).await;
    let connecting = began.elapsed();
    let generation = link.ready(soon()).await.expect("connected");
    lasts(&generation).await;
    let ended = Instant::now();
    generation.end("test");
    let next = link.ready(soon()).await.expect("connected");
    let reconnecting = ended.elapsed();
    eprintln!("with a Sentinel that says nothing: connected in {connecting:?}, again in {reconnecting:?}");
    assert!(next.id() > generation.id());
    assert!(connecting < Duration::from_secs(2), "{connecting:?}");
    assert!(reconnecting < Duration::from_secs(2), "{reconnecting:?}");
}

#[tokio::test]
async fn a_password_that_changes_while_the_ca_file_is_gone_is_used() {
    let stack = own(secure()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let ca = directory.path().join("ca.pem");
    std::fs::copy(stack.authority().ca_file(), &ca).expect("copied");
    // Only a refusal makes the link ask for another password.
    let mut settings = Config { renew_interval: Duration::from_secs(3600), ..config_secure(&stack) };
    settings.tls.as_mut().expect("with TLS").ca_file = Some(ca.clone());
    let vault = Arc::new(Vault { password: Mutex::new(Some(PASSWORD.to_owned())), ..Vault::default() });
    let mut deps = deps();
    deps.credentials = Some(Arc::clone(&vault) as _);
    let link = settings.connect(deps).await.expect("connected");
    let first = link.ready(soon()).await.expect("connected");
    std::fs::remove_file(&ca).expect("removed");
    let change = ["ACL", "SETUSER", USER, "resetpass", ">second"];
    stack.redis().master().redis_command(&change).await.expect("changed");
    *vault.password.lock().expect("no panic") = Some("second".to_owned());
    first.end("test");
    let second = link.ready(soon()).await.expect("the new password, and the CA as it was read before");
    assert!(second.id() > first.id());
}

#[tokio::test]
async fn a_start_while_the_named_master_is_a_replica_is_no_error_and_mends_itself() {
    let stack = own(RedisOptions::with_sentinels(1)).await;
    let sentinels = stack.redis().sentinels();
    sentinels.iter().for_each(|sentinel| sentinel.pause().expect("paused"));
    // As an operator would, or Sentinels that these have not heard of yet.
    let (old, next) = (stack.redis().master(), &stack.redis().replicas()[0]);
    next.promote().await.expect("promoted");
    old.follow(next).await.expect("it follows");
    sentinels.iter().for_each(|sentinel| sentinel.resume().expect("resumed"));
    let link = config_sentinel(&stack).connect(deps()).await.expect("time will mend it");
    let began = Instant::now();
    link.ready(soon()).await.expect("mended").ping(soon()).await.expect("it answers");
    eprintln!("connected {:?} after the start", began.elapsed());
}

#[tokio::test]
async fn a_vault_that_hangs_delays_no_reconnect() {
    let stack = own(RedisOptions::default()).await;
    let vault = Arc::new(Vault::default());
    let mut deps = deps();
    deps.credentials = Some(Arc::clone(&vault) as _);
    let often = Duration::from_millis(100);
    let settings = Config { renew_interval: often, ..config(stack.redis().master()) };
    let link = settings.connect(deps).await.expect("connected");
    let first = link.ready(soon()).await.expect("connected");
    vault.hangs.store(true, Relaxed);
    wait_for("somebody to hang", PATIENCE, async || vault.unanswered.load(Relaxed) > 0).await;
    lasts(&first).await;
    let ended = Instant::now();
    first.end("test");
    let second = link.ready(soon()).await.expect("connected");
    let reconnecting = ended.elapsed();
    eprintln!("with a vault that hangs: connected again in {reconnecting:?}");
    assert!(second.id() > first.id() && reconnecting < Duration::from_secs(2), "{reconnecting:?}");
}
