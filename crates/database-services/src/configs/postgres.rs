//! Postgres' addresses, put together from the single settings, and who knows the password. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use postgres_pool_manager::{CredentialProvider, PasswordFile};
use secrecy::ExposeSecret;
use url::Url;

use super::broken;
use crate::Error;
use crate::settings::Settings;

/// One server, and how to log in to it.
#[derive(Clone)]
pub(super) struct Address {
    host: String,
    port: u16,
    user: String,
    /// `None`: none, or the provider knows it.
    password: Option<String>,
    database: String,
    ssl_mode: String,
    /// Authority, certificate, key.
    files: [Option<PathBuf>; 3],
}

impl Address {
    /// The primary's.
    pub(super) fn main(s: &Settings) -> Self {
        let known = s.file_of("database_password").is_none();
        let password = s.database_password.as_ref().filter(|_| known);
        Self {
            host: s.database_host.clone(),
            port: s.database_port,
            user: s.database_user.clone(),
            password: password.map(|p| p.expose_secret().to_owned()),
            database: s.database_name.clone(),
            ssl_mode: s.postgres_ssl_mode().to_owned(),
            files: [
                s.database_ssl_ca_path.clone(),
                s.database_ssl_cert_path.clone(),
                s.database_ssl_key_path.clone(),
            ],
        }
    }

    /// The same on another server.
    pub(super) fn at(self, host: String, port: u16) -> Self {
        Self { host, port, ..self }
    }

    /// That of `DATABASE_DIRECT_URL`; what it does not say is as for the primary.
    pub(super) fn direct(s: &Settings) -> Result<Option<Self>, Error> {
        let Some(url) = &s.database_direct_url else { return Ok(None) };
        let parts: BTreeMap<_, _> = crate::settings::url_parts_of("database_url", url.expose_secret())
            .map_err(|why| broken("Postgres", why))?
            .into_iter()
            .collect();
        let part = |key: &str| parts.get(key).filter(|text| !text.is_empty()).cloned();
        let main = Self::main(s);
        let [ca, cert, key] = main.files;
        let file = |name: &str, own: Option<PathBuf>| part(name).map(PathBuf::from).or(own);
        Ok(Some(Self {
            host: part("database_host").unwrap_or(main.host),
            port: part("database_port").and_then(|port| port.parse().ok()).unwrap_or(5432),
            user: part("database_user").unwrap_or(main.user),
            password: part("database_password").or(main.password),
            database: part("database_name").unwrap_or(main.database),
            ssl_mode: part("database_ssl_mode").unwrap_or(main.ssl_mode),
            files: [
                file("database_ssl_ca_path", ca),
                file("database_ssl_cert_path", cert),
                file("database_ssl_key_path", key),
            ],
        }))
    }

    /// Everything percent-encoded.
    pub(super) fn url(&self) -> Result<String, Error> {
        let mut url = Url::parse("postgres://localhost").map_err(|e| broken("Postgres", e))?;
        let host = &self.host;
        let socket = host.starts_with('/');
        if !socket {
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            url.set_host(Some(&bracketed)).map_err(|e| broken("Postgres", e))?;
        }
        url.set_port(Some(self.port)).map_err(|()| broken("Postgres", self.port))?;
        // Encoded beforehand: the library leaves alone what looks like an escape.
        url.set_username(&encode(&self.user)).map_err(|()| broken("Postgres", "DATABASE_USER"))?;
        let password = self.password.as_deref().map(encode);
        url.set_password(password.as_deref()).map_err(|()| broken("Postgres", "DATABASE_PASSWORD"))?;
        url.set_path(&encode(&self.database));
        let mut query = url.query_pairs_mut();
        query.append_pair("sslmode", &self.ssl_mode);
        if socket {
            query.append_pair("host", host);
        }
        for (name, path) in ["sslrootcert", "sslcert", "sslkey"].into_iter().zip(&self.files) {
            if let Some(path) = path {
                query.append_pair(name, &path.display().to_string());
            }
        }
        drop(query);
        Ok(url.into())
    }
}

/// Who knows the password, where it stands in a file that may be replaced while we run.
pub(super) fn credentials(s: &Settings) -> Option<Arc<dyn CredentialProvider>> {
    let path = s.file_of("database_password")?.to_owned();
    Some(Arc::new(PasswordFile { username: None, path }))
}

/// Percent-encodes everything but letters, digits and `-_.~`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
