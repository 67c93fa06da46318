//! TLS of the connections: the files, read again when they change, and the driver's configuration made of them. An
//! explicit provider, no process default: it works beside any other TLS in the process.

mod verify;

pub use verify::CertificateProblem;
pub(crate) use verify::Seen;

use crate::Endpoint;
use fred::types::config::{TlsConfig as FredTls, TlsConnector};
use resilience::Deadline;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use sha1::{Digest, Sha1};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use verify::Checking;

/// TLS by rustls with ring; no process-wide provider is touched.
///
/// The files are looked at every [`Config::renew_interval`](crate::Config::renew_interval) and before every attempt to
/// connect. When one has changed, the link hands over to new connections without an interruption; files that cannot be
/// used are reported, and the old ones stay in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the authorities to trust. Default: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain, for servers that ask for one. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of our private key. Needs `cert_file`.
    pub key_file: Option<PathBuf>,
    /// What is checked of a server's certificate. Default [`Verify::Full`].
    pub verify: Verify,
}

/// What is checked of a server's certificate; the names are those of Postgres' `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Chain, times and host name.
    #[default]
    Full,
    /// Chain and times: for nodes that Sentinel or a cluster names by addresses that no certificate holds. Whoever has
    /// a certificate of the same authority can pose as a server.
    Ca,
    /// Nothing: encrypts, and trusts anybody. For development only.
    None,
}

/// What the files say.
#[derive(Debug)]
pub(crate) struct Tls {
    config: ClientConfig,
    roots: Arc<RootCertStore>,
    verify: Verify,
    /// Of the files' contents; the same content is the same identity.
    fingerprint: [u8; 20],
    /// When our own certificate ends.
    pub(crate) ours_expires: Option<SystemTime>,
}

impl Tls {
    /// Reads the files; they are small. The error names the file.
    pub(crate) fn load(tls: &TlsConfig) -> Result<Self, String> {
        let mut hash = Sha1::new();
        let mut read = |path: &Path| {
            let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            hash.update(&bytes);
            Ok::<_, String>(bytes)
        };
        let roots = match (&tls.ca_file, tls.verify) {
            (_, Verify::None) => RootCertStore::empty(),
            (Some(path), _) => authorities(path, &read(path)?)?,
            (None, _) => system_authorities()?,
        };
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(Arc::clone(&roots));
        let (config, ours_expires) = match (&tls.cert_file, &tls.key_file) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, &read(cert)?)?;
                let of_key = |error: &dyn std::fmt::Display| format!("{}: {error}", key.display());
                let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| of_key(&e))?;
                let expires = chain.first().and_then(|first| verify::not_after(first));
                // A renewal replaces two files, one after the other; between the two they do not match.
                let config = builder.with_client_auth_cert(chain, private).map_err(|e| of_key(&e))?;
                (config, expires)
            }
            _ => (builder.with_no_client_auth(), None),
        };
        Ok(Self { config, roots, verify: tls.verify, fingerprint: hash.finalize().into(), ours_expires })
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The driver's configuration for one connection, and what will be seen of the server's certificate.
    pub(crate) fn connector(&self) -> (FredTls, Arc<Seen>) {
        let seen = Arc::<Seen>::default();
        let mut config = self.config.clone();
        let checking = Checking::new(self.verify, Arc::clone(&self.roots), Arc::clone(&seen));
        config.dangerous().set_certificate_verifier(Arc::new(checking));
        (FredTls::from(TlsConnector::from(config)), seen)
    }
}

/// Whether a server that did not answer the TLS handshake speaks Redis without: it waits for the end of a line for ever.
/// Sends nothing secret.
pub(crate) async fn speaks_plainly(endpoint: &Endpoint) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        stream.read_u8().await.ok()
    };
    matches!(Deadline::after(Duration::from_millis(500)).run(ask).await, Ok(Some(b'+' | b'-')))
}

fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("there is no certificate authority to trust; set ca_file".to_owned());
    }
    Ok(roots)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| format!("{}: {error}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("{}: there is no certificate in it", path.display()));
    }
    Ok(certificates)
}
