//! Sessions that are held for too long: told about, and taken back where that is wanted. It judges by time alone; a
//! session that is slow and one that was forgotten look the same.

use crate::{
    events::PoolEvent,
    orders::Order,
    pool::Pool,
    slot::{Loan, Slot},
    summary::summary,
};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// The permit of a session that was taken back, until its connection is closed at the server, or that is given up.
struct Permit(Arc<Pool>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl Pool {
    /// Reports what is held beyond the threshold, once each; takes back what is held beyond the limit.
    pub(crate) fn look_for_leaks(self: &Arc<Self>) {
        if !self.watched {
            return;
        }
        let now = self.clock.now();
        let slots = self.slots().clone();
        for slot in &slots {
            if let Some(held) = self.config.leak_threshold.and_then(|after| slot.report(now, after)) {
                self.report_held(slot, held);
            }
            if let Some(held) = self.config.reclaim_after.and_then(|after| slot.reclaim(now, after)) {
                self.reclaim(slot, held);
            }
        }
    }

    fn report_held(&self, slot: &Slot, held: Duration) {
        let (host, held_ms, loan) = (&self.name, millis(held), slot.loan());
        let (taken_at, statement) = (loan.taken_at, last(&loan));
        let (parent, span) = loan.span.map(|(id, metadata)| (id, metadata.name())).unzip();
        let text = statement.as_deref().unwrap_or("none");
        tracing::warn!(
            parent: parent, %host, held_ms, %taken_at, span, statement = text,
            "a session is held beyond the leak threshold"
        );
        let (host, taken_at) = (host.clone(), taken_at.to_string());
        self.events.tell(PoolEvent::SessionHeld { host, held_ms, taken_at, span, statement });
    }

    /// One that was reported came back.
    #[cold]
    pub(crate) fn report_return(&self, slot: &Slot, held: Duration) {
        let (host, held_ms, taken_at) = (&self.name, millis(held), slot.loan().taken_at);
        tracing::warn!(%host, held_ms, %taken_at, "a session reported as leaked came back");
        let (host, taken_at) = (host.clone(), taken_at.to_string());
        self.events.tell(PoolEvent::SessionReturned { host, held_ms, taken_at });
    }

    /// The server is told to end the connection, for whoever holds it here may never come back. Its permit is free
    /// then, or when the server does not answer; the session's own drop frees nothing any more.
    fn reclaim(self: &Arc<Self>, slot: &Slot, held: Duration) {
        self.counters.discarded.fetch_add(1, Relaxed);
        let (host, held_ms, loan) = (&self.name, millis(held), slot.loan());
        let (taken_at, statement) = (loan.taken_at, last(&loan));
        let text = statement.as_deref().unwrap_or("none");
        tracing::warn!(%host, held_ms, %taken_at, statement = text, "a session held too long lost its connection");
        let (host, taken_at) = (host.clone(), taken_at.to_string());
        self.events.tell(PoolEvent::SessionReclaimed { host, held_ms, taken_at, statement });
        let (permit, backend) = (Permit(Arc::clone(self)), slot.backend);
        self.spawn(async move {
            permit.0.order(Order::Terminate, backend).await;
        });
    }
}

fn last(loan: &Loan) -> Option<String> {
    loan.statement.as_ref().map(|sql| summary(sql.as_str()))
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
