//! Credentials and certificates that change while the link is in use.

use crate::support::{PASSWORD, PATIENCE, USER, config_secure, own, secure, soon};
use async_trait::async_trait;
use local_stack::{Certificate, wait_for};
use redis_link::{
    Config, CredentialError, CredentialProvider, Credentials, Deps, Error, PasswordFile, SelfKeptEpochs,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

const ROTATIONS: u64 = 20;

/// A vault with one password in it, or out of order.
#[derive(Debug, Default)]
struct Vault(Mutex<Option<String>>);

impl Vault {
    fn put(&self, password: Option<&str>) {
        *self.0.lock().expect("no panic") = password.map(str::to_owned);
    }
}

#[async_trait]
impl CredentialProvider for Vault {
    async fn credentials(&self) -> Result<Credentials, CredentialError> {
        let password = self.0.lock().expect("no panic").clone();
        let password = password.ok_or_else(|| CredentialError("the vault is sealed".to_owned()))?;
        Ok(Credentials { username: Some(USER.into()), password: Some(password.into()) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_rotations_of_password_and_certificate_under_load_fail_no_request() {
    let stack = own(secure()).await;
    let vault = Arc::new(Vault::default());
    vault.put(Some(PASSWORD));
    // The old connections are ended while requests are made, so that it shows if anybody still needed them.
    let settings = Config { command_timeout: Duration::from_secs(2), ..config_secure(&stack) };
    let mut deps = Deps::new(Arc::new(SelfKeptEpochs::new()));
    deps.credentials = Some(Arc::clone(&vault) as _);
    let link = settings.connect(deps).await.expect("connected");
    let first = link.ready(soon()).await.expect("connected");
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..8)
        .map(|task| {
            let (link, stop, done) = (link.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let key = link.keys().cache_value("r", &task.to_string()).expect("a good key");
                while !stop.load(Relaxed) {
                    let generation = link.current().expect("there is always one");
                    generation.set(&key, "x", None, soon()).await.expect("set");
                    generation.get(&key, soon()).await.expect("got");
                    done.fetch_add(2, Relaxed);
                }
            })
        })
        .collect();
    for rotation in 1..=ROTATIONS {
        let old = link.ready(soon()).await.expect("connected");
        let password = format!("password-{rotation}");
        stack
            .redis()
            .master()
            .redis_command(&["ACL", "SETUSER", USER, &format!(">{password}")])
            .await
            .expect("added");
        vault.put(Some(&password));
        stack.authority().renew_client(Certificate::Valid).expect("renewed");
        link.renew(soon()).await.expect("renewed");
        let new = link.ready(soon()).await.expect("connected");
        assert!(new.id() > old.id() && old.is_alive(), "the old ones go on for a while");
        assert_eq!(new.epoch(), first.epoch(), "the data are what they were");
        // From now on only the new password opens connections.
        let only = ["ACL", "SETUSER", USER, "resetpass", &format!(">{password}")];
        stack.redis().master().redis_command(&only).await.expect("reset");
        let before = done.load(Relaxed);
        wait_for("requests", PATIENCE, async || done.load(Relaxed) > before + 50).await;
    }
    wait_for("the first connections to end", PATIENCE, async || !first.is_alive()).await;
    stop.store(true, Relaxed);
    for task in load {
        task.await.expect("no request failed");
    }
    eprintln!("{} requests during {ROTATIONS} rotations", done.load(Relaxed));
    assert_eq!(link.status().errors, Default::default());
}

#[tokio::test]
async fn a_renewal_that_cannot_be_used_leaves_what_is_there() {
    let stack = own(secure()).await;
    let vault = Arc::new(Vault::default());
    let mut deps = Deps::new(Arc::new(SelfKeptEpochs::new()));
    deps.credentials = Some(Arc::clone(&vault) as _);
    // Without an answer there never was a password: the link waits for one.
    let settings = Config { renew_interval: Duration::from_millis(100), ..config_secure(&stack) };
    let link = settings.connect(deps).await.expect("it starts without");
    assert!(link.status().last_error.is_some_and(|error| error.contains("sealed")), "{:?}", link.status());
    assert!(matches!(link.renew(soon()).await, Err(Error::Credentials(_))));
    vault.put(Some(PASSWORD));
    let first = link.ready(soon()).await.expect("connected");
    vault.put(None);
    link.renew(soon()).await.expect("the last answer stands");
    vault.put(Some("wrong"));
    let error = link.renew(resilience::Deadline::after(Duration::from_millis(500))).await;
    assert!(matches!(error, Err(Error::Unavailable { .. })), "{error:?}");
    first.ping(soon()).await.expect("the old connections go on");
    assert_eq!(link.ready(soon()).await.expect("connected").id(), first.id());
    // And when it is right again, it is found by itself.
    vault.put(Some("second"));
    let add = ["ACL", "SETUSER", USER, ">second"];
    stack.redis().master().redis_command(&add).await.expect("added");
    wait_for("the next generation", PATIENCE, async || {
        link.generation().is_some_and(|next| next.id() > first.id())
    })
    .await;
}

#[tokio::test]
async fn a_password_in_a_file_is_read_without_the_lines_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("password");
    let file = PasswordFile { username: Some(USER.into()), path: path.clone() };
    let error = file.credentials().await.expect_err("there is none");
    assert!(error.to_string().contains("password"), "{error}");
    std::fs::write(&path, "\n").expect("written");
    file.credentials().await.expect_err("it is empty");
    std::fs::write(&path, " a b \r\n").expect("written");
    let expected = Credentials { username: Some(USER.into()), password: Some(" a b ".into()) };
    assert_eq!(file.credentials().await.expect("read"), expected);
}
