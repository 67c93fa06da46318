//! What can go wrong, by the phase in which it did. Errors are returned, never logged here.

use std::{fmt, io, time::Duration};

/// One faulty setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting's name.
    pub setting: String,
    /// What is wrong with it, and the mend.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

/// Why a server could not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// No answer, refused, or cut off.
    Unreachable,
    /// The host's name cannot be resolved.
    NoSuchHost,
    /// There is no Unix socket at the path.
    NoSocket,
    /// User or password refused.
    Credentials,
    /// The credential provider cannot tell the password, and never could.
    NoCredentials,
    /// The database does not exist.
    NoDatabase,
    /// The user lacks a right that is needed to connect.
    Rights,
    /// The server has no connection left.
    TooManyConnections,
    /// TLS could not be established, for a reason that has no name of its own here.
    Tls,
    /// The server's certificate has expired.
    ServerCertificateExpired,
    /// The server's certificate is not valid yet, or our clock is wrong.
    ServerCertificateNotYetValid,
    /// The server's certificate is for another host.
    ServerCertificateHost,
    /// The server's certificate is signed by no authority that we trust.
    ServerCertificateAuthority,
    /// Our certificate has expired.
    ClientCertificateExpired,
    /// The server does not accept our certificate, or misses one.
    ClientCertificateRefused,
    /// A certificate, key or authority file cannot be read.
    CertificateFiles,
    /// PgBouncer refused what is sent at start-up.
    Pooler,
    /// The server starts up, shuts down or recovers.
    StartingUp,
    /// The server does not know a setting that is sent at start-up: it is older than Postgres 14.
    TooOld,
    /// It is a standby where a primary is expected.
    NotWritable,
    /// It is a primary where a replica is expected.
    NotReplica,
    /// It belongs to another cluster than the servers known so far.
    OtherCluster,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// Whether waiting may mend it.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::NoSuchHost | Self::NoSocket | Self::TooManyConnections => true,
            Self::StartingUp | Self::NotWritable => true,
            Self::Credentials | Self::NoCredentials | Self::NoDatabase | Self::Rights => false,
            Self::Tls | Self::ServerCertificateExpired | Self::ServerCertificateNotYetValid => false,
            Self::ServerCertificateHost | Self::ServerCertificateAuthority => false,
            Self::ClientCertificateExpired | Self::ClientCertificateRefused => false,
            Self::CertificateFiles | Self::Pooler => false,
            Self::TooOld | Self::NotReplica | Self::OtherCluster | Self::Other => false,
        }
    }

    /// The server answered, and lives: it only does not want us, or us now.
    pub(crate) const fn is_refusal(self) -> bool {
        matches!(self, Self::TooManyConnections | Self::Credentials | Self::NoDatabase | Self::Rights)
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "it cannot be reached; check host, port and that the server runs",
            Self::NoSuchHost => "the host's name cannot be resolved; check host and DNS",
            Self::NoSocket => {
                "there is no such socket; check its directory, the port and that the server runs"
            }
            Self::Credentials => "user or password refused; check both and pg_hba.conf",
            Self::NoCredentials => "its password is not known; mend the password file or whoever provides it",
            Self::NoDatabase => "the database does not exist; create it or correct its name",
            Self::Rights => "the user may not connect; grant CONNECT on the database",
            Self::TooManyConnections => {
                "the server has no connection left; lower size or raise max_connections"
            }
            Self::Tls => "TLS could not be established; check sslmode and certificates",
            Self::ServerCertificateExpired => "the server's certificate has expired; renew it",
            Self::ServerCertificateNotYetValid => {
                "the server's certificate is not valid yet; check the clocks"
            }
            Self::ServerCertificateHost => {
                "the server's certificate is for another host; connect to the host it names"
            }
            Self::ServerCertificateAuthority => {
                "the server's certificate is signed by no trusted authority; set sslrootcert to its authority's"
            }
            Self::ClientCertificateExpired => "our certificate has expired; renew sslcert and sslkey",
            Self::ClientCertificateRefused => {
                "the server does not accept our certificate; check sslcert and sslkey, and whom the server trusts"
            }
            Self::CertificateFiles => {
                "a file of sslcert, sslkey or sslrootcert cannot be read; check path and rights"
            }
            Self::Pooler => "PgBouncer refuses what is sent at start-up; set pgbouncer",
            Self::StartingUp => "the server is starting up or shutting down",
            Self::TooOld => {
                "the server does not know a setting sent at start-up; Postgres 14 or later is needed"
            }
            Self::NotWritable => "it is a standby, a writable primary is expected",
            Self::NotReplica => {
                "it is writable, a replica is expected; is it the primary, or was it promoted?"
            }
            Self::OtherCluster => {
                "its system identifier differs from that of the servers known so far: it belongs to another cluster"
            }
            Self::Other => "the log-in failed",
        }
    }
}

/// Errors of the pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings; all problems.
    #[error("invalid settings: {}", join(.0))]
    Invalid(Vec<Problem>),
    /// A server could not be connected to.
    #[error("cannot connect to {host}: {}", .failure.text())]
    Connect {
        /// Name and address.
        host: String,
        /// The kind.
        failure: ConnectFailure,
        /// The driver's error, where there is one.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// No connection within the deadline.
    #[error(
        "no connection to {host} within {after:?}: total {total}, active {active}, idle {idle}, waiting {waiting}{}",
        last(.last_connect_error)
    )]
    AcquireTimeout {
        /// Name of the server.
        host: String,
        /// How long was waited.
        after: Duration,
        /// Connections open or being opened.
        total: u32,
        /// Connections in use.
        active: u32,
        /// Connections idle.
        idle: u32,
        /// Callers waiting, this one included.
        waiting: u32,
        /// The latest failure to connect, if connecting still fails.
        last_connect_error: Option<String>,
    },
    /// As many callers wait as may.
    #[error("{waiting} callers already wait for a connection to {host}, which is the limit")]
    QueueFull {
        /// Name of the server.
        host: String,
        /// Callers waiting.
        waiting: usize,
    },
    /// The pool was shut down.
    #[error("the pool is shut down")]
    Closed,
    /// An operation did not end within its deadline; its connection is given up.
    #[error("{operation} did not end within its deadline ({after:?})")]
    Timeout {
        /// What was being done.
        operation: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// Another server became the primary, and the connection to the former one is given up.
    #[error("{host} is not the primary any more; the statement {}", if *.sent { "may have run there" } else { "was not sent" })]
    PrimaryChanged {
        /// Name and address of the former primary.
        host: String,
        /// Whether the statement was under way. What it did there is probably lost.
        sent: bool,
    },
    /// The session was held beyond [`reclaim_after`](crate::Config::reclaim_after), and its connection taken back.
    #[error("the session taken at {taken_at} was held too long, and its connection was taken back")]
    Reclaimed {
        /// Where the session was acquired.
        taken_at: &'static std::panic::Location<'static>,
    },
    /// A statement failed.
    #[error("the statement failed")]
    Query(#[source] sqlx::Error),
    /// `BEGIN`, `COMMIT` or `ROLLBACK` as text inside a [`Tx`](crate::Tx).
    #[error("{statement} inside a Tx; use its commit() or rollback(), else its hooks would not run")]
    TransactionControl {
        /// The statement's first word.
        statement: &'static str,
    },
    /// SQL that the library itself sends is empty, or more than one statement.
    #[error("{operation} takes one statement, and this text holds {found}")]
    NotOneStatement {
        /// What it was given to.
        operation: &'static str,
        /// How many it holds.
        found: usize,
    },
    /// A statement whose effect outlives its transaction, behind PgBouncer in transaction mode: the next statement would
    /// meet another server, and somebody else what was left at this one.
    #[error(
        "{statement} would change the session, which PgBouncer in transaction mode lends for one transaction only; use \
         transaction(), SET LOCAL or pg_advisory_xact_lock, or a connection from open_direct()"
    )]
    SessionState {
        /// The word that gave it away.
        statement: String,
    },
    /// The transaction was rolled back, because a statement of it had failed before or at COMMIT.
    #[error("the transaction was rolled back by the server")]
    RolledBack {
        /// The failed statement's SQLSTATE, where known.
        sqlstate: Option<String>,
        /// The server's answer.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// COMMIT was sent and its answer did not come: committed or not, nobody here knows.
    #[error("the outcome of COMMIT is unknown: its answer was lost")]
    OutcomeUnknown {
        /// What happened instead of an answer.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// A migration could not be run.
    #[error("migration of the schema failed")]
    Migration(#[from] crate::migrate::MigrationError),
    /// No server of this name.
    #[error("there is no replica named {0:?}")]
    UnknownHost(String),
}

impl Error {
    /// Whether the same call may succeed later and repeating it is safe.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { failure, .. } => failure.is_transient(),
            Self::AcquireTimeout { .. } | Self::QueueFull { .. } => true,
            Self::RolledBack { sqlstate, .. } => sqlstate.as_deref().is_some_and(is_serialization_failure),
            Self::Query(e) => sqlstate(e).is_some_and(|code| is_serialization_failure(&code)),
            Self::PrimaryChanged { sent, .. } => !sent,
            Self::Invalid(_) | Self::Closed | Self::Timeout { .. } => false,
            Self::TransactionControl { .. } | Self::SessionState { .. } => false,
            Self::OutcomeUnknown { .. } | Self::Migration(_) | Self::UnknownHost(_) => false,
            Self::Reclaimed { .. } | Self::NotOneStatement { .. } => false,
        }
    }

    /// The SQLSTATE behind it, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Query(e) => sqlstate(e),
            Self::RolledBack { sqlstate, .. } => sqlstate.clone(),
            Self::Connect { source, .. } | Self::OutcomeUnknown { source } => {
                source.as_ref().and_then(sqlstate)
            }
            _ => None,
        }
    }
}

/// Errors leave an [`Executor`](sqlx::Executor) as the driver's type; ours travel inside its I/O variant.
impl From<Error> for sqlx::Error {
    fn from(e: Error) -> Self {
        let kind = match e {
            Error::Query(e) => return e,
            Error::AcquireTimeout { .. } | Error::Timeout { .. } => io::ErrorKind::TimedOut,
            Error::Closed | Error::Reclaimed { .. } => io::ErrorKind::NotConnected,
            Error::PrimaryChanged { .. } => io::ErrorKind::ConnectionAborted,
            Error::TransactionControl { .. } | Error::NotOneStatement { .. } => io::ErrorKind::InvalidInput,
            Error::SessionState { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        Self::Io(io::Error::new(kind, e))
    }
}

/// The way back of [`From<Error> for sqlx::Error`].
impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        match e {
            sqlx::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<Self>()) => {
                match io.into_inner().map(|inner| inner.downcast::<Self>()) {
                    Some(Ok(ours)) => *ours,
                    _ => Self::Closed,
                }
            }
            other => Self::Query(other),
        }
    }
}

/// An error of [`transaction`](crate::PostgresPoolManager::transaction).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The closure's own; the transaction is rolled back.
    #[error("the transaction's closure failed")]
    Closure(E),
    /// The pool's or the server's.
    #[error(transparent)]
    Database(#[from] Error),
}

impl<E> TransactionError<E> {
    /// As [`Error::is_retryable`]; a closure's own error is not for the pool to judge.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Closure(_) => false,
            Self::Database(e) => e.is_retryable(),
        }
    }
}

pub(crate) fn sqlstate(e: &sqlx::Error) -> Option<String> {
    e.as_database_error().and_then(|db| db.code()).map(std::borrow::Cow::into_owned)
}

/// What kind of failure it was, for `error.type`: a closed set, which SQLSTATEs are not quite.
pub(crate) fn kind(e: &sqlx::Error) -> &'static str {
    match sqlstate(e).as_deref().and_then(|code| code.get(..2)) {
        Some("08") => "connection",
        Some("22" | "23") => "data",
        Some("25" | "2D" | "3B") => "transaction_state",
        Some("28") => "credentials",
        Some("40") => "serialization",
        Some("42") => "syntax_or_access",
        Some("53" | "54") => "resources",
        Some("55") => "object_state",
        Some("57") => "cancelled",
        Some(_) => "_OTHER",
        None => match e {
            sqlx::Error::RowNotFound => "row_not_found",
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => "connection",
            _ => "_OTHER",
        },
    }
}

/// serialization_failure, deadlock_detected: run the whole transaction again.
pub(crate) fn is_serialization_failure(sqlstate: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01")
}

fn join(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

fn last(error: &Option<String>) -> String {
    error.as_ref().map_or_else(String::new, |e| format!("; last connect error: {e}"))
}
