//! Who we are towards the servers, and who knows that. It opens nothing.

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use std::{fmt, path::PathBuf};

/// A user and its password.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Role; `None`: the address's own.
    pub username: Option<String>,
    /// Password; `None`: the address's own.
    pub password: Option<SecretString>,
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let secret = |credentials: &Self| credentials.password.as_ref().map(|p| p.expose_secret().to_owned());
        self.username == other.username && secret(self) == secret(other)
    }
}

/// Knows the credentials of now: a vault, a file that is replaced, a cloud's tokens that expire.
///
/// Asked before every attempt to connect, to whatever server, so that a rotation needs no restart. Connections that
/// stand keep what they logged in with and live on until their
/// [`max_lifetime`](crate::Config::max_lifetime); the order of a rotation does not matter, as long as both happen soon:
/// a server that refuses the credentials is asked again as soon as they change, else after a pause that grows from 1 s to
/// 10 s, so that a wrong password locks nobody out.
#[async_trait]
pub trait CredentialProvider: Send + Sync + fmt::Debug {
    /// The credentials of now.
    ///
    /// Cancel safety: may be dropped at [`Config::connect_timeout`](crate::Config::connect_timeout).
    ///
    /// # Errors
    /// [`CredentialError`] if it cannot tell; the last answer is used, if there was one.
    async fn credentials(&self) -> Result<Credentials, CredentialError>;
}

/// The provider cannot tell the credentials.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CredentialError(pub String);

/// A password in a file, as orchestrators mount secrets: without the line's end.
#[derive(Clone, Debug)]
pub struct PasswordFile {
    /// Role; `None`: the address's own.
    pub username: Option<String>,
    /// The file.
    pub path: PathBuf,
}

#[async_trait]
impl CredentialProvider for PasswordFile {
    async fn credentials(&self) -> Result<Credentials, CredentialError> {
        let read = tokio::fs::read_to_string(&self.path).await;
        let text = read.map_err(|error| CredentialError(format!("{}: {error}", self.path.display())))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(CredentialError(format!("{} is empty", self.path.display())));
        }
        Ok(Credentials { username: self.username.clone(), password: Some(password.into()) })
    }
}
