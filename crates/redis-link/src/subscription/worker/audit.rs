//! Sharded channels on a connection: each is answered on its own, so nothing gets out of step; and a server forgets them
//! without a word that the driver would pass on, so they are counted.

use super::{Server, Session};
use crate::{
    Channel,
    wire::{Failure, Wire, arguments, reply_error},
};
use bytes::Bytes;

impl Session<'_> {
    /// Subscribes to sharded channels. What cannot be had now (the slot is elsewhere, or on its way) is put off.
    pub(super) async fn subscribe_shards(&self, server: &Server, channels: &[Channel]) -> Result<(), String> {
        if let Err(error) = server.info.check_sharded("SSUBSCRIBE", &server.endpoint) {
            channels.iter().for_each(|channel| self.refuse(std::slice::from_ref(channel), &error));
            return Ok(());
        }
        let answers = self.ask_for(&server.wire, channels).await?;
        let mut taken = Vec::new();
        for (channel, answer) in channels.iter().zip(answers) {
            match answer {
                Ok(_count) => taken.push(channel.clone()),
                Err(Failure::Reply(message)) => self.not_taken(channel, &message),
                Err(failure) => return Err(failure.into_error("SSUBSCRIBE").cause()),
            }
        }
        self.inner.update(|plan| plan.taken(self.seat, &taken));
        Ok(())
    }

    fn not_taken(&self, channel: &Channel, message: &str) {
        let error = reply_error("SSUBSCRIBE", message);
        if error.is_retryable() {
            self.inner.plan.lock().later(self.seat, channel);
            // The layout may no longer be true.
            self.shared.look.notify_one();
        } else {
            self.refuse(std::slice::from_ref(channel), &error);
        }
    }

    /// Those that were refused before, and may no longer be.
    pub(super) async fn ask_for_refused(&self, wire: &Wire, refused: &[Channel]) -> Result<(), String> {
        for (channel, answer) in refused.iter().zip(self.ask_for(wire, refused).await?) {
            match answer {
                Ok(_count) => self.inner.plan.lock().readmit(channel),
                Err(Failure::Reply(_)) => {}
                Err(failure) => return Err(failure.into_error("SSUBSCRIBE").cause()),
            }
        }
        Ok(())
    }

    async fn ask_for(&self, wire: &Wire, channels: &[Channel]) -> Result<Vec<Result<i64, Failure>>, String> {
        let limit = self.shared.opener.config.probe_timeout;
        let answers = wire.answered_within(limit, Box::pin(wire.subscribe_shards(channels))).await;
        answers.ok_or_else(|| self.no_sign_of_life())
    }

    /// Whether the server is alive, and still has the sharded channels that it took.
    pub(super) async fn look(&self, server: &Server) -> Result<(), String> {
        let sharded = matches!(self.seat, super::Seat::Shard(_));
        let active = if sharded { self.inner.plan.lock().active(self.seat) } else { Vec::new() };
        if active.is_empty() {
            // An error reply, of a busy server for example, is a sign of life as well.
            return self.barrier(&server.wire).await.map(drop);
        }
        match self.count(&server.wire).await? {
            Some(count) if usize::try_from(count) != Ok(active.len()) => {
                self.audit(&server.wire, &active, count).await
            }
            _ => Ok(()),
        }
    }

    /// How many sharded channels the server says that this connection has. `None`: it does not say (before 7.0.3, in RESP2,
    /// without the right): then the layout alone tells.
    async fn count(&self, wire: &Wire) -> Result<Option<i64>, String> {
        let limit = self.shared.opener.config.probe_timeout;
        let asked = wire.exchange("CLIENT", arguments([Bytes::from_static(b"INFO")]));
        match wire.answered_within(limit, asked).await {
            Some(Ok(info)) => {
                let fields = info.as_str().unwrap_or_default().split_ascii_whitespace();
                let count = fields.filter_map(|field| field.strip_prefix("ssub=")).next();
                Ok(count.and_then(|count| count.parse().ok()))
            }
            Some(Err(Failure::Reply(_))) => Ok(None),
            Some(Err(failure)) => Err(failure.into_error("CLIENT").cause()),
            None => Err(self.no_sign_of_life()),
        }
    }

    /// Asks for all of them again, which changes nothing for those that the server has: where its count grows, it had
    /// forgotten one.
    async fn audit(&self, wire: &Wire, active: &[Channel], mut count: i64) -> Result<(), String> {
        let (mut again, mut gone) = (Vec::new(), Vec::new());
        for (channel, answer) in active.iter().zip(self.ask_for(wire, active).await?) {
            match answer {
                Ok(now) => {
                    if now > count {
                        again.push(channel.clone());
                    }
                    count = now;
                }
                Err(Failure::Reply(_)) => gone.push(channel.clone()),
                Err(failure) => return Err(failure.into_error("SSUBSCRIBE").cause()),
            }
        }
        if !gone.is_empty() {
            self.shared.look.notify_one();
        }
        self.inner.update(|plan| plan.forgotten(self.seat, &again, &gone));
        Ok(())
    }
}
