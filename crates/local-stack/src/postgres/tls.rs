//! What Postgres is told about TLS, and what its URL says of it.

use std::path::PathBuf;

use super::Starter;
use crate::address::encode;
use crate::authority::Certificate;
use crate::error::Error;
use crate::options::ClientCertificates;

impl Starter<'_> {
    /// The settings of TLS of a server of this name, for which a certificate is made; none without TLS.
    pub(super) fn tls_settings(&self, name: &str) -> Result<Vec<(&'static str, String)>, Error> {
        let Some((options, authority)) = self.tls else { return Ok(Vec::new()) };
        let pair = authority.renew_server(name, Certificate::Valid)?;
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut settings = vec![
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", path(pair.cert_file)),
            ("ssl_key_file", path(pair.key_file)),
        ];
        if options.client_certificates != ClientCertificates::NotAsked {
            settings.push(("ssl_ca_file", path(authority.ca_file())));
        }
        Ok(settings)
    }

    pub(super) fn url_query(&self) -> Option<String> {
        let (options, authority) = self.tls?;
        let file = |path: PathBuf| encode(&path.to_string_lossy()).replace("%2F", "/");
        let mut query = format!("sslmode=verify-full&sslrootcert={}", file(authority.ca_file()));
        if options.client_certificates == ClientCertificates::Required {
            let client = authority.client();
            query.push_str(&format!("&sslcert={}&sslkey={}", file(client.cert_file), file(client.key_file)));
        }
        Some(query)
    }

    /// How a line of `pg_hba.conf` about TCP begins and ends.
    pub(super) fn host_rule(&self) -> (&'static str, &'static str) {
        match self.tls.map(|(options, _)| options.client_certificates) {
            None => ("host", ""),
            Some(ClientCertificates::NotAsked | ClientCertificates::Optional) => ("hostssl", ""),
            Some(ClientCertificates::Required) => ("hostssl", " clientcert=verify-ca"),
        }
    }
}
