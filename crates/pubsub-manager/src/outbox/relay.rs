//! The relay: takes the lease, then pages through the outbox until it is told to stop or has lost the lease.

use super::{
    OutboxConfig,
    deliver::{Delivered, Deliverer, Message},
    insight::{self, Counts},
    keys::{Keys, Limits, Verdict, is_absence},
    lease::{self, Lease},
    message::TOPIC,
    sql::{PAGE, Sql},
};
use crate::{
    Error, PostgresListener, PubSubManager,
    postgres::{Topic, translate_query},
};
use postgres_pool_manager::sqlx::{self, AssertSqlSafe, Row as _};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const OPERATION: &str = "relay from the outbox";
/// After a failure of the database.
const PAUSE: Duration = Duration::from_millis(500);
/// How soon it is looked again whether an older transaction has ended; doubled each time.
const SETTLING: Duration = Duration::from_millis(4);
const SETTLING_AT_MOST: Duration = Duration::from_millis(200);
/// With keys in trouble and nothing else to do: not at every call, as the page may have to pass many of their messages.
const TROUBLED: Duration = Duration::from_millis(100);

pub(super) struct Relay {
    pub(super) listener: PostgresListener,
    pub(super) manager: PubSubManager,
    pub(super) config: OutboxConfig,
    pub(super) sql: Arc<Sql>,
    pub(super) counts: Arc<Counts>,
    pub(super) stop: CancellationToken,
}

impl Relay {
    /// Until it is stopped.
    pub(super) async fn run(self) {
        let mut given_up = self.listener.topic(lease::TOPIC);
        while !self.stop.is_cancelled() {
            let taken = Lease::take(self.listener.pool(), &self.sql, self.config.lease, &mut given_up);
            let failed = match self.stop.run_until_cancelled(taken).await {
                None => break,
                Some(Ok(lease)) => self.lead(lease).await,
                Some(Err(error)) => Err(error),
            };
            self.counts.failed(failed.as_ref().err());
            if failed.is_err() {
                self.stop.run_until_cancelled(sleep(PAUSE)).await;
            }
        }
    }

    /// Until the lease is lost or the relay stopped.
    async fn lead(&self, lease: Lease) -> Result<(), Error> {
        let lease = Arc::new(lease);
        tracing::info!(token = lease.token, "relaying the outbox");
        self.counts.leader.store(true, Relaxed);
        self.counts.failed(None);
        let deliverer = Deliverer {
            manager: self.manager.clone(),
            timeout: self.config.delivery_timeout,
            lease: Arc::clone(&lease),
            counts: Arc::clone(&self.counts),
            stop: self.stop.clone(),
        };
        let limits = Limits { attempts: self.config.max_attempts, give_up_after: self.config.give_up_after };
        let pages = Pages {
            relay: self,
            deliverer,
            topic: self.listener.topic(TOPIC),
            keys: Keys::new(limits),
            floor: Floor::default(),
            settling: SETTLING,
            fruitless: None,
        };
        let ended = tokio::select! {
            ended = pages.run() => ended,
            () = lease.keep() => Ok(()),
            () = insight::sample(self.listener.pool(), &self.sql, &self.counts) => Ok(()),
        };
        self.counts.not_leading();
        lease.release(self.listener.channel()).await;
        tracing::info!(token = lease.token, "no longer relaying the outbox");
        ended
    }
}

struct Pages<'a> {
    relay: &'a Relay,
    deliverer: Deliverer,
    topic: Topic,
    keys: Keys,
    floor: Floor,
    settling: Duration,
    /// Since when every delivery found its target away.
    fruitless: Option<Instant>,
}

impl Pages<'_> {
    async fn run(mut self) -> Result<(), Error> {
        let stop = self.relay.stop.clone();
        while !stop.is_cancelled() && self.deliverer.lease.holds() {
            if let Some(pause) = self.keys.pause(Instant::now()) {
                stop.run_until_cancelled(sleep(pause)).await;
            }
            self.topic.mark();
            let mut page = self.read().await?;
            let read = page.len();
            let settled = page.iter().take_while(|message| message.settled).count();
            page.truncate(settled);
            if page.is_empty() {
                stop.run_until_cancelled(self.rest(read > 0)).await;
                continue;
            }
            self.settling = SETTLING;
            let last = page.last().map_or(0, |message| message.id);
            let delivered = self.deliverer.page(page).await;
            let fruitless = self.is_fruitless(&delivered);
            let whole = self.finish(delivered).await?;
            if fruitless {
                let reason = "no target can be reached from here; another process may fare better".into();
                return Err(Error::Unavailable { operation: OPERATION, reason });
            }
            if let Some(horizon) = whole.filter(|_| self.keys.len() == 0) {
                self.floor.propose(last, horizon);
            }
        }
        Ok(())
    }

    /// Whether for two leases nothing was delivered, and the messages are not at fault.
    fn is_fruitless(&mut self, delivered: &[Delivered]) -> bool {
        let away = |key: &Delivered| {
            key.ids.is_empty() && key.failed.as_ref().is_some_and(|(_, error)| is_absence(error))
        };
        if !delivered.iter().all(away) {
            self.fruitless = None;
            return false;
        }
        self.fruitless.get_or_insert_with(Instant::now).elapsed() > self.relay.config.lease * 2
    }

    /// Nothing can be done now.
    async fn rest(&mut self, unsettled: bool) {
        if unsettled {
            // Nobody tells when the older transaction ends.
            sleep(self.settling).await;
            self.settling = (self.settling * 2).min(SETTLING_AT_MOST);
        } else if self.keys.len() > 0 {
            sleep(TROUBLED).await;
        } else {
            self.topic.wait(self.relay.config.poll).await;
        }
    }

    async fn read(&mut self) -> Result<Vec<Message>, Error> {
        let waiting = self.keys.waiting(Instant::now());
        let rows = sqlx::query(AssertSqlSafe(self.relay.sql.page.clone()))
            .bind(self.floor.after)
            .bind(&waiting)
            .fetch_all(&self.relay.listener.pool().primary())
            .await
            .map_err(failed)?;
        let horizon =
            rows.first().map(|row| row.try_get::<&str, _>("horizon")).transpose().map_err(failed)?;
        let horizon = horizon.and_then(|horizon| horizon.parse().ok());
        let mut page = Vec::with_capacity(usize::try_from(PAGE).unwrap_or(0));
        for row in &rows {
            page.extend(Message::of(row).map_err(failed)?);
        }
        if waiting.is_empty() {
            self.floor.seen(horizon, page.first().map(|message| message.id));
        }
        Ok(page)
    }

    /// Removes what was delivered and notes what was not. The number of the transaction that removed it, if that was all.
    async fn finish(&mut self, delivered: Vec<Delivered>) -> Result<Option<u64>, Error> {
        let ids: Vec<i64> = delivered.iter().flat_map(|key| key.ids.iter().copied()).collect();
        let horizon = self.delete(ids).await?;
        let mut whole = true;
        for Delivered { key, ids, failed } in delivered {
            if !ids.is_empty() {
                self.keys.cleared(&key);
            }
            let Some((id, error)) = failed else { continue };
            whole = false;
            let counts = &self.relay.counts;
            counts.retried.fetch_add(1, Relaxed);
            if matches!(error, Error::Shutdown { .. }) {
                // Not a matter of the message: here nothing can be published any more. Somebody else has to relay.
                return Err(error);
            }
            tracing::debug!(id, key, %error, "a message of the outbox was not delivered");
            let verdict = self.keys.failed(&key, id, &error, rand::random(), Instant::now());
            if let Verdict::Bury(attempts) = verdict {
                self.bury(id, attempts, &error).await?;
                self.keys.cleared(&key);
                tracing::warn!(id, key, attempts, %error, "a message of the outbox cannot be delivered and is put aside");
            }
            counts.held_keys.store(self.keys.len() as u64, Relaxed);
        }
        self.relay.counts.held_keys.store(self.keys.len() as u64, Relaxed);
        Ok(horizon.filter(|_| whole && !self.deliverer.stop.is_cancelled() && self.deliverer.lease.holds()))
    }

    /// Only while the lease is ours; else it is an error, which ends the relay.
    async fn delete(&self, ids: Vec<i64>) -> Result<Option<u64>, Error> {
        if ids.is_empty() {
            return Ok(None);
        }
        let lease = &self.deliverer.lease;
        let horizon: Option<String> = sqlx::query_scalar(AssertSqlSafe(self.relay.sql.delete.clone()))
            .bind(ids)
            .bind(lease.holder.to_string())
            .bind(lease.token)
            .fetch_optional(&self.relay.listener.pool().primary())
            .await
            .map_err(failed)?;
        let lost =
            || Error::Unavailable { operation: OPERATION, reason: "another process relays now".into() };
        Ok(horizon.ok_or_else(lost)?.parse().ok())
    }

    async fn bury(&self, id: i64, attempts: u32, error: &Error) -> Result<(), Error> {
        let reason = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let lease = &self.deliverer.lease;
        let buried = sqlx::query(AssertSqlSafe(self.relay.sql.bury.clone()))
            .bind(id)
            .bind(lease.holder.to_string())
            .bind(lease.token)
            .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
            .bind(reason)
            .execute(&self.relay.listener.pool().primary())
            .await
            .map_err(failed)?;
        self.relay.counts.buried.fetch_add(buried.rows_affected(), Relaxed);
        Ok(())
    }
}

fn failed(error: sqlx::Error) -> Error {
    translate_query(OPERATION, error)
}

/// The id below which nothing can appear any more. What was deleted there is then not passed over again and again, which
/// matters while an old reader keeps vacuum from removing it.
///
/// A row has its transaction's number before its own (see the table). So when rows up to an id have been deleted by the
/// transaction R, whoever holds a smaller id is of a transaction below R; once all of those have ended, what a page does not
/// show there does not exist.
#[derive(Debug, Default)]
struct Floor {
    after: i64,
    proposed: Option<(i64, u64)>,
}

impl Floor {
    fn propose(&mut self, id: i64, removed_by: u64) {
        self.proposed.get_or_insert((id, removed_by));
    }

    /// A page of all keys begins with `first`, under a snapshot in which every transaction below `horizon` has ended.
    fn seen(&mut self, horizon: Option<u64>, first: Option<i64>) {
        let Some((id, removed_by)) = self.proposed else { return };
        if horizon.is_some_and(|horizon| horizon > removed_by) {
            self.proposed = None;
            if first.is_none_or(|first| first > id) {
                self.after = self.after.max(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
