//! The connection behind one question, and what its user may see. It is never a pool's.

use super::{Insight, InsightError, Server};
use crate::{ConnectFailure, Error, connect::attempt};
use resilience::Deadline;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use std::{future::Future, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Operators are few; a program that asks in a loop must not use the server's connections up.
static OPEN: Semaphore = Semaphore::const_new(4);

/// Rows of an answer and what is to be known about them.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report<T> {
    /// The server that answered.
    pub server: String,
    /// The rows.
    pub rows: Vec<T>,
    /// Whether there are more rows than were asked for.
    pub truncated: bool,
    /// Rights that the user lacks, and what is hidden therefore.
    pub missing: Vec<MissingRight>,
    /// Further remarks for whoever reads the rows.
    pub notes: Vec<String>,
}

impl<T> Report<T> {
    pub(crate) fn new(link: &Link, mut rows: Vec<T>, limit: usize) -> Self {
        let truncated = rows.len() > limit;
        rows.truncate(limit);
        let (missing, notes) = (Vec::new(), Vec::new());
        Self { server: link.server.clone(), rows, truncated, missing, notes }
    }
}

/// A right that the user does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MissingRight {
    /// The predefined role that holds it.
    pub right: &'static str,
    /// What is not shown, or not done, without it.
    pub hidden: String,
    /// The statement with which a superuser gives it.
    pub grant: String,
}

/// One connection, one question.
pub(crate) struct Link {
    pub(crate) pg: PgConnection,
    pub(crate) server: String,
    pub(crate) rights: Rights,
    _place: SemaphorePermit<'static>,
}

/// What the user may do.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Rights {
    pub(crate) username: String,
    pub(crate) database: String,
    pub(crate) version: i32,
    pub(crate) standby: bool,
    pub(crate) superuser: bool,
    read_all_stats: bool,
    signal_backend: bool,
}

const RIGHTS: &str = "SELECT current_user::text AS username, current_database()::text AS database, \
    current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby, \
    coalesce((SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), false) AS superuser, \
    pg_has_role('pg_read_all_stats', 'USAGE') AS read_all_stats, \
    pg_has_role('pg_signal_backend', 'USAGE') AS signal_backend";

impl Rights {
    /// Whether others' sessions and statements can be seen; if not, what is hidden.
    pub(crate) fn sees_all(&self, hidden: &str) -> Vec<MissingRight> {
        self.missing(self.read_all_stats, "pg_read_all_stats", hidden)
    }

    pub(crate) fn signals(&self, hidden: &str) -> Vec<MissingRight> {
        self.missing(self.signal_backend, "pg_signal_backend", hidden)
    }

    fn missing(&self, has: bool, right: &'static str, hidden: &str) -> Vec<MissingRight> {
        if has || self.superuser {
            return Vec::new();
        }
        let grant = format!("GRANT {right} TO {}", crate::schema::quote_ident(&self.username));
        vec![MissingRight { right, hidden: hidden.to_owned(), grant }]
    }
}

impl Insight {
    /// Connects to a server, asks, and closes the connection, all within `deadline`.
    ///
    /// Cancel safety: the connection is dropped, and the server ends what runs on it within a second.
    pub(crate) async fn ask<T>(
        &self,
        host: Option<&str>,
        operation: &'static str,
        deadline: Deadline,
        question: impl AsyncFnOnce(&mut Link) -> Result<T, InsightError>,
    ) -> Result<T, InsightError> {
        let server = self.server(host)?;
        let work = async {
            let mut link = self.open(server).await?;
            let answer = question(&mut link).await;
            // A server that does not take the farewell is left without.
            let _ = tokio::time::timeout(Duration::from_secs(1), link.pg.close()).await;
            answer
        };
        // Boxed: connecting and logging in take a future of many kilobytes.
        within(deadline, operation, Box::pin(work)).await?
    }

    pub(crate) async fn open(&self, server: &Server) -> Result<Link, InsightError> {
        let place = OPEN.acquire().await.map_err(|_never_closed| Error::Closed)?;
        let host = format!("{} ({}:{})", server.name, server.options.get_host(), server.options.get_port());
        let name = format!("{}:insight", self.config().application_name);
        let options = server.options.clone().application_name(&name);
        let limit = self.config().connect_timeout;
        let connected = tokio::time::timeout(limit, attempt(&server.door, &host, &options)).await;
        let mut pg = connected.unwrap_or_else(|_| {
            let silent =
                std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
            Err(Error::Connect { host, failure: ConnectFailure::Unreachable, source: Some(silent.into()) })
        })?;
        let rights = sqlx::query_as::<_, Rights>(RIGHTS).fetch_one(&mut pg).await?;
        Ok(Link { pg, server: server.name.clone(), rights, _place: place })
    }
}

impl Link {
    /// Runs a text without an answer. The caller has quoted what it put into it.
    pub(crate) async fn run(&mut self, sql: String) -> Result<(), sqlx::Error> {
        self.pg.execute(AssertSqlSafe(sql)).await.map(drop)
    }
}

pub(crate) async fn within<T>(
    deadline: Deadline,
    operation: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, InsightError> {
    deadline.run(work).await.map_err(|_| InsightError::Timeout { operation })
}
