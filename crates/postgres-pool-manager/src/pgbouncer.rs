//! Life behind PgBouncer in transaction mode, where a server's connection is ours for one transaction and no longer:
//! what is refused, and what is put around a statement so that all of it meets the same server. It opens nothing.
//!
//! The driver sends a statement with arguments in two steps, and between two steps outside of a transaction PgBouncer
//! may change the server: the second step would run what somebody else prepared there. So such a statement gets a
//! transaction of its own, and no statement a name.

use crate::{
    config::Config,
    conn::{Mark, Verdict, verdict},
    error::{Error, sqlstate},
    executor::Out,
    session::{Run, Traced},
    sql::{Effect, effect, skip_comments, split_statement, split_word},
};
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use sqlx::{
    AssertSqlSafe, Either, Executor, PgConnection,
    postgres::{PgQueryResult, PgRow},
};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Texts remembered for each connection; beyond it they are forgotten and cost a savepoint once more.
const KNOWN: usize = 1_000;

/// `begin`, with the limits that elsewhere are set at start-up. One message.
pub(crate) fn begin(config: &Config, begin: &str) -> String {
    let (statement, idle) = (config.statement_timeout, config.idle_in_transaction_timeout);
    let mut text = format!(
        "{begin}; SET LOCAL statement_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {}",
        statement.as_millis(),
        idle.as_millis()
    );
    if let Some(interval) = config.connection_check_interval {
        text.push_str(&format!("; SET LOCAL client_connection_check_interval = {}", interval.as_millis()));
    }
    text
}

/// Whether a statement may be sent at all. `in_tx`: inside a [`Tx`](crate::Tx).
pub(crate) fn judge(sql: &str, simple: bool, in_tx: bool) -> Result<(), Error> {
    let refuse = |statement: &str| Err(Error::SessionState { statement: statement.to_owned() });
    match effect(sql, simple) {
        Effect::None => Ok(()),
        Effect::Transaction(statement) if in_tx => Err(Error::TransactionControl { statement }),
        // BEGIN on its own would lend the server for who knows how long, and hide the transaction from us.
        Effect::Transaction(statement) => refuse(statement),
        Effect::State => match session_state(sql, simple) {
            Some(statement) => refuse(statement),
            None => Ok(()),
        },
    }
}

/// The first thing in the text that would outlive its transaction at the server, for whoever comes next.
fn session_state(sql: &str, simple: bool) -> Option<&str> {
    if !simple {
        return statement_state(sql);
    }
    let mut rest = sql;
    while !rest.is_empty() {
        let (statement, after) = split_statement(rest);
        if let Some(found) = statement_state(statement) {
            return Some(found);
        }
        rest = after;
    }
    None
}

fn statement_state(sql: &str) -> Option<&str> {
    let (word, rest) = split_word(skip_comments(sql));
    let is = |list: &[&str]| list.iter().any(|w| word.eq_ignore_ascii_case(w));
    let next = split_word(skip_comments(rest)).0;
    let next_is = |list: &[&str]| list.iter().any(|w| next.eq_ignore_ascii_case(w));
    let holds = |what: &str| sql.to_ascii_uppercase().contains(what);
    let kept = match () {
        () if is(&["SET"]) => !next_is(&["LOCAL", "TRANSACTION", "CONSTRAINTS"]),
        () if is(&["DECLARE"]) => holds("WITH HOLD"),
        () if is(&["CREATE"]) => {
            let temporary = next_is(&["TEMP", "TEMPORARY", "LOCAL", "GLOBAL"])
                || (next_is(&["OR"]) && (holds("REPLACE TEMP ") || holds("REPLACE TEMPORARY ")));
            temporary && !holds("ON COMMIT DROP")
        }
        () if is(&["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE", "TABLE"]) => {
            return hidden_state(sql);
        }
        () => is(&["RESET", "LISTEN", "UNLISTEN", "PREPARE", "EXECUTE", "DEALLOCATE", "LOAD", "DISCARD"]),
    };
    kept.then_some(word)
}

/// In a function's call: a lock of the session, a setting beyond the transaction, a temporary table.
fn hidden_state(sql: &str) -> Option<&'static str> {
    let upper = sql.to_ascii_uppercase();
    if upper.contains("ADVISORY_LOCK") {
        return Some("pg_advisory_lock");
    }
    let settings = upper.match_indices("SET_CONFIG").any(|(at, word)| !is_local(&upper[at + word.len()..]));
    if settings {
        return Some("set_config");
    }
    let mut words = upper.split_whitespace();
    while let Some(word) = words.next() {
        if word == "INTO" && matches!(words.next(), Some("TEMP" | "TEMPORARY" | "LOCAL" | "GLOBAL")) {
            return Some("SELECT INTO TEMP");
        }
    }
    None
}

/// Whether the call's last argument is the literal `true`: then the setting ends with the transaction.
fn is_local(call: &str) -> bool {
    let Some(arguments) = call.trim_start().strip_prefix('(') else { return false };
    let (mut depth, mut quoted, mut last) = (0_u32, false, 0);
    for (at, c) in arguments.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ',' if depth == 0 => last = at + 1,
            ')' if depth == 0 => return matches!(arguments[last..at].trim(), "TRUE" | "'T'" | "'TRUE'"),
            ')' => depth -= 1,
            _ => {}
        }
    }
    false
}

/// What is put around a statement.
#[derive(Debug)]
pub(crate) enum Around<'e> {
    /// There is no PgBouncer, or nothing is needed.
    Nothing,
    /// A statement of one message, after one that was cancelled and left its own transaction open.
    RollBackFirst,
    /// A transaction of its own, with this beginning.
    Alone(String),
    /// Part of a [`Tx`](crate::Tx): a savepoint where the text is new to the connection.
    Within(&'e mut Known),
}

impl<'e> Around<'e> {
    /// What the next statement of a connection needs, noted in its mark.
    pub(crate) fn next(mark: &mut Mark, known: &'e mut Known, config: &Config, simple: bool) -> Self {
        // Left open by a statement that was cancelled, and not ended by whoever cancelled it.
        let left_open = std::mem::replace(&mut mark.alone, !(simple || mark.in_tx));
        match (simple, left_open) {
            _ if mark.in_tx && simple => Self::Nothing,
            _ if mark.in_tx => Self::Within(known),
            (true, false) => Self::Nothing,
            (true, true) => Self::RollBackFirst,
            (false, false) => Self::Alone(begin(config, "BEGIN")),
            (false, true) => Self::Alone(begin(config, "ROLLBACK; BEGIN")),
        }
    }
}

/// The texts that a connection has run, by hash.
#[derive(Debug, Default)]
pub(crate) struct Known(HashSet<u64>);

impl Known {
    fn is_new(&mut self, sql: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        sql.hash(&mut hasher);
        if self.0.len() >= KNOWN {
            self.0.clear();
        }
        self.0.insert(hasher.finish())
    }
}

/// One of the driver's ways to run a statement.
pub(crate) trait Work<T>:
    for<'p> Fn(&'p mut PgConnection, Traced) -> BoxFuture<'p, Result<T, sqlx::Error>> + Send + Sync
{
}

impl<T, F> Work<T> for F where
    F: for<'p> Fn(&'p mut PgConnection, Traced) -> BoxFuture<'p, Result<T, sqlx::Error>> + Send + Sync
{
}

impl Run<'_> {
    /// Runs the statement to its end, with what belongs around it, under its time limit.
    pub(crate) async fn carry<T: Send>(self, query: Traced, work: impl Work<T>) -> Result<T, sqlx::Error> {
        let Run { pg, note, around } = self;
        match around {
            Around::Nothing => note.watch(work(pg, query)).await,
            around => note.watch(around.run(pg, query.nameless(), work)).await,
        }
    }
}

impl Around<'_> {
    async fn run<T: Send>(
        self,
        pg: &mut PgConnection,
        query: Traced,
        work: impl Work<T>,
    ) -> Result<T, sqlx::Error> {
        match self {
            Self::Nothing => work(pg, query).await,
            Self::RollBackFirst => {
                pg.execute("ROLLBACK").await?;
                work(pg, query).await
            }
            Self::Alone(begin) => {
                pg.execute(AssertSqlSafe(begin.clone())).await?;
                let mut result = work(pg, query.clone()).await;
                if result.as_ref().is_err_and(type_was_new) {
                    pg.execute(AssertSqlSafe(format!("ROLLBACK; {begin}"))).await?;
                    result = work(pg, query).await;
                }
                end(pg, result).await
            }
            Self::Within(known) => {
                if !known.is_new(query.text()) {
                    return work(pg, query).await;
                }
                pg.execute(SAVEPOINT).await?;
                let mut result = work(pg, query.clone()).await;
                if result.as_ref().is_err_and(type_was_new) {
                    pg.execute(BACK).await?;
                    result = work(pg, query).await;
                }
                if result.is_ok() {
                    pg.execute(RELEASE).await?;
                }
                result
            }
        }
    }

    /// The same for a statement whose rows are handed out one by one.
    pub(crate) async fn stream(
        self,
        pg: &mut PgConnection,
        query: Traced,
        out: Out<Either<PgQueryResult, PgRow>>,
    ) -> Result<(), sqlx::Error> {
        self.run(pg, query.nameless(), move |pg, query| hand_out(pg, query, out.clone())).await
    }
}

const SAVEPOINT: &str = "SAVEPOINT database_services_first";
const BACK: &str = "ROLLBACK TO SAVEPOINT database_services_first";
const RELEASE: &str = "RELEASE SAVEPOINT database_services_first";

fn hand_out(
    pg: &mut PgConnection,
    query: Traced,
    out: Out<Either<PgQueryResult, PgRow>>,
) -> BoxFuture<'_, Result<(), sqlx::Error>> {
    Box::pin(async move {
        let mut rows = pg.fetch_many(query);
        while let Some(step) = rows.next().await {
            out.give(step?).await;
        }
        Ok(())
    })
}

/// The driver met a type that it does not know, asked for it, and thereby lost the nameless statement that it was about
/// to run. It has not run; the second attempt knows the type.
fn type_was_new(e: &sqlx::Error) -> bool {
    sqlstate(e).as_deref() == Some("26000")
}

/// Ends the statement's own transaction. Where the rollback fails, its error says more: the connection is gone.
async fn end<T>(pg: &mut PgConnection, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    match result {
        Ok(value) => pg.execute("COMMIT").await.map(|_| value),
        Err(e) if verdict(&e, false) == Verdict::Broken => Err(e),
        Err(e) => pg.execute("ROLLBACK").await.and(Err(e)),
    }
}

#[cfg(test)]
mod tests;
