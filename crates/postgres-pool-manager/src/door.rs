//! What one server's door asks of us and what we ask of it: the credentials of now, the files of TLS, and that it is a
//! server of the cluster that the others are of. It opens no connection.

use crate::{
    credentials::{CredentialProvider, Credentials},
    error::{ConnectFailure, Error},
    failure::{TlsFiles, connect_failure},
};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How long refused credentials are not shown again, unless they change: from the first to the most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The system identifier that all servers of a manager share: that of the first primary connected to.
#[derive(Debug, Default)]
pub(crate) struct Cluster(AtomicU64);

impl Cluster {
    /// A primary has this one. `Err`: the one known already.
    pub(crate) fn learn(&self, system_id: u64) -> Result<(), u64> {
        match self.0.compare_exchange(0, system_id, Relaxed, Relaxed) {
            Err(known) if system_id != 0 && known != system_id => Err(known),
            _ => Ok(()),
        }
    }

    /// 0: not known yet.
    pub(crate) fn id(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Whether this is known to be another cluster's. What is not known on either side differs from nothing.
    pub(crate) fn differs(&self, system_id: u64) -> Option<u64> {
        let known = self.id();
        (known != 0 && system_id != 0 && known != system_id).then_some(known)
    }
}

/// Credentials that the server refused.
#[derive(Debug)]
struct Refused {
    credentials: Credentials,
    answer: String,
    pause: Duration,
    until: Instant,
}

/// The door of one server.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) url: SecretString,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) tls: TlsFiles,
    /// Connections to this server beside its pool: probers, the migrator, direct ones.
    pub(crate) beside: AtomicU32,
    /// This instance's share of the server's connections; `u32::MAX`: there is no budget.
    pub(crate) share: AtomicU32,
    provider: Option<Arc<dyn CredentialProvider>>,
    /// The provider's latest answer, for when it cannot tell.
    latest: Mutex<Option<Credentials>>,
    refused: Mutex<Option<Refused>>,
    /// The reason why nobody gets in, once it has been told.
    told: Mutex<Option<ConnectFailure>>,
}

impl Door {
    pub(crate) fn new(
        url: &SecretString,
        provider: Option<Arc<dyn CredentialProvider>>,
        cluster: &Arc<Cluster>,
    ) -> Self {
        Self {
            url: url.clone(),
            cluster: Arc::clone(cluster),
            tls: TlsFiles::of(url),
            beside: AtomicU32::new(0),
            share: AtomicU32::new(u32::MAX),
            provider,
            latest: Mutex::new(None),
            refused: Mutex::new(None),
            told: Mutex::new(None),
        }
    }

    /// Asks who we are now, and lets `connect` try with it unless that was refused a moment ago.
    pub(crate) async fn enter<T>(
        &self,
        host: &str,
        options: &PgConnectOptions,
        connect: impl AsyncFnOnce(PgConnectOptions) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let failed = |failure, source| Error::Connect { host: host.to_owned(), failure, source };
        let credentials = match &self.provider {
            None => Credentials::default(),
            Some(provider) => self.ask(&**provider).await.map_err(|e| {
                let source = io::Error::new(io::ErrorKind::NotFound, e);
                failed(ConnectFailure::NoCredentials, Some(source.into()))
            })?,
        };
        if let Some(refused) = self.refused.lock().as_ref()
            && refused.credentials == credentials
            && let Some(left) = refused.until.checked_duration_since(Instant::now())
        {
            let text = format!("{} (asked again in {left:.1?}, or when they change)", refused.answer);
            let source = io::Error::new(io::ErrorKind::PermissionDenied, text);
            return Err(failed(ConnectFailure::Credentials, Some(source.into())));
        }
        let mut options = options.clone();
        if let Some(username) = &credentials.username {
            options = options.username(username);
        }
        if let Some(password) = &credentials.password {
            options = options.password(password.expose_secret());
        }
        let socket = options.get_socket().is_some();
        match connect(options).await {
            Ok(connected) => {
                *self.refused.lock() = None;
                *self.told.lock() = None;
                Ok(connected)
            }
            Err(e) => {
                let failure = connect_failure(&e, &self.tls, socket).await;
                if failure == ConnectFailure::Credentials {
                    self.refuse(credentials, e.to_string());
                }
                Err(failed(failure, Some(e)))
            }
        }
    }

    /// Whether a failure is one that a person has to mend and has not been told of.
    pub(crate) fn is_news(&self, failure: ConnectFailure) -> bool {
        !failure.is_transient() && self.told.lock().replace(failure) != Some(failure)
    }

    async fn ask(
        &self,
        provider: &dyn CredentialProvider,
    ) -> Result<Credentials, crate::credentials::CredentialError> {
        match provider.credentials().await {
            Ok(credentials) => {
                *self.latest.lock() = Some(credentials.clone());
                Ok(credentials)
            }
            Err(e) => {
                let latest = self.latest.lock().clone();
                tracing::warn!(error = %e, "the credential provider cannot tell; its last answer is used");
                latest.ok_or(e)
            }
        }
    }

    fn refuse(&self, credentials: Credentials, answer: String) {
        let mut refused = self.refused.lock();
        let before = refused.take().filter(|refused| refused.credentials == credentials);
        let pause = before.map_or(FIRST_PAUSE, |refused| (refused.pause * 2).min(LONGEST_PAUSE));
        *refused = Some(Refused { credentials, answer, pause, until: Instant::now() + pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_primary_names_the_cluster() {
        let cluster = Cluster::default();
        assert_eq!((cluster.differs(7), cluster.learn(7), cluster.learn(7)), (None, Ok(()), Ok(())));
        assert_eq!((cluster.differs(7), cluster.differs(8), cluster.learn(8)), (None, Some(7), Err(7)));
        assert_eq!((cluster.differs(0), cluster.learn(0)), (None, Ok(())), "unknown is no other");
    }
}
