//! Exchanging the certificate that a running server shows. Not here: making one (`authority`).

use std::time::Instant;

use super::{Kind, Server};
use crate::authority::Certificate;
use crate::error::Error;
use crate::options::START_TIMEOUT;
use crate::pgbouncer;

impl Server {
    /// Gives it another certificate while it runs, as a renewal would. Blocks. Connections that stand keep theirs; new
    /// ones see the new one, as they do after a restart.
    ///
    /// Postgres and PgBouncer reload their settings, Redis sets the one; a Sentinel has no command for that and is restarted. For a
    /// server that does not run it holds from its next start. [`Error::NoSuchPart`] of a server without TLS.
    pub fn use_certificate_blocking(&self, certificate: Certificate) -> Result<(), Error> {
        let Some(authority) = self.authority() else { return Err(self.no_such_part("TLS")) };
        let before =
            if self.kind() == Kind::Postgres && self.is_running() { self.loaded_at()? } else { None };
        let pair = authority.renew_server(self.name(), certificate)?;
        if !self.is_running() {
            return Ok(());
        }
        match self.kind() {
            Kind::Redis => {
                // The same words as before; Redis reads certificate and key again all the same.
                let file = pair.cert_file.to_string_lossy();
                self.redis_command_blocking(&["CONFIG", "SET", "tls-cert-file", &file]).map(drop)
            }
            Kind::Sentinel => self.restart_blocking(),
            // It answers when it is done.
            Kind::PgBouncer => self.sql_blocking(pgbouncer::CONSOLE, "RELOAD").map(drop),
            Kind::Postgres => {
                self.sql_blocking("postgres", "select pg_reload_conf()")?;
                let start = Instant::now();
                while self.loaded_at()? == before {
                    if start.elapsed() > START_TIMEOUT {
                        let what = format!("{} has read its settings again", self.name());
                        return Err(Error::Waited { what, waited: start.elapsed() });
                    }
                    crate::pause(std::time::Duration::from_millis(3));
                }
                Ok(())
            }
        }
    }

    /// When the postmaster read its settings, which a new connection has from it.
    fn loaded_at(&self) -> Result<Option<String>, Error> {
        Ok(self
            .sql_blocking("postgres", "select pg_conf_load_time()")?
            .into_iter()
            .flatten()
            .flatten()
            .next())
    }
}

#[cfg(feature = "async")]
impl Server {
    /// [`use_certificate_blocking`](Self::use_certificate_blocking) off the runtime's threads. Dropped, it still runs to
    /// its end.
    pub async fn use_certificate(&self, certificate: Certificate) -> Result<(), Error> {
        let server = self.clone();
        crate::unblock("use_certificate", move || server.use_certificate_blocking(certificate)).await
    }
}
