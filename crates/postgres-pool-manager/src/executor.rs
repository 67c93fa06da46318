//! [`sqlx::Executor`] for sessions, transactions and the handles that acquire for each statement. One
//! implementation does the work, the others lead to it.

use crate::{
    Acquire, Primary, Replica, Session, Tx,
    conn::{Verdict, verdict},
    error::is_serialization_failure,
    pgbouncer::{Around, Work},
    session::{Note, Run, Traced},
    watch::{End, Watch},
};
use futures_core::{Stream, future::BoxFuture, stream::BoxStream};
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

type Item = Result<Either<PgQueryResult, PgRow>, sqlx::Error>;

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        Box::pin(async move { self.run(query?, |pg, query| pg.execute(query)).await })
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Item>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let started = Traced::new(query).and_then(|query| {
            let query = self.commented(query);
            let Run { pg, note, around } = self.start_query(&query)?;
            let rows = match around {
                Around::Nothing => pg.fetch_many(query),
                around => generate(move |out| around.stream(pg, query, out)),
            };
            Ok(Rows { rows: Some(rows), note, limits: None })
        });
        match started {
            Ok(rows) => Box::pin(rows),
            Err(e) => Box::pin(stream::once(async move { Err(e) })),
        }
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        Box::pin(async move { self.run(query?, |pg, query| pg.fetch_all(query)).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        Box::pin(async move { self.run(query?, |pg, query| pg.fetch_optional(query)).await })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let Run { pg, note, .. } = self.prepare()?;
            note.watch(pg.prepare_with(sql, parameters)).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let Run { pg, note, .. } = self.prepare()?;
            note.watch(pg.describe(sql)).await
        })
    }
}

/// A statement's rows under its time limit. Dropped early, the session stays tainted.
struct Rows<'e> {
    rows: Option<BoxStream<'e, Item>>,
    note: Note<'e>,
    limits: Option<Watch<'e>>,
}

impl Stream for Rows<'_> {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        let Some(rows) = &mut this.rows else { return Poll::Ready(None) };
        match rows.poll_next_unpin(cx) {
            // Rows may come without a pause. A slow reader of what the server has sent is held to its own limit alone.
            Poll::Ready(Some(Ok(_)))
                if this.note.own.is_some_and(|own| tokio::time::Instant::now() >= own) =>
            {
                this.rows = None;
                Poll::Ready(Some(Err(this.note.given_up(End::TimedOut))))
            }
            Poll::Ready(Some(Ok(row))) => Poll::Ready(Some(Ok(row))),
            Poll::Ready(Some(Err(e))) => {
                this.rows = None;
                Poll::Ready(Some(this.note.settle(Err(e))))
            }
            Poll::Ready(None) => {
                this.rows = None;
                // `Ok` settles to `Ok`.
                let _ = this.note.settle(Ok(()));
                Poll::Ready(None)
            }
            Poll::Pending => {
                let limits = this.limits.get_or_insert_with(|| this.note.limits(tokio::time::Instant::now()));
                let end = std::task::ready!(limits.poll_end(cx));
                this.rows = None;
                Poll::Ready(Some(Err(this.note.given_up(end))))
            }
        }
    }
}

/// Leads every method of an executor to a session: `$how` is `in_place` for a field that is one, or the name of
/// the function below that acquires one.
macro_rules! lead_to_session {
    ($executor:ty, |$this:ident| $session:expr) => {
        impl<'c> Executor<'c> for $executor {
            type Database = Postgres;

            fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                let $this = self;
                $session.execute(query)
            }

            fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Item>
            where
                'c: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                let $this = self;
                $session.fetch_many(query)
            }

            fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                let $this = self;
                $session.fetch_all(query)
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
            where
                'c: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                let $this = self;
                $session.fetch_optional(query)
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [PgTypeInfo],
            ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
            where
                'c: 'e,
            {
                let $this = self;
                $session.prepare_with(sql, parameters)
            }

            fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
            where
                'c: 'e,
            {
                let $this = self;
                $session.describe(sql)
            }
        }
    };
}

lead_to_session!(&'c mut Tx, |tx| tx.session());
lead_to_session!(&'c Primary, |handle| PerStatement {
    acquire: handle.acquire(),
    again: None::<fn() -> Acquire<'c>>
});
lead_to_session!(&'c Replica, |handle| PerStatement {
    acquire: handle.acquire(),
    again: Some(|| handle.acquire_primary())
});

/// Acquires a session, runs one statement. `again`: where to repeat a read whose replica was lost.
#[derive(Debug)]
struct PerStatement<'c, F> {
    acquire: Acquire<'c>,
    again: Option<F>,
}

impl<'c, F: FnOnce() -> Acquire<'c> + Send + 'c> PerStatement<'c, F> {
    async fn run<T: Send>(self, query: Traced, work: impl Work<T>) -> Result<T, sqlx::Error> {
        let mut session = self.acquire.await?;
        let Some(again) = self.again.filter(|_| session.is_replica()) else {
            return session.run(query, &work).await;
        };
        match session.run(query.clone(), &work).await {
            // A standby takes no writes, hence nothing is done twice.
            Err(e) if replica_failed(&e) => {
                drop(session);
                again().await?.run(query, &work).await
            }
            result => result,
        }
    }

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        Box::pin(async move { self.run(query?, |pg, query| pg.execute(query)).await })
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        Box::pin(async move { self.run(query?, |pg, query| pg.fetch_all(query)).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        Box::pin(async move { self.run(query?, |pg, query| pg.fetch_optional(query)).await })
    }

    /// Rows already handed out cannot be taken back: a stream is not repeated.
    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Item>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let query = Traced::new(query);
        generate(|out| async move {
            let mut session = self.acquire.await?;
            let mut rows = session.fetch_many(query?);
            while let Some(row) = rows.next().await {
                out.give(row?).await;
            }
            Ok(())
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.acquire.await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.acquire.await?.describe(sql).await })
    }
}

/// The replica was lost, or its replay cancelled the statement (40001): the primary can answer.
fn replica_failed(e: &sqlx::Error) -> bool {
    let conflict = crate::error::sqlstate(e).is_some_and(|code| is_serialization_failure(&code));
    let ours =
        matches!(e, sqlx::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<crate::Error>()));
    conflict || (!ours && verdict(e, false) == Verdict::Broken)
}

/// Where a generating future puts its items, one at a time.
pub(crate) struct Out<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Out<T> {
    /// Suspends until the stream has handed the item out.
    pub(crate) async fn give(&self, item: T) {
        *self.0.lock() = Some(item);
        std::future::poll_fn(|_| if self.0.lock().is_some() { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// A stream out of a future that owns what its items borrow from.
fn generate<'a, T, F, Fut>(make: F) -> BoxStream<'a, Result<T, sqlx::Error>>
where
    F: FnOnce(Out<T>) -> Fut,
    Fut: Future<Output = Result<(), sqlx::Error>> + Send + 'a,
    T: Send + 'a,
{
    let slot = Arc::new(Mutex::new(None));
    let mut future = make(Out(Arc::clone(&slot))).boxed().fuse();
    Box::pin(stream::poll_fn(move |cx| {
        let polled = future.poll_unpin(cx);
        if let Some(item) = slot.lock().take() {
            return Poll::Ready(Some(Ok(item)));
        }
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(e)) => Poll::Ready(Some(Err(e))),
            Poll::Pending => Poll::Pending,
        }
    }))
}
