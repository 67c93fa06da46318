//! The future of an acquisition: at once from the idle connections, else by way of the queue. It opens nothing.

use crate::{
    Error, PostgresPoolManager, Session,
    explain::RouteReason,
    lease::Lease,
    router::{Route, Router},
};
use futures_core::future::BoxFuture;
use resilience::Deadline;
use std::{
    fmt,
    future::Future,
    panic::Location,
    pin::Pin,
    task::{Context, Poll},
};

/// A session on its way; await it.
///
/// Cancel safety: dropping it at any point leaves the queue and gives a connection that was under check up.
#[must_use = "futures do nothing unless awaited"]
pub struct Acquire<'a> {
    router: &'a Router,
    route: Route,
    deadline: Option<Deadline>,
    taken_at: &'static Location<'static>,
    slow: Option<BoxFuture<'a, Result<(Lease, RouteReason), Error>>>,
}

impl<'a> Acquire<'a> {
    pub(crate) fn new(
        manager: &'a PostgresPoolManager,
        route: Route,
        taken_at: &'static Location<'static>,
    ) -> Self {
        Self { router: manager.router(), route, deadline: None, taken_at, slow: None }
    }

    pub(crate) fn within(mut self, deadline: Option<Deadline>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Limits wait, connect and check together, and then every statement of the session. Default:
    /// `acquire_timeout` for the former, `statement_timeout` for the latter.
    pub const fn deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl Future for Acquire<'_> {
    type Output = Result<Session, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (lease, reason) = match &mut this.slow {
            Some(slow) => std::task::ready!(slow.as_mut().poll(cx))?,
            None => match this.router.try_lease(&this.route) {
                Ok(leased) => leased,
                Err(turn) => {
                    let deadline = this.deadline.unwrap_or_else(|| this.router.acquire_deadline());
                    let slow = this.slow.insert(Box::pin(this.router.lease(this.route, turn, deadline)));
                    std::task::ready!(slow.as_mut().poll(cx))?
                }
            },
        };
        Poll::Ready(Ok(Session::new(
            lease,
            reason,
            this.deadline.unwrap_or(Deadline::never()),
            this.taken_at,
        )))
    }
}

impl fmt::Debug for Acquire<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, deadline, taken_at, .. } = self;
        f.debug_struct("Acquire")
            .field("route", route)
            .field("deadline", deadline)
            .field("at", taken_at)
            .finish()
    }
}
