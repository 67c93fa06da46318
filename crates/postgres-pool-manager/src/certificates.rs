//! When certificates end: ours by reading their files, a server's by asking for it as a client would (SSLRequest, then
//! the handshake). What a server shows is recorded here and judged nowhere; connecting judges.

use crate::{PostgresPoolManager, connect::describe, direct::Direct, failure::TlsFiles};
use parking_lot::Mutex;
use resilience::Deadline;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CertificateOwner {
    /// The server's.
    Server,
    /// The one that we show.
    Client,
    /// Of an authority that we trust a server by.
    Authority,
}

/// One certificate, or why it could not be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// The server's name in the settings.
    pub host: String,
    /// Whose it is.
    pub owner: CertificateOwner,
    /// The file, of our own.
    pub file: Option<PathBuf>,
    /// Its subject.
    pub subject: Option<String>,
    /// From when on it holds.
    pub not_before: Option<SystemTime>,
    /// Until when it holds.
    pub not_after: Option<SystemTime>,
    /// Why nothing is known of it; `None` where it was read.
    pub error: Option<String>,
}

impl CertificateStatus {
    /// Whole days until it ends, negative once it has; `None` while that is unknown.
    #[must_use]
    pub fn days_left(&self) -> Option<i64> {
        let end = self.not_after?;
        let days = |d: Duration| i64::try_from(d.as_secs() / 86_400).unwrap_or(i64::MAX);
        Some(match end.duration_since(SystemTime::now()) {
            Ok(left) => days(left),
            Err(past) => -1 - days(past.duration()),
        })
    }
}

impl PostgresPoolManager {
    /// Every certificate that connecting depends on: for each server its own, ours for it, and the authorities' that it
    /// is trusted by. Servers are asked at once, each within `deadline`; one without TLS has none.
    ///
    /// Takes no connection of the servers': they are left before the log-in.
    pub async fn certificates(&self, deadline: Deadline) -> Vec<CertificateStatus> {
        let pools = self.router().pools();
        let direct = self.config().direct.as_ref().and_then(|_| Direct::new(self, None).ok());
        let pools = pools.iter().map(|pool| (pool.name.as_str(), &pool.options, &pool.door.tls));
        let direct = direct.iter().map(|direct| (direct.name.as_str(), &direct.options, &direct.door.tls));
        let asked = pools.chain(direct).map(|(name, options, tls)| of_server(name, options, tls, deadline));
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }
}

async fn of_server(
    name: &str,
    options: &PgConnectOptions,
    tls: &TlsFiles,
    deadline: Deadline,
) -> Vec<CertificateStatus> {
    let mut all = Vec::new();
    if !matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow) {
        let asked = deadline.run(ask(options)).await;
        let asked = asked.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        match asked {
            Ok(None) => {}
            Ok(Some(der)) => all.push(status(name, CertificateOwner::Server, None, read(&der))),
            Err(e) => all.push(status(name, CertificateOwner::Server, None, Err(describe(&e)))),
        }
    }
    let ours = [(CertificateOwner::Client, &tls.certificate), (CertificateOwner::Authority, &tls.root)];
    for (owner, file) in ours.into_iter().filter_map(|(owner, file)| Some((owner, file.as_deref()?))) {
        match pem(file).await {
            // Of a chain the first is ours; of a bundle of authorities each may be the one that matters.
            Ok(chain) => {
                let shown = if owner == CertificateOwner::Client { 1 } else { chain.len() };
                all.extend(chain.iter().take(shown).map(|der| status(name, owner, Some(file), read(der))));
            }
            Err(e) => all.push(status(name, owner, Some(file), Err(e))),
        }
    }
    all
}

/// What is in a certificate.
struct Seen {
    subject: String,
    not_before: Option<SystemTime>,
    not_after: Option<SystemTime>,
}

fn status(
    host: &str,
    owner: CertificateOwner,
    file: Option<&Path>,
    seen: Result<Seen, String>,
) -> CertificateStatus {
    let (host, file) = (host.to_owned(), file.map(Path::to_owned));
    let none = CertificateStatus {
        host,
        owner,
        file,
        subject: None,
        not_before: None,
        not_after: None,
        error: None,
    };
    match seen {
        Ok(Seen { subject, not_before, not_after }) => {
            CertificateStatus { subject: Some(subject), not_before, not_after, ..none }
        }
        Err(error) => CertificateStatus { error: Some(error), ..none },
    }
}

fn read(der: &CertificateDer<'_>) -> Result<Seen, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|e| format!("not readable: {e}"))?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    };
    Ok(Seen {
        subject: parsed.subject().to_string(),
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
    })
}

async fn pem(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let bytes = tokio::fs::read(file).await.map_err(|e| told(&e))?;
    let chain =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|e| told(&e))?;
    if chain.is_empty() { Err(told(&"there is no certificate in it")) } else { Ok(chain) }
}

/// Whether the first certificate in the file is known to be over.
pub(crate) async fn has_expired(file: &Path) -> bool {
    let chain = pem(file).await.unwrap_or_default();
    let end = chain.first().and_then(|der| read(der).ok()).and_then(|seen| seen.not_after);
    end.is_some_and(|end| end < SystemTime::now())
}

/// The certificate that the server shows; `None`: it speaks no TLS.
async fn ask(options: &PgConnectOptions) -> io::Result<Option<CertificateDer<'static>>> {
    let host = options.get_host();
    match options.get_socket() {
        Some(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", options.get_port()));
            shown(UnixStream::connect(path).await?, "localhost").await
        }
        None => shown(TcpStream::connect((host, options.get_port())).await?, host).await,
    }
}

async fn shown<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
) -> io::Result<Option<CertificateDer<'static>>> {
    // Length 8, then the number that stands for SSLRequest.
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
    if stream.read_u8().await? != b'S' {
        return Ok(None);
    }
    let recording =
        Arc::new(Recording { provider: Arc::new(ring::default_provider()), seen: Mutex::new(None) });
    let config = ClientConfig::builder_with_provider(Arc::clone(&recording.provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recording) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut bytes = vec![0; 16 * 1024];
    let done = async {
        while tls.is_handshaking() {
            flush(&mut tls, &mut stream).await?;
            let n = stream.read(&mut bytes).await?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut rest = &bytes[..n];
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                tls.process_new_packets().map_err(io::Error::other)?;
            }
        }
        tls.send_close_notify();
        flush(&mut tls, &mut stream).await
    };
    // A server may refuse us for want of a certificate of ours, having shown its own.
    let done = done.await;
    match recording.seen.lock().take() {
        Some(der) => Ok(Some(der)),
        None => done.and(Err(io::Error::other("the server showed no certificate"))),
    }
}

async fn flush<S: AsyncWrite + Unpin>(tls: &mut ClientConnection, stream: &mut S) -> io::Result<()> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out)?;
    }
    stream.write_all(&out).await?;
    stream.flush().await
}

/// Believes everything: it has nothing to lose, for nothing is sent afterwards.
#[derive(Debug)]
struct Recording {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recording {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock() = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
