//! Asking a server something, blocking and async: SQL, Redis commands, whether it is ready.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Inner, Kind, Server};
use crate::error::Error;
use crate::find::on_path;
use crate::install::install_line;
use crate::pgbouncer;
use crate::pgwire::{Client, Failure, Row};
use crate::resp::{self, Reply};

/// Bounds each read and write of a statement; a paused server answers nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// A character that no text answer holds, between psql's columns.
const SEPARATOR: &str = "\u{1f}";

impl Server {
    /// Runs SQL (statements separated by semicolons) in a database, as the superuser; the rows as text. Blocks.
    /// PgBouncer's own database, `pgbouncer`, takes its commands, such as `show pools`.
    ///
    /// An external server is asked by `psql`, which runs the statements one by one, and whose text does not tell a null
    /// from an empty value, nor a line break in a value from a new row. Errors: [`Error::Refused`] with SQLSTATE,
    /// [`Error::Unreachable`].
    pub fn sql_blocking(&self, database: &str, sql: &str) -> Result<Vec<Row>, Error> {
        if !matches!(self.kind(), Kind::Postgres | Kind::PgBouncer) {
            return Err(self.no_such_part("SQL"));
        }
        let Some(ours) = &self.inner.ours else { return self.psql(database, sql) };
        let mut client =
            Client::connect(&ours.socket, database, PATIENCE).map_err(|failure| self.failed(sql, failure))?;
        client.query(sql).map_err(|failure| self.failed(sql, failure))
    }

    /// Runs one Redis command, as a user with all rights. Blocks, at most ten seconds.
    ///
    /// Errors: [`Error::Refused`] for an error answer, [`Error::Unreachable`].
    pub fn redis_command_blocking(&self, words: &[&str]) -> Result<Reply, Error> {
        let Some(access) = &self.inner.redis else { return Err(self.no_such_part("Redis command")) };
        match resp::command(access, words, Duration::from_secs(10)) {
            Ok(Reply::Error(message)) => Err(Error::Refused {
                server: self.name().into(),
                request: shortened(&words.join(" ")),
                message,
            }),
            Ok(reply) => Ok(reply),
            Err(source) => Err(self.failed(&words.join(" "), Failure::Io(source))),
        }
    }

    /// Waits until it answers its own protocol. Blocks.
    pub fn wait_ready_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let last = match self.probe() {
                Ok(()) => return Ok(()),
                Err(last) => last,
            };
            let waited = start.elapsed();
            let ended = self.inner.ours.as_ref().and_then(|ours| ours.process().exit_status());
            if let Some(status) = ended {
                return Err(Error::NotRunning { server: self.name().into(), status });
            }
            if waited >= within {
                let (log, tail) =
                    self.inner.ours.as_ref().map(|ours| (ours.log.clone(), ours.tail())).unwrap_or_default();
                return Err(Error::NotReady { server: self.name().into(), waited, last, log, tail });
            }
            match &self.inner.ours {
                Some(ours) => {
                    ours.process().wait_ended(Duration::from_millis(3));
                }
                None => crate::pause(Duration::from_millis(50)),
            }
        }
    }

    /// One round of the real protocol.
    fn probe(&self) -> Result<(), String> {
        let Inner { kind, redis, ours, .. } = &*self.inner;
        match (redis, ours) {
            (Some(access), _) => match resp::command(access, &["PING"], PROBE_PATIENCE) {
                Ok(Reply::Text(pong)) if pong == "PONG" => Ok(()),
                Ok(other) => Err(other.to_string()),
                Err(error) => Err(error.to_string()),
            },
            (None, Some(ours)) => {
                let database = if *kind == Kind::PgBouncer { pgbouncer::CONSOLE } else { "postgres" };
                match Client::connect(&ours.socket, database, PROBE_PATIENCE) {
                    Ok(_) if *kind == Kind::PgBouncer && pgbouncer::lacks_its_port(&self.log()) => {
                        // It would go on without. Ended, it is like any other whose port is taken.
                        ours.process().kill_tree();
                        Err("its port is taken".into())
                    }
                    Ok(_) => Ok(()),
                    Err(Failure::Io(error)) => Err(error.to_string()),
                    Err(Failure::Server { message, .. }) => Err(message),
                }
            }
            (None, None) => self.psql("postgres", "select 1").map(drop).map_err(|error| error.to_string()),
        }
    }

    fn psql(&self, database: &str, sql: &str) -> Result<Vec<Row>, Error> {
        let Some(psql) = on_path("psql") else {
            return Err(Error::Missing {
                what: "psql, which asks an external Postgres".into(),
                looked_in: "PATH".into(),
                install_line: install_line(&["postgres"]),
            });
        };
        let failed = |source| Error::Spawn { program: psql.clone(), source };
        let mut child = Command::new(&psql)
            // Read from its input: an argument may not be longer than 128 KiB.
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-F", SEPARATOR, "-f", "-"])
            .env("PGCONNECT_TIMEOUT", "5")
            // Not as an argument: those are everybody's to see.
            .env("PGPASSWORD", self.password().unwrap_or_default())
            .arg({
                let mut address = self.inner.address.with_path(database);
                address.password = None;
                address.url()
            })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let input = child.stdin.take();
        let output = std::thread::scope(|scope| {
            // Beside the reading of its answers, which it may not hold back. What it does not read it has refused.
            scope.spawn(move || input.map(|mut input| input.write_all(sql.as_bytes())));
            child.wait_with_output().map_err(failed)
        })?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Refused { server: self.name().into(), request: shortened(sql), message });
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .map(|line| line.split(SEPARATOR).map(|column| Some(column.into())).collect())
            .collect())
    }

    fn failed(&self, request: &str, failure: Failure) -> Error {
        let (server, request) = (self.name().to_owned(), shortened(request));
        match failure {
            Failure::Server { code, message } => {
                Error::Refused { server, request, message: format!("{code} {message}") }
            }
            Failure::Io(source) => {
                match self.inner.ours.as_ref().and_then(|ours| ours.process().exit_status()) {
                    Some(status) => Error::NotRunning { server, status },
                    None => Error::Unreachable { server, request, source },
                }
            }
        }
    }

    pub(super) fn no_such_part(&self, asked: &str) -> Error {
        Error::NoSuchPart { part: format!("{asked} on {}", self.name()) }
    }
}

fn shortened(request: &str) -> String {
    match request.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &request[..end]),
        None => request.to_owned(),
    }
}

#[cfg(feature = "async")]
impl Server {
    /// [`sql_blocking`](Self::sql_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<Vec<Row>, Error> {
        let (server, database, sql) = (self.clone(), database.to_owned(), sql.to_owned());
        crate::unblock("sql", move || server.sql_blocking(&database, &sql)).await
    }

    /// [`redis_command_blocking`](Self::redis_command_blocking) off the runtime's threads. Dropped, it still runs to
    /// its end.
    pub async fn redis_command(&self, words: &[&str]) -> Result<Reply, Error> {
        let (server, words) = (self.clone(), words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        crate::unblock("redis_command", move || {
            server.redis_command_blocking(&words.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
    }

    /// [`wait_ready_blocking`](Self::wait_ready_blocking) off the runtime's threads.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), Error> {
        let server = self.clone();
        crate::unblock("wait_ready", move || server.wait_ready_blocking(within)).await
    }
}
