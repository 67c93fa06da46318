//! Checks a server's certificate as the settings say, and keeps what was seen of it: when it ends, or what is wrong.

use super::Verify;
use parking_lot::Mutex;
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use serde::Serialize;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is wrong with a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CertificateProblem {
    /// Its time is over.
    Expired,
    /// Its time has not come; or our clock is wrong.
    NotYetValid,
    /// It is for other hosts than the one that was connected to.
    WrongHost,
    /// It is signed by nobody that the settings trust.
    UnknownAuthority,
    /// Something else, in the library's words.
    Other(String),
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "has expired",
            Self::NotYetValid => "is not valid yet",
            Self::WrongHost => "is for another host",
            Self::UnknownAuthority => "is signed by no trusted authority",
            Self::Other(what) => return write!(f, "is refused: {what}"),
        })
    }
}

/// What one connection saw of the server's certificate.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    expires: Mutex<Option<SystemTime>>,
    problem: Mutex<Option<CertificateProblem>>,
}

impl Seen {
    /// When it ends.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        *self.expires.lock()
    }

    pub(crate) fn problem(&self) -> Option<CertificateProblem> {
        self.problem.lock().clone()
    }
}

pub(super) struct Checking {
    verify: Verify,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    seen: Arc<Seen>,
}

impl Checking {
    pub(super) fn new(verify: Verify, roots: Arc<RootCertStore>, seen: Arc<Seen>) -> Self {
        Self { verify, roots, provider: Arc::new(ring::default_provider()), seen }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match self.verify {
            Verify::Full => {
                let provider = Arc::clone(&self.provider);
                let full = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider);
                let full = full.build().map_err(|error| rustls::Error::General(error.to_string()))?;
                full.verify_server_cert(end_entity, intermediates, server_name, ocsp, now).map(drop)
            }
            Verify::Ca => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            ),
            Verify::None => Ok(()),
        }
    }
}

impl fmt::Debug for Checking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checking({:?})", self.verify)
    }
}

impl ServerCertVerifier for Checking {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.expires.lock() = not_after(end_entity);
        let checked = self.check(end_entity, intermediates, server_name, ocsp_response, now);
        checked.inspect_err(|error| *self.seen.problem.lock() = Some(problem(error)))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn problem(error: &rustls::Error) -> CertificateProblem {
    let rustls::Error::InvalidCertificate(error) = error else {
        return CertificateProblem::Other(error.to_string());
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateProblem::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateProblem::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateProblem::WrongHost
        }
        CertificateError::UnknownIssuer => CertificateProblem::UnknownAuthority,
        other => CertificateProblem::Other(other.to_string()),
    }
}

/// When a certificate ends; `None` if it cannot be read.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
