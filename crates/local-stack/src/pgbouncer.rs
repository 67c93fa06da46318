//! PgBouncer in transaction mode before a Postgres primary: what many services see of their Postgres. Not here: the
//! primary it stands before (`postgres`), which it goes on to name after a promotion.

use std::path::Path;
use std::time::Instant;

use crate::address::Address;
use crate::authority::{Authority, Certificate};
use crate::directory::Directory;
use crate::error::Error;
use crate::find::PgBouncerBinary;
use crate::launch::{Blueprint, launch};
use crate::options::{Auth, ClientCertificates, PostgresOptions};
use crate::server::{Kind, Server};

const NAME: &str = "pgbouncer-0";
/// The database in which it is asked about itself.
pub(crate) const CONSOLE: &str = "pgbouncer";

/// Starts one that passes every database on to the primary, over its socket.
pub(crate) fn start(
    directory: &Directory,
    binary: &PgBouncerBinary,
    options: &PostgresOptions,
    authority: Option<&Authority>,
    primary: &Server,
    until: Instant,
) -> Result<Server, Error> {
    let home = directory.make(NAME)?;
    let file = |name: &str| home.join(name);
    directory.write(&file("users.txt"), &users(primary))?;
    directory.write(&file("hba.conf"), &access_rules(options.auth))?;
    let authority = authority.filter(|_| options.tls.is_some());
    let tls = authority.map_or(Ok(Vec::new()), |authority| tls_settings(options, authority))?;
    let server = launch(directory, NAME, Kind::PgBouncer, until, |port| {
        let settings = file("pgbouncer.ini");
        directory.write(&settings, &configuration(options, primary, &home, port, &tls))?;
        Ok(Blueprint {
            program: binary.server.clone(),
            arguments: vec![settings.to_string_lossy().into_owned()],
            home: home.clone(),
            socket: file(&format!(".s.PGSQL.{port}")),
            address: Address { port, ..primary.address().clone() },
            redis: None,
        })
    })?;
    Ok(server.secured(authority))
}

/// Whether its last start was without the port, of which it only warns. `log` is all it has ever said.
pub(crate) fn lacks_its_port(log: &str) -> bool {
    // It says so before it says that it is up.
    log.rsplit("process up").nth(1).is_some_and(|start| start.contains("cannot listen on"))
}

// Others than the superuser are asked for at the primary, so that a test's roles come in as well.
fn users(primary: &Server) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    format!(
        "{} {}\n",
        quoted(primary.user().unwrap_or("postgres")),
        quoted(primary.password().unwrap_or_default())
    )
}

fn access_rules(auth: Auth) -> String {
    format!("local all all trust\nhost all all 127.0.0.1/32 {}\n", auth.method())
}

fn configuration(
    options: &PostgresOptions,
    primary: &Server,
    home: &Path,
    port: u16,
    tls: &[(&'static str, String)],
) -> String {
    let socket = primary.socket().and_then(Path::parent).unwrap_or(home);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut settings: Vec<(&str, String)> = vec![
        ("listen_addr", "127.0.0.1".into()),
        ("listen_port", port.to_string()),
        ("unix_socket_dir", text(home)),
        ("unix_socket_mode", "0700".into()),
        ("auth_type", "hba".into()),
        ("auth_hba_file", text(&home.join("hba.conf"))),
        ("auth_file", text(&home.join("users.txt"))),
        ("admin_users", "postgres".into()),
        ("pool_mode", "transaction".into()),
        // Having many clients on few connections is what it is for.
        ("max_client_conn", "1000".into()),
        // Drivers send it at every start; it means nothing since Postgres 12.
        ("ignore_startup_parameters", "extra_float_digits".into()),
        // How soon it looks again for a primary that was away; 15 s is for real networks.
        ("server_login_retry", "0.1".into()),
    ];
    settings.extend_from_slice(tls);
    settings.extend(options.pgbouncer_settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
    let lines: String = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    format!(
        "[databases]\n* = host='{}' port={} auth_user=postgres\n\n[pgbouncer]\n{lines}",
        text(socket).replace('\'', "''"),
        primary.port()
    )
}

fn tls_settings(
    options: &PostgresOptions,
    authority: &Authority,
) -> Result<Vec<(&'static str, String)>, Error> {
    let pair = authority.renew_server(NAME, Certificate::Valid)?;
    let required = options
        .tls
        .as_ref()
        .is_some_and(|options| options.client_certificates == ClientCertificates::Required);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(vec![
        // It knows no certificates that are optional and looked at.
        ("client_tls_sslmode", if required { "verify-ca" } else { "require" }.into()),
        ("client_tls_cert_file", text(&pair.cert_file)),
        ("client_tls_key_file", text(&pair.key_file)),
        ("client_tls_ca_file", text(&authority.ca_file())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_start_counts() {
        let (good, bad) =
            ("LOG process up: PgBouncer 1.18\n", "WARNING cannot listen on 127.0.0.1:1: bind()\n");
        for (log, lacks) in [
            (String::new(), false),
            (good.to_owned(), false),
            (format!("{bad}{good}LOG more\n"), true),
            (format!("{bad}{good}{good}"), false),
            (format!("{good}{bad}{good}"), true),
        ] {
            assert_eq!(lacks_its_port(&log), lacks, "{log}");
        }
    }
}
