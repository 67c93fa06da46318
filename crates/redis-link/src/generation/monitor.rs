//! Watches a generation's connections and data, and ends it when one of them is gone. It reports to the generation's
//! switch only; the supervisor opens the next generation.

use super::{Death, open::read_clock};
use crate::{
    Config, Key, Value,
    server_info::replication,
    wire::{Driver, Failure, Wire, arguments, reply_error},
};
use bytes::Bytes;
use futures_util::future::{join, select_all};
use resilience::clock::ServerClock;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

pub(super) struct Monitor {
    pub(super) death: Arc<Death>,
    pub(super) wires: Vec<Wire>,
    pub(super) replid: String,
    pub(super) epoch_key: Key,
    pub(super) fence: Bytes,
    pub(super) clock: ServerClock,
    pub(super) keeps_time: Arc<AtomicBool>,
    pub(super) config: Arc<Config>,
}

impl Monitor {
    /// Runs until the generation is dead. Ending closes the connections, as the drivers are dropped.
    pub(super) async fn run(self, drivers: Vec<Driver>) {
        let probes =
            self.wires.iter().enumerate().map(|(index, wire)| Box::pin(self.probe(index == 0, wire)));
        let probes = select_all(probes);
        let ended = select_all(drivers);
        let cause = tokio::select! {
            biased;
            () = self.death.wait() => return,
            (end, ..) = ended => match end {
                Ok(Err(error)) => format!("the connection ended: {}", error.details()),
                Ok(Ok(())) => "the connection was closed".to_owned(),
                Err(_) => "the connection's task was ended".to_owned(),
            },
            (cause, ..) = probes => cause,
        };
        self.death.kill(&cause);
    }

    /// Asks one connection for a sign of life again and again; answers why it is no longer good.
    async fn probe(&self, first: bool, wire: &Wire) -> String {
        let limit = self.config.probe_timeout;
        let mut ticks = interval_at(Instant::now() + self.config.probe_interval, self.config.probe_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clock_read = Instant::now();
        loop {
            ticks.tick().await;
            let sign = wire.answered_within(limit, self.sign_of_life(first, wire)).await;
            match sign {
                Some(Ok(())) => {}
                Some(Err(cause)) => return cause,
                None => return format!("Redis gave no sign of life for {limit:?}"),
            }
            if first && self.keeps_time.load(Relaxed) && clock_read.elapsed() >= self.config.clock_interval {
                clock_read = Instant::now();
                // The next probe notices a dead connection; a missed reading only ages the clock.
                if let Ok(Ok(reading)) = timeout(limit, read_clock(wire)).await {
                    reading.feed(&self.clock);
                }
            }
        }
    }

    /// An error reply is a sign of life as well: a server that cannot save refuses `PING`, one in a long script refuses
    /// everything.
    async fn sign_of_life(&self, first: bool, wire: &Wire) -> Result<(), String> {
        if !first {
            return match wire.exchange("PING", Vec::new()).await {
                Ok(_) | Err(Failure::Reply(_)) => Ok(()),
                Err(failure) => Err(cause(failure)),
            };
        }
        let info = wire.exchange("INFO", arguments([Bytes::from_static(b"replication")]));
        let key = wire.exchange("GET", arguments([self.epoch_key.as_bytes().clone()]));
        let (info, key) = join(info, key).await;
        if let Some(info) = unless_refused_for_now(info)? {
            let (role, replid) = replication(info.as_str().unwrap_or_default());
            if role != Some("master") {
                return Err(format!("the server has become a {}", role.unwrap_or("server without a role")));
            }
            if replid != Some(&self.replid) {
                return Err("EPOCH the replication id changed".to_owned());
            }
        }
        if let Err(Failure::Reply(moved)) = &key
            && (moved.starts_with("MOVED") || moved.starts_with("ASK"))
        {
            return Err("EPOCH the slot of the epoch key is moving".to_owned());
        }
        let Some(key) = unless_refused_for_now(key)? else { return Ok(()) };
        if key.into_bytes().ok().flatten().as_ref() != Some(&self.fence) {
            return Err("EPOCH the epoch key changed".to_owned());
        }
        Ok(())
    }
}

/// `None`: the server answers, and will tell later. What time does not mend (a right or the login taken away) ends the
/// generation, as nobody could tell any more whether the data are still ours.
fn unless_refused_for_now(answer: Result<Value, Failure>) -> Result<Option<Value>, String> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Failure::Reply(message)) if reply_error("probe", &message).is_retryable() => Ok(None),
        Err(failure) => Err(cause(failure)),
    }
}

fn cause(failure: Failure) -> String {
    match failure {
        Failure::Reply(message) | Failure::NotSent(message) | Failure::Lost(message) => message,
        Failure::Oversized(size, _) => format!("an answer of {size} bytes came"),
        Failure::Full => "the connection's queue is full and does not move".to_owned(),
    }
}
