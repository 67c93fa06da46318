//! One consumer's taking end. Taking is a script on the shared link; waiting is a blocking read of the channel's wake
//! stream on a connection of its own: one for each consumer, as on a cluster every channel may lie on another master.

use super::{Store, keys::GroupKeys, millis, reply, text};
use crate::{ConsumerKey, DurableSource, Error, Take, Taken, redis_error::translate};
use async_trait::async_trait;
use bytes::Bytes;
use redis_link::{Command, Dedicated};
use resilience::Deadline;
use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

const TAKE: &str = "take from a durable channel";
/// For a script or a connection, which are answered by the thousand in that time.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct RedisSource {
    store: Arc<Store>,
    keys: GroupKeys,
    consumer: ConsumerKey,
    incarnation: u64,
    waiting: Option<Dedicated>,
    /// Where to go on among what this name had pending; empty once through.
    own: Bytes,
}

impl fmt::Debug for RedisSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSource").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

impl RedisSource {
    pub(super) fn new(store: Arc<Store>, keys: GroupKeys, consumer: ConsumerKey, incarnation: u64) -> Self {
        Self { store, keys, consumer, incarnation, waiting: None, own: Bytes::from_static(b"-") }
    }

    async fn once(&mut self, take: &Take<'_>) -> Result<reply::TakeReply, Error> {
        let GroupKeys { stream, channel, group, timers, dead, heard, .. } = &self.keys;
        let keys = [stream, channel, group, timers, dead, heard].map(Clone::clone);
        let args = |epoch: u32| {
            let mut args = vec![
                text(&epoch),
                text(&self.consumer.group),
                text(&self.consumer.name),
                text(&self.incarnation),
                text(&take.max),
                text(&take.max_bytes),
                millis(take.ack_timeout),
                text(&take.max_deliveries),
                text(&take.max_dead_letters),
                self.own.clone(),
            ];
            args.extend(take.holding.iter().map(text));
            args
        };
        let deadline = Deadline::after(PATIENCE);
        let reply = self.store.eval(TAKE, &self.store.scripts.take, &keys, args, deadline).await?;
        match reply::taken(reply).map_err(|error| Error::backend(TAKE, error))? {
            Some(taken) => {
                self.own = taken.own.clone();
                Ok(taken)
            }
            None => Err(self.consumer.group.unknown(&self.consumer.channel)),
        }
    }

    /// Until something is appended after `last`, or the time is over.
    async fn wait(&mut self, last: Bytes, wait: Duration) -> Result<(), Error> {
        let connection = match self.waiting.take().filter(Dedicated::is_alive) {
            Some(connection) => connection,
            None => {
                let opened = self.store.link.dedicated(&self.keys.wake, Deadline::after(PATIENCE)).await;
                opened.map_err(|error| translate(TAKE, error))?
            }
        };
        let block = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let command = Command::new("XREAD").arg("COUNT").arg(1).arg("BLOCK").arg(block).arg("STREAMS");
        let command = command.arg(&self.keys.wake).arg(last);
        let woken = connection.call_blocking(command, wait, Deadline::never()).await;
        woken.map_err(|error| translate(TAKE, error))?;
        self.waiting = Some(connection);
        Ok(())
    }
}

#[async_trait]
impl DurableSource for RedisSource {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn take(&mut self, take: &Take<'_>) -> Result<Taken, Error> {
        let until = Instant::now() + take.wait;
        loop {
            let reply::TakeReply { taken, last, due, .. } = self.once(take).await?;
            let left = until.saturating_duration_since(Instant::now());
            let something = !taken.messages.is_empty() || taken.loss.is_some() || taken.dead > 0;
            if something || left.is_zero() {
                return Ok(taken);
            }
            if taken.paused {
                tokio::time::sleep(left).await;
                return Ok(taken);
            }
            self.wait(last, due.map_or(left, |due| due.min(left))).await?;
        }
    }
}
