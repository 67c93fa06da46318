//! A certificate authority of the stack's own, made on the spot: whom a client trusts, what it shows, and what the
//! servers show. Nothing of it is known to the system, and nothing of it outlives the stack.
//!
//! Every certificate and its key lie side by side in a directory that is a symbolic link to its generation. Renewing
//! makes a new generation and turns the link, so that a reader finds a pair that fits at any time, and a watcher sees
//! what it sees of a mounted Kubernetes secret. Not here: what X.509 asks for (`issue`).

mod issue;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::account::Account;
use crate::directory::{self, Directory};
use crate::error::Error;
use issue::Issuer;

/// The directory, which the watchdog removes even where logs are kept.
const DIRECTORY: &str = "authority";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// A certificate authority, trusted by the servers of its stack and by whoever reads [`ca_file`](Self::ca_file). A
/// cheap handle.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    account: Option<Account>,
    issuer: Issuer,
    client: KeyPair,
    generation: AtomicU64,
}

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyPair {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key, PKCS #8, for its owner's eyes only.
    pub key_file: PathBuf,
}

/// What is right or wrong with a certificate. All are for servers and clients alike; those that are good for anything
/// are of `127.0.0.1`, `::1` and `localhost`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Certificate {
    /// Nothing, for a month.
    #[default]
    Valid,
    /// Nothing, for this long from now.
    ValidFor(Duration),
    /// It ended yesterday.
    Expired,
    /// It begins tomorrow.
    NotYetValid,
    /// It is `elsewhere.invalid`'s.
    WrongHost,
    /// It is from another authority, which nobody here trusts.
    Stranger,
}

impl Authority {
    pub(crate) fn make(directory: &Directory) -> Result<Self, Error> {
        let issuer = Issuer::new()?;
        let home = directory.make(DIRECTORY)?;
        directory.write(&home.join("ca.pem"), issuer.ca())?;
        let inner = Inner {
            client: pair(&home.join("client")),
            directory: home,
            account: directory.account(),
            issuer,
            generation: AtomicU64::new(0),
        };
        let authority = Self { inner: Arc::new(inner) };
        authority.renew_client(Certificate::Valid)?;
        Ok(authority)
    }

    /// The authority's own certificate: what a client is to trust.
    pub fn ca_file(&self) -> PathBuf {
        self.inner.directory.join("ca.pem")
    }

    /// A client's certificate, the same files at every call. Its common name is `postgres`, the superuser of
    /// [`Postgres`](crate::Postgres).
    pub fn client(&self) -> KeyPair {
        self.inner.client.clone()
    }

    /// Puts another pair into the files of [`client`](Self::client), both at once.
    pub fn renew_client(&self, certificate: Certificate) -> Result<KeyPair, Error> {
        self.put("client", certificate, None)
    }

    /// A pair in files of its own, for a server or a client that is none of the stack's.
    pub fn issue(&self, certificate: Certificate) -> Result<KeyPair, Error> {
        let name = format!("issued-{}", self.next());
        self.put(&name, certificate, None)
    }

    /// Puts another pair into the files of the server of this name, which alone may read them.
    pub(crate) fn renew_server(&self, name: &str, certificate: Certificate) -> Result<KeyPair, Error> {
        self.put(name, certificate, self.inner.account)
    }

    fn next(&self) -> u64 {
        self.inner.generation.fetch_add(1, Ordering::Relaxed)
    }

    fn put(&self, name: &str, certificate: Certificate, owner: Option<Account>) -> Result<KeyPair, Error> {
        let Inner { directory, account, issuer, .. } = &*self.inner;
        let pem = issuer.issue(certificate)?;
        let generation = directory.join(format!("{name}.{}", self.next()));
        // The directories are the servers' user's all, so that the watchdog can empty them; the files need not be.
        directory::make(&generation, *account)?;
        directory::write(&generation.join(CERTIFICATE), &pem.certificate, owner)?;
        directory::write(&generation.join(KEY), &pem.key, owner)?;
        let (link, turned) = (directory.join(name), generation.with_extension("turned"));
        let before = fs::read_link(&link).ok();
        std::os::unix::fs::symlink(&generation, &turned).map_err(Error::file("create", &turned))?;
        fs::rename(&turned, &link).map_err(Error::file("rename", &turned))?;
        if let Some(before) = before {
            fs::remove_dir_all(&before).map_err(Error::file("remove", &before))?;
        }
        Ok(pair(&link))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.inner.directory.display())
    }
}

fn pair(directory: &Path) -> KeyPair {
    KeyPair { cert_file: directory.join(CERTIFICATE), key_file: directory.join(KEY) }
}
