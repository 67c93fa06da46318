//! COMMIT as work of its own, which its caller may leave but not stop: sent in one message with what has to precede
//! it and with the question for the read token, and answered for in full. It never repeats anything.

use crate::{
    Error, ReadToken, Session,
    conn::{Verdict, lsn, text, verdict},
    error::sqlstate,
    pgbouncer,
    session::reclaimed,
    slot::Back,
    sql::{Effect, effect, statements},
    tx::{CommitOutcome, Hook},
    watch::Watch,
};
use futures_core::future::BoxFuture;
use futures_util::{FutureExt, TryStreamExt};
use resilience::Deadline;
use sqlx::{AssertSqlSafe, Either, Executor, SqlStr, postgres::PgRow};
use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{runtime::Handle, time::Instant};

/// Fails in a transaction that has failed: Postgres would answer its COMMIT with success and roll back.
const GUARD: &str = "SELECT 'ready' AS guard, current_setting('synchronous_commit') AS synchronous";

/// Where the log ends now. Flushed, unless COMMIT did not wait for the flush: beyond the flushed position there
/// may be records that no replica sees while the server is idle.
pub(crate) const POSITION: &str = "SELECT current_setting('synchronous_commit') AS synchronous, \
    pg_current_wal_insert_lsn()::text AS inserted, pg_current_wal_flush_lsn()::text AS flushed, \
    substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) AS timeline";

/// Hooks get at least this long, so that an invalidation runs after a COMMIT that used the deadline up.
const HOOKS_AT_LEAST: Duration = Duration::from_secs(1);

/// Work that goes on in the background, from where it is, when whoever waits for it goes away. While somebody
/// waits it costs no task and no wake-up of another thread.
pub(crate) struct Carried<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    handle: Handle,
}

impl<T: Send + 'static> Carried<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static, handle: &Handle) -> Self {
        Self { work: Some(Box::pin(work)), handle: handle.clone() }
    }
}

impl<T: Send + 'static> Future for Carried<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out while it runs: what panicked is not to be carried on.
        let mut work = self.work.take().expect("not polled after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            drop(self.handle.spawn(work));
        }
    }
}

/// Commits, runs the hooks, returns the connection.
pub(crate) async fn run(
    mut session: Session,
    before: Vec<SqlStr>,
    hooks: Vec<Hook>,
) -> Result<ReadToken, Error> {
    let deadline = session.statement_deadline();
    let result = send(&mut session, &before, deadline).await;
    // The connection has done its part; hooks may want one too.
    let hooks_deadline = session.deadline();
    drop(session);
    let outcome = match &result {
        Ok(token) => CommitOutcome::Committed(*token),
        Err(Error::OutcomeUnknown { .. }) => CommitOutcome::Unknown,
        Err(_) => return result,
    };
    run_hooks(hooks, outcome, hooks_deadline).await;
    result
}

async fn run_hooks(hooks: Vec<Hook>, outcome: CommitOutcome, deadline: Deadline) {
    for hook in hooks {
        let limit = deadline.remaining().max(HOOKS_AT_LEAST);
        // The call itself is inside too: a panic of one hook keeps none of the others from running.
        let work = AssertUnwindSafe(async move { hook(outcome).await }).catch_unwind();
        match Deadline::after(limit).run(work).await {
            Ok(Ok(())) => {}
            Ok(Err(_panic)) => tracing::error!("an on_commit hook panicked"),
            Err(_) => tracing::warn!(?limit, "an on_commit hook did not end in time and was dropped"),
        }
    }
}

/// How far the answer to the message has come.
#[derive(Default)]
struct Answer {
    guarded: bool,
    guard_done: bool,
    committed: bool,
    synchronous: bool,
    token: Option<(u32, u64)>,
}

async fn send(session: &mut Session, before: &[SqlStr], deadline: Deadline) -> Result<ReadToken, Error> {
    if deadline.is_expired() {
        // Nothing is sent, so nothing is unknown.
        return Err(Error::Timeout { operation: "COMMIT", after: Duration::ZERO });
    }
    let failure = session.failure.take();
    // From here on it is not taken back: a COMMIT under way is left to its end.
    if session.is_back() == Back::Reclaimed {
        session.lease().set_reclaimed();
        return Err(reclaimed(&session.lease().conn().slot));
    }
    let (conn, pool) = session.lease().parts();
    if conn.slot.is_evicted() {
        conn.mark.broken = true;
        return Err(Error::PrimaryChanged { host: pool.label.clone(), sent: false });
    }
    let mut message = String::with_capacity(512);
    for sql in before {
        let found = statements(sql.as_str());
        if found != 1 {
            return Err(Error::NotOneStatement { operation: "before_commit", found });
        }
        if pool.config.pgbouncer {
            pgbouncer::judge(sql.as_str(), true, true)?;
        }
        match effect(sql.as_str(), true) {
            Effect::None => {}
            Effect::State => conn.mark.stateful |= !pool.config.pgbouncer,
            // Nothing has been sent; the transaction is rolled back when the session is dropped.
            Effect::Transaction(statement) => return Err(Error::TransactionControl { statement }),
        }
        message.push_str(sql.as_str().trim_end().trim_end_matches(';'));
        message.push_str("\n;");
    }
    message.push_str(GUARD);
    message.push_str("; COMMIT; ");
    message.push_str(POSITION);
    (conn.mark.busy, conn.mark.cancellable) = (true, false);
    let mut answer = Answer::default();
    let reading = async {
        let mut rows = conn.pg.fetch_many(AssertSqlSafe(message));
        while let Some(step) = rows.try_next().await? {
            answer.take(&step);
        }
        Ok::<_, sqlx::Error>(())
    };
    let (now, at) = (Instant::now(), deadline.instant());
    let limits = Watch::new(&conn.slot, pool, now, at.unwrap_or(now + pool.config.statement_timeout));
    let ended = limits.over(reading).await;
    let system_id = conn.server.system_id;
    match ended {
        Ok(Ok(())) => {
            (conn.mark.busy, conn.mark.in_tx, conn.mark.read_only) = (false, false, false);
            conn.alarm = pool.answered();
        }
        Ok(Err(e)) => {
            let verdict = verdict(&e, !conn.mark.read_only);
            conn.mark.broken |= verdict == Verdict::Broken;
            if verdict == Verdict::Broken {
                pool.failed(e.to_string());
                pool.suspect_all();
            }
            (conn.mark.busy, conn.mark.suspect) = (false, true);
            // Answered after the guard: the COMMIT failed, and with it the transaction is over.
            conn.mark.in_tx = !answer.guarded;
            conn.mark.read_only &= conn.mark.in_tx;
            if !answer.committed {
                return Err(failed(e, verdict, answer.guarded, failure));
            }
        }
        Err(_) => {
            // It may still run; the connection is not waited for.
            conn.mark.broken = true;
            if !answer.committed {
                let text = "no answer to COMMIT within its deadline, or from what is the primary no more";
                let source = std::io::Error::new(std::io::ErrorKind::TimedOut, text).into();
                return Err(Error::OutcomeUnknown { source: Some(source) });
            }
        }
    }
    Ok(answer
        .token
        .map_or(ReadToken::PRIMARY_ONLY, |(timeline, lsn)| ReadToken::new(system_id, timeline, lsn)))
}

fn failed(e: sqlx::Error, verdict: Verdict, guarded: bool, failure: Option<String>) -> Error {
    // Answers come in order: what the server itself ended with before it answered the guard never got to COMMIT.
    // Class 08 is what a pooler between says of a server that it lost.
    let before_commit = !guarded
        && e.as_database_error().is_some()
        && !sqlstate(&e).is_some_and(|code| code.starts_with("08"));
    match verdict {
        // An ordinary error of the server is a definite no.
        Verdict::Broken if !before_commit => Error::OutcomeUnknown { source: Some(e) },
        Verdict::Suspect | Verdict::Broken => Error::RolledBack {
            // 25P02 only says that something failed before.
            sqlstate: sqlstate(&e).filter(|code| code != "25P02").or(failure),
            source: Some(e),
        },
        Verdict::Fine => Error::OutcomeUnknown { source: Some(e) },
    }
}

impl Answer {
    fn take(&mut self, step: &Either<sqlx::postgres::PgQueryResult, PgRow>) {
        match step {
            Either::Right(row) if text(row, "guard").as_deref() == Some("ready") => {
                self.guarded = true;
                self.synchronous = text(row, "synchronous").as_deref() != Some("off");
            }
            Either::Right(row) if self.committed => self.token = position(row, self.synchronous),
            Either::Right(_) => {}
            // The guard's own completion, then COMMIT's.
            Either::Left(_) if self.guarded && !self.guard_done => self.guard_done = true,
            Either::Left(_) => self.committed |= self.guard_done,
        }
    }
}

/// Timeline and position in a row of [`POSITION`].
pub(crate) fn position(row: &PgRow, synchronous: bool) -> Option<(u32, u64)> {
    let timeline = text(row, "timeline").and_then(|hex| u32::from_str_radix(&hex, 16).ok())?;
    Some((timeline, lsn(row, if synchronous { "flushed" } else { "inserted" })?))
}
