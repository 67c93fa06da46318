//! Keeps a subscription's connection open and makes the server's subscriptions equal to what is wanted. It hands
//! messages on and interprets none.

use super::{Inner, Standing, SubscriptionEvent};
use crate::{
    Channel, Error,
    link::{LinkState, Shared},
    wire::{Failure, Wire, arguments, reply_error, unavailable},
};
use bytes::Bytes;
use fred::types::{Message, MessageKind, Value as FredValue};
use resilience::{Backoff, Deadline};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

/// Messages between the connection and this worker; what does not fit is counted by the driver and reported.
const MESSAGES: usize = 8192;
/// Names in one command.
const BATCH: usize = 500;
/// Refusals that are kept for those who wait to hear of them.
const REFUSALS: usize = 64;
/// Channels that were taken once and are refused now are asked for again so often.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A connection that lived shorter does not reset the back-off.
const SETTLED: Duration = Duration::from_secs(1);

/// Runs until the subscription or the link ends.
pub(super) async fn run(shared: Arc<Shared>, inner: Arc<Inner>) {
    let ended = inner.ended.clone();
    let _ = ended.run_until_cancelled(Box::pin(keep_subscribed(&shared, &inner))).await;
    inner.queue.close();
}

async fn keep_subscribed(shared: &Shared, inner: &Inner) {
    let mut backoff = Backoff::new(shared.opener.config.reconnect);
    // An unanswered `Lost` is in the queue.
    let (mut lost, mut one_by_one) = (false, false);
    loop {
        let started = Instant::now();
        let mut session = Session { shared, inner, active: HashSet::new(), lost, one_by_one };
        let cause = session.run().await;
        (lost, one_by_one) = (session.lost, session.one_by_one);
        inner.progress.send_modify(|progress| {
            progress.connected = false;
            progress.confirmed = 0;
            let since = progress.lost.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            progress.lost = Some((since, cause.clone()));
        });
        if !lost {
            tracing::warn!(cause, "a Redis subscription has no connection");
            inner.queue.push_lost(cause);
            lost = true;
        }
        if started.elapsed() >= SETTLED {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// One connection's life.
struct Session<'a> {
    shared: &'a Shared,
    inner: &'a Inner,
    /// What the server has confirmed on this connection.
    active: HashSet<Channel>,
    lost: bool,
    /// The session before ended with a refusal: one name in a command, to find out whose.
    one_by_one: bool,
}

impl Session<'_> {
    /// Answers why it ended.
    async fn run(&mut self) -> String {
        // Of a cluster any will do: it hands every message to all of its nodes.
        let endpoint = match self.shared.some_master() {
            Ok(endpoint) => endpoint,
            Err(error) => return error.cause(),
        };
        let connect = async {
            let (wire, driver) = self.shared.opener.open_for_events(&endpoint, MESSAGES).await?;
            let info = wire.info(&endpoint).await?;
            if info.role != "master" {
                return Err(unavailable(&format!("{endpoint} is a {}, not a master", info.role)));
            }
            if info.loading {
                return Err(unavailable(&format!("{endpoint} is loading its data")));
            }
            Ok((wire, driver, info.run_id))
        };
        let deadline = Deadline::after(self.shared.opener.config.connect_timeout);
        let (wire, driver, run_id) = match deadline.run(Box::pin(connect)).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return error.cause(),
            Err(_) => return format!("connecting to {endpoint} took too long"),
        };
        let mut messages = wire.messages();
        let (shared, inner) = (self.shared, self.inner);
        let cause = tokio::select! {
            biased;
            cause = self.keep_reconciled(&wire) => cause,
            () = pump(inner, &wire, &mut messages) => "the connection's events ended".to_owned(),
            _ = driver => "the connection ended".to_owned(),
            () = another_server(shared, &run_id) => "the master is another server now".to_owned(),
        };
        // What had arrived comes before the news of the loss.
        while take(inner, messages.try_recv()) {}
        cause
    }

    async fn keep_reconciled(&mut self, wire: &Wire) -> String {
        let every = self.shared.opener.config.probe_interval;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked_again = Instant::now();
        loop {
            if let Err(cause) = self.reconcile(wire).await {
                return cause;
            }
            tokio::select! {
                () = self.inner.changed.notified() => {}
                _ = ticks.tick() => {
                    // An error reply, of a busy server for example, is a sign of life as well.
                    if let Err(cause) = self.barrier(wire).await {
                        return cause;
                    }
                    if asked_again.elapsed() >= ASK_AGAIN {
                        self.ask_again().await;
                        asked_again = Instant::now();
                    }
                }
            }
        }
    }

    /// Subscribes what is wanted and not active, unsubscribes what is active and not wanted, and reports.
    async fn reconcile(&mut self, wire: &Wire) -> Result<(), String> {
        let (version, add, remove) = {
            let wanted = self.inner.wanted.lock();
            let missing = |(channel, standing): &(&Channel, &Standing)| {
                **standing != Standing::Refused && !self.active.contains(*channel)
            };
            let add: Vec<_> = wanted.channels.iter().filter(missing).map(|(c, _)| c.clone()).collect();
            let remove: Vec<_> =
                self.active.iter().filter(|c| !wanted.channels.contains_key(*c)).cloned().collect();
            (wanted.version, add, remove)
        };
        for (channels, adding) in [(add, true), (remove, false)] {
            let batch = if adding && self.one_by_one { 1 } else { BATCH };
            let (patterns, names): (Vec<_>, Vec<_>) = channels.into_iter().partition(Channel::is_pattern);
            for batch in names.chunks(batch).chain(patterns.chunks(batch)) {
                self.apply(wire, batch, adding).await?;
            }
        }
        self.one_by_one = false;
        if self.lost {
            self.lost = false;
            self.inner.queue.push_restored();
        }
        self.inner.progress.send_if_modified(|progress| {
            let news = !progress.connected || progress.confirmed != version;
            progress.connected = true;
            progress.confirmed = version;
            progress.lost = None;
            news
        });
        Ok(())
    }

    /// One command for channels of one kind, and what becomes of them.
    async fn apply(&mut self, wire: &Wire, batch: &[Channel], adding: bool) -> Result<(), String> {
        if let Some(refusal) = self.change(wire, batch, adding).await? {
            // The driver pairs the refusal with the next reply; from here on the connection is out of step.
            if adding && !refusal.is_retryable() {
                match batch {
                    [channel] => self.refuse(channel, &refusal),
                    _ => self.one_by_one = true,
                }
            }
            return Err(refusal.cause());
        }
        let mut wanted = self.inner.wanted.lock();
        for channel in batch {
            if adding {
                self.active.insert(channel.clone());
                if let Some(standing) = wanted.channels.get_mut(channel) {
                    *standing = Standing::Taken;
                }
            } else {
                self.active.remove(channel);
            }
        }
        Ok(())
    }

    /// Has the server subscribe or unsubscribe. `Some`: it refused.
    async fn change(&self, wire: &Wire, batch: &[Channel], adding: bool) -> Result<Option<Error>, String> {
        let names = batch.iter().map(|channel| channel.as_str().to_owned()).collect();
        let pattern = batch.first().is_some_and(Channel::is_pattern);
        let handed = async {
            if adding { wire.subscribe(names, pattern).await } else { wire.unsubscribe(names, pattern).await }
        };
        let limit = self.shared.opener.config.probe_timeout;
        match timeout(limit, handed).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(failure.into_error("SUBSCRIBE").cause()),
            Err(_) => return Err(format!("Redis took no subscription for {limit:?}")),
        }
        let refusal = self.barrier(wire).await?;
        Ok(refusal.map(|message| reply_error("SUBSCRIBE", &message)))
    }

    /// The server answers in order: its answer shows that it has taken all before it. `Some`: an error reply, to this or
    /// to what was before. (`CLIENT ID`, as a server that cannot save or is loading refuses `PING`.)
    async fn barrier(&self, wire: &Wire) -> Result<Option<String>, String> {
        let limit = self.shared.opener.config.probe_timeout;
        let asked = wire.exchange("CLIENT", arguments([Bytes::from_static(b"ID")]));
        match wire.answered_within(limit, asked).await {
            Some(Ok(_id)) => Ok(None),
            // In RESP2 a connection with subscriptions may not ask; to be told so is an answer, and comes in order.
            Some(Err(Failure::Reply(message))) if message.contains("allowed in this context") => Ok(None),
            Some(Err(Failure::Reply(message))) => Ok(Some(message)),
            Some(Err(failure)) => Err(failure.into_error("SUBSCRIBE").cause()),
            None => Err(format!("Redis gave no sign of life for {limit:?}")),
        }
    }

    /// A channel that the server never took is no longer wanted. Another one is left out for now: a right that was taken
    /// away may come back.
    fn refuse(&self, channel: &Channel, error: &Error) {
        {
            let mut wanted = self.inner.wanted.lock();
            match wanted.channels.get_mut(channel) {
                Some(Standing::New) => drop(wanted.channels.remove(channel)),
                Some(standing) => *standing = Standing::Refused,
                None => return,
            }
        }
        tracing::warn!(channel = channel.as_str(), %error, "Redis refuses a subscription");
        self.inner.progress.send_modify(|progress| {
            progress.refused.push((channel.clone(), error.clone()));
            let excess = progress.refused.len().saturating_sub(REFUSALS);
            progress.refused.drain(..excess);
        });
    }

    /// Asks for refused channels until one is refused again, on a connection for it alone: a refusal is its end.
    async fn ask_again(&self) {
        let refused: Vec<_> = {
            let wanted = self.inner.wanted.lock();
            let refused = wanted.channels.iter().filter(|(_, standing)| **standing == Standing::Refused);
            refused.map(|(channel, _)| channel.clone()).collect()
        };
        if refused.is_empty() {
            return;
        }
        let opener = &self.shared.opener;
        let Ok(endpoint) = self.shared.some_master() else { return };
        let open = Box::pin(opener.open(&endpoint));
        let Ok(Ok((wire, _driver))) = timeout(opener.config.probe_timeout, open).await else { return };
        // Another one first each time, so that one that stays refused does not hide the others.
        let first = rand::random_range(0..refused.len());
        for channel in refused.iter().cycle().skip(first).take(refused.len()) {
            let Ok(None) = self.change(&wire, std::slice::from_ref(channel), true).await else { return };
            if let Some(standing) = self.inner.wanted.lock().channels.get_mut(channel) {
                *standing = Standing::Taken;
            }
        }
    }
}

async fn pump(inner: &Inner, wire: &Wire, messages: &mut Receiver<Message>) {
    loop {
        let received = messages.recv().await.map_err(|error| match error {
            RecvError::Lagged(missed) => TryRecvError::Lagged(missed),
            RecvError::Closed => TryRecvError::Closed,
        });
        wire.mark_alive();
        if !take(inner, received) {
            return;
        }
    }
}

/// Puts what was received into the queue; `false` when nothing more is there.
fn take(inner: &Inner, received: Result<Message, TryRecvError>) -> bool {
    match received {
        Ok(message) => {
            inner.queue.push_message(SubscriptionEvent::Message {
                pattern: message.kind == MessageKind::PMessage,
                channel: message.channel.to_string(),
                payload: payload(message.value),
            });
            true
        }
        Err(TryRecvError::Lagged(missed)) => {
            inner.queue.push_missed(missed);
            true
        }
        Err(TryRecvError::Empty | TryRecvError::Closed) => false,
    }
}

/// The driver makes a string of what is UTF-8; both share the buffer.
fn payload(value: FredValue) -> Bytes {
    match value {
        FredValue::String(text) => text.into_inner(),
        FredValue::Bytes(bytes) => bytes,
        other => other.as_bytes().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

/// Resolves when the link is connected to other server processes than this connection.
async fn another_server(shared: &Shared, run_id: &str) {
    let mut states = shared.state.subscribe();
    let moved = |state: &LinkState| match state {
        LinkState::Connected(generation) => {
            generation.is_alive() && generation.nodes().all(|node| node.info().run_id != run_id)
        }
        _ => false,
    };
    if states.wait_for(moved).await.is_err() {
        std::future::pending::<()>().await;
    }
}
