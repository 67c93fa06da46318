//! Why a connection could not be opened, told apart as far as driver, server and the files of TLS let us. It repeats and
//! retries nothing.

use crate::{certificates, error::ConnectFailure as Failure};
use secrecy::{ExposeSecret, SecretString};
use sqlx::error::DatabaseError;
use std::{
    io,
    path::{Path, PathBuf},
};

/// The files that an address names. The driver reads them at every attempt, so a renewal needs no restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) root: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl TlsFiles {
    pub(crate) fn of(url: &SecretString) -> Self {
        let Ok(url) = url::Url::parse(url.expose_secret()) else { return Self::default() };
        let mut files = Self::default();
        for (name, value) in url.query_pairs() {
            let place = match &*name {
                "sslrootcert" | "ssl-root-cert" | "ssl-ca" => &mut files.root,
                "sslcert" | "ssl-cert" => &mut files.certificate,
                "sslkey" | "ssl-key" => &mut files.key,
                _ => continue,
            };
            // The driver also takes the text itself.
            *place = (!value.trim_start().starts_with("-----BEGIN")).then(|| PathBuf::from(&*value));
        }
        files
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        [&self.root, &self.certificate, &self.key].into_iter().filter_map(Option::as_deref)
    }
}

/// The kind of a failed attempt.
pub(crate) async fn connect_failure(e: &sqlx::Error, tls: &TlsFiles, socket: bool) -> Failure {
    if let sqlx::Error::Database(db) = e {
        return of_server(db.as_ref());
    }
    if let Some(failure) = rustls_error(e).map(of_tls)
        && failure != Failure::Tls
    {
        return failure;
    }
    for file in tls.all() {
        if tokio::fs::read(file).await.is_err() {
            return Failure::CertificateFiles;
        }
    }
    // A server may close the connection before its reason has arrived.
    if let Some(file) = &tls.certificate
        && certificates::has_expired(file).await
    {
        return Failure::ClientCertificateExpired;
    }
    match e {
        sqlx::Error::Tls(_) => Failure::Tls,
        sqlx::Error::Io(_) if rustls_error(e).is_some() => Failure::Tls,
        sqlx::Error::Io(io) if socket && io.kind() == io::ErrorKind::NotFound => Failure::NoSocket,
        sqlx::Error::Io(io) if io.to_string().contains("failed to lookup address") => Failure::NoSuchHost,
        sqlx::Error::Io(_) => Failure::Unreachable,
        _ => Failure::Other,
    }
}

/// The kind of a failure right after the log-in.
pub(crate) fn after_login(e: &sqlx::Error) -> Failure {
    match e {
        sqlx::Error::Database(db) => of_server(db.as_ref()),
        sqlx::Error::Io(_) => Failure::Unreachable,
        _ => Failure::Other,
    }
}

fn of_server(db: &dyn DatabaseError) -> Failure {
    let text = db.message();
    match db.code().as_deref().unwrap_or_default() {
        "28000" if text.contains("certificate") => Failure::ClientCertificateRefused,
        "28P01" | "28000" => Failure::Credentials,
        "3D000" => Failure::NoDatabase,
        "42501" => Failure::Rights,
        "53300" => Failure::TooManyConnections,
        "57P01" | "57P02" | "57P03" => Failure::StartingUp,
        "42704" => Failure::TooOld,
        "08P01" if text.contains("startup parameter") => Failure::Pooler,
        // PgBouncer's words: it knows no codes for these before 1.20.
        "08P01" if text.contains("password authentication failed") || text.contains("auth failed") => {
            Failure::Credentials
        }
        "08P01" if text.contains("no such database") => Failure::NoDatabase,
        "08P01" if text.contains("no more connections") => Failure::TooManyConnections,
        code if code.starts_with("08") => Failure::Unreachable,
        _ => Failure::Other,
    }
}

fn rustls_error(e: &sqlx::Error) -> Option<&rustls::Error> {
    match e {
        sqlx::Error::Io(io) => io.get_ref()?.downcast_ref(),
        sqlx::Error::Tls(e) => e.downcast_ref(),
        _ => None,
    }
}

fn of_tls(e: &rustls::Error) -> Failure {
    use rustls::{AlertDescription as Alert, CertificateError as E};
    match e {
        rustls::Error::InvalidCertificate(e) => match e {
            E::Expired | E::ExpiredContext { .. } => Failure::ServerCertificateExpired,
            E::NotValidYet | E::NotValidYetContext { .. } => Failure::ServerCertificateNotYetValid,
            E::NotValidForName | E::NotValidForNameContext { .. } => Failure::ServerCertificateHost,
            E::UnknownIssuer => Failure::ServerCertificateAuthority,
            _ => Failure::Tls,
        },
        rustls::Error::AlertReceived(Alert::CertificateExpired) => Failure::ClientCertificateExpired,
        rustls::Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate,
        ) => Failure::ClientCertificateRefused,
        _ => Failure::Tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_off_the_address() {
        let files = TlsFiles::of(
            &"postgres://u:p%40@h/d?sslmode=verify-full&sslrootcert=/a%20b&sslkey=/k&x=y".into(),
        );
        assert_eq!(files.root.as_deref(), Some(Path::new("/a b")));
        assert_eq!((files.certificate, files.key.as_deref()), (None, Some(Path::new("/k"))));
        let inline = TlsFiles::of(&"postgres://h/d?sslcert=-----BEGIN%20CERTIFICATE-----".into());
        assert_eq!(inline, TlsFiles::default());
    }
}
