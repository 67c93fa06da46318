//! What can go wrong with a question to a server, each refusal with an error of its own.

use crate::Error;

/// Errors of [`Insight`](super::Insight).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsightError {
    /// No server of this name in the settings.
    #[error("there is no server named {name:?}; known: {}", .known.join(", "))]
    UnknownServer {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No table, materialized view or schema of this name.
    #[error("there is no {kind} {name:?} in database {database}")]
    UnknownObject {
        /// `table` or `schema`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        database: String,
    },
    /// Too many questions at a time, or no answer within the deadline.
    #[error("{operation} did not end within its deadline")]
    Timeout {
        /// What was being done.
        operation: &'static str,
    },
    /// The user may not do it.
    #[error("user {user} may not {what}; {mend}")]
    Forbidden {
        /// The user.
        user: String,
        /// What was to be done.
        what: String,
        /// Which right is missing, and how it is given.
        mend: String,
    },
    /// The session that was named must not be touched.
    #[error("{id} is not touched: {why}")]
    Refused {
        /// The session, as given.
        id: String,
        /// Why not.
        why: String,
    },
    /// It is of another form.
    #[error("{0:?} is no address; write HOST[:PORT]")]
    BadAddress(String),
    /// The servers are not in the state that it takes.
    #[error("{operation} is refused: {}", .reasons.join("; "))]
    Unfit {
        /// What was to be done.
        operation: &'static str,
        /// All that stands against it.
        reasons: Vec<String>,
    },
    /// There is no statement in the text.
    #[error("there is no statement to look at")]
    EmptySql,
    /// The text holds a quote or a comment that does not end.
    #[error("{0} in the statement does not end")]
    Unterminated(&'static str),
    /// More than one statement.
    #[error("the text holds several statements; give one at a time")]
    SeveralStatements,
    /// A statement that has no plan.
    #[error(
        "{word} has no plan to look at; give a SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES or TABLE statement"
    )]
    NotExplainable {
        /// Its first word.
        word: String,
    },
    /// It would be run, and it writes.
    #[error("the statement would be run, and it writes ({what}); look at its plan without analyze")]
    Writes {
        /// What gives it away.
        what: String,
    },
    /// It would be run, and it locks rows.
    #[error(
        "the statement would be run, and it locks rows (FOR UPDATE, FOR SHARE); look at its plan without analyze"
    )]
    LocksRows,
    /// It would be run, and it calls a function that may have effects which no rollback undoes.
    #[error(
        "the statement would be run, and it calls {name}, which is volatile: its effects might outlive a rollback; look at its plan without analyze"
    )]
    Volatile {
        /// The function or operator.
        name: String,
    },
    /// It would be run, and it reads from another server.
    #[error(
        "the statement would be run, and it reads the foreign table {table}, where nothing can be promised; look at its plan without analyze"
    )]
    Foreign {
        /// The table.
        table: String,
    },
    /// It has parameters and would be run.
    #[error(
        "the statement has parameters ($1 …) and would be run; write values in their place, or look at its plan without analyze"
    )]
    Parameters,
    /// The server did not answer as expected.
    #[error("the server's plan cannot be read: {0}")]
    Plan(String),
    /// The pool's or the server's.
    #[error(transparent)]
    Database(#[from] Error),
}

impl InsightError {
    /// Whether the same question may be answered later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Database(e) => e.is_retryable(),
            Self::UnknownServer { .. } | Self::UnknownObject { .. } | Self::Forbidden { .. } => false,
            Self::BadAddress(_)
            | Self::Refused { .. }
            | Self::EmptySql
            | Self::Unterminated(_)
            | Self::SeveralStatements => false,
            Self::NotExplainable { .. } | Self::Writes { .. } | Self::LocksRows | Self::Volatile { .. } => {
                false
            }
            Self::Foreign { .. } | Self::Parameters | Self::Plan(_) | Self::Unfit { .. } => false,
        }
    }

    /// Whether what was asked for cannot be done as asked: an unknown name, or a statement that is refused.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        !matches!(
            self,
            Self::Timeout { .. }
                | Self::Database(_)
                | Self::Forbidden { .. }
                | Self::Refused { .. }
                | Self::Plan(_)
                | Self::Unfit { .. }
        )
    }
}

impl From<sqlx::Error> for InsightError {
    fn from(e: sqlx::Error) -> Self {
        Self::Database(Error::from(e))
    }
}
