//! Keeps one of a subscription's connections open, says to the server what the plan says, and tells the plan what came of
//! it. It decides nothing, hands messages on and interprets none.

mod audit;
mod masters;
mod messages;

use super::{
    Inner,
    plan::{Seat, Step},
};
use crate::{
    Channel, Endpoint, Error,
    keys::ChannelKind,
    link::Shared,
    server_info::ServerInfo,
    wire::{Failure, Wire, arguments, reply_error, unavailable},
};
use bytes::Bytes;
use messages::{pump, take};
use resilience::{Backoff, Deadline};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};

/// Messages between the connection and this worker; what does not fit is counted by the driver and reported.
const MESSAGES: usize = 8192;
/// Channels that were taken once and are refused now are asked for again so often.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Channels that a server cannot take just now, as their slot is on its way.
const LATER: Duration = Duration::from_millis(100);
/// A connection that lived shorter does not reset the back-off.
const SETTLED: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(super) async fn keep(shared: Arc<Shared>, inner: Arc<Inner>, seat: Seat) {
    let mut backoff = Backoff::new(shared.opener.config.reconnect);
    let mut states = shared.state.subscribe();
    loop {
        let started = Instant::now();
        let mut session =
            Session { shared: &shared, inner: &inner, seat: &seat, wanted: inner.wanted.subscribe() };
        let cause = Box::pin(session.run()).await;
        inner.update(|plan| {
            let events = plan.closed(&seat, &cause, Instant::now());
            if !events.is_empty() {
                tracing::warn!(cause, ?seat, "a Redis subscription has no connection");
            }
            events
        });
        if started.elapsed() >= SETTLED {
            backoff.reset();
        }
        states.mark_unchanged();
        tokio::select! {
            () = sleep(backoff.next_delay()) => {}
            // Whoever publishes is back as well.
            () = masters::connected_anew(&mut states) => {}
        }
    }
}

/// One connection's life.
struct Session<'a> {
    shared: &'a Shared,
    inner: &'a Inner,
    seat: &'a Seat,
    /// Something is wanted or belongs elsewhere.
    wanted: watch::Receiver<()>,
}

/// Whom it is connected to.
struct Server {
    wire: Wire,
    endpoint: Endpoint,
    info: ServerInfo,
}

impl Session<'_> {
    /// Answers why it ended.
    async fn run(&mut self) -> String {
        let endpoint = match self.seat {
            Seat::Shard(master) => Ok(master.clone()),
            // Of a cluster any will do: it hands every message to all of its nodes.
            Seat::Shared => self.shared.some_master(),
        };
        let endpoint = match endpoint {
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
            Ok((wire, driver, info))
        };
        let deadline = Deadline::after(self.shared.opener.config.connect_timeout);
        let connected = tokio::select! {
            connected = deadline.run(Box::pin(connect)) => connected,
            () = masters::no_master_any_more(self.shared, &endpoint) => return format!("{endpoint} is no master any more"),
        };
        let (wire, driver, info) = match connected {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return error.cause(),
            Err(_) => return format!("connecting to {endpoint} took too long"),
        };
        let mut messages = wire.messages();
        let server = Server { wire, endpoint, info };
        let (shared, inner) = (self.shared, self.inner);
        let cause = tokio::select! {
            biased;
            cause = self.keep_reconciled(&server) => cause,
            () = pump(inner, &server.wire, &mut messages) => "the connection's events ended".to_owned(),
            _ = driver => "the connection ended".to_owned(),
            () = masters::another_server(shared, &server.info.run_id) => "the master is another server now".to_owned(),
        };
        // What had arrived comes before the news of the loss.
        while take(inner, messages.try_recv()) {}
        cause
    }

    async fn keep_reconciled(&mut self, server: &Server) -> String {
        let every = self.shared.opener.config.probe_interval;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked_again = Instant::now();
        loop {
            if let Err(cause) = self.reconcile(server).await {
                return cause;
            }
            let put_off = self.inner.plan.lock().has_later(self.seat);
            tokio::select! {
                // The sender lives as long as `inner`.
                _ = self.wanted.changed() => {}
                () = sleep(LATER), if put_off => drop(self.inner.plan.lock().again(self.seat)),
                _ = ticks.tick() => {
                    if let Err(cause) = self.look(server).await {
                        return cause;
                    }
                    if asked_again.elapsed() >= ASK_AGAIN {
                        if let Err(cause) = self.ask_again(server).await {
                            return cause;
                        }
                        asked_again = Instant::now();
                    }
                }
            }
        }
    }

    /// Does what the plan says until it says nothing more.
    async fn reconcile(&mut self, server: &Server) -> Result<(), String> {
        self.wanted.mark_unchanged();
        loop {
            let step = self.inner.plan.lock().next(self.seat);
            let Some(step) = step else { break };
            match step {
                Step { kind: ChannelKind::Shard, adding: true, channels } => {
                    self.subscribe_shards(server, &channels).await?;
                }
                Step { kind, adding, channels } => self.apply(&server.wire, kind, &channels, adding).await?,
            }
        }
        self.inner.update(|plan| plan.settled(self.seat));
        Ok(())
    }

    /// One command for channels of one kind, and what becomes of them.
    async fn apply(
        &self,
        wire: &Wire,
        kind: ChannelKind,
        batch: &[Channel],
        adding: bool,
    ) -> Result<(), String> {
        if let Some(refusal) = self.change(wire, kind, batch, adding).await? {
            // The driver pairs the refusal with the next reply; from here on the connection is out of step.
            if adding && !refusal.is_retryable() {
                self.refuse(batch, &refusal);
            }
            return Err(refusal.cause());
        }
        self.inner.update(|plan| {
            if adding {
                return plan.taken(self.seat, batch);
            }
            plan.given_back(self.seat, batch);
            Vec::new()
        });
        Ok(())
    }

    /// Has the server subscribe or unsubscribe. `Some`: it refused.
    async fn change(
        &self,
        wire: &Wire,
        kind: ChannelKind,
        batch: &[Channel],
        adding: bool,
    ) -> Result<Option<Error>, String> {
        let names = || batch.iter().map(|channel| channel.as_str().to_owned());
        let handed = async {
            match (adding, kind) {
                (true, kind) => wire.subscribe(names().collect(), kind == ChannelKind::Pattern).await,
                // Of several slots.
                (false, ChannelKind::Shard) => {
                    for name in names() {
                        wire.unsubscribe(vec![name], kind).await?;
                    }
                    Ok(())
                }
                (false, kind) => wire.unsubscribe(names().collect(), kind).await,
            }
        };
        let limit = self.shared.opener.config.probe_timeout;
        match timeout(limit, Box::pin(handed)).await {
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
            None => Err(self.no_sign_of_life()),
        }
    }

    fn no_sign_of_life(&self) -> String {
        format!("Redis gave no sign of life for {:?}", self.shared.opener.config.probe_timeout)
    }

    fn refuse(&self, channels: &[Channel], error: &Error) {
        let channel = channels.first().map_or("", Channel::as_str);
        tracing::warn!(channel, %error, "Redis refuses a subscription");
        self.inner.update(|plan| {
            plan.refused(self.seat, channels, error);
            Vec::new()
        });
    }

    /// Asks for refused channels until one is refused again, on a connection for it alone: a refusal is its end. Not so for
    /// sharded ones.
    async fn ask_again(&self, server: &Server) -> Result<(), String> {
        let refused = self.inner.plan.lock().left_out(self.seat);
        let (sharded, refused): (Vec<_>, Vec<_>) = refused.into_iter().partition(Channel::is_sharded);
        self.ask_for_refused(&server.wire, &sharded).await?;
        if refused.is_empty() {
            return Ok(());
        }
        let opener = &self.shared.opener;
        let Ok(endpoint) = self.shared.some_master() else { return Ok(()) };
        let open = Box::pin(opener.open(&endpoint));
        let Ok(Ok((wire, _driver))) = timeout(opener.config.probe_timeout, open).await else { return Ok(()) };
        // Another one first each time, so that one that stays refused does not hide the others.
        let first = rand::random_range(0..refused.len());
        for channel in refused.iter().cycle().skip(first).take(refused.len()) {
            let one = std::slice::from_ref(channel);
            let Ok(None) = self.change(&wire, channel.kind(), one, true).await else { break };
            self.inner.plan.lock().readmit(channel);
        }
        Ok(())
    }
}
