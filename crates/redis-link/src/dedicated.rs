//! A connection for commands that block, such as `XREAD BLOCK`. It has one user and no queue; it dies with its generation.

use crate::{
    Command, Error, Value,
    generation::{Death, Node},
    wire::{Driver, Failure, Wire, reply_error, unavailable},
};
use resilience::Deadline;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// One connection of its own, made by [`Generation::dedicated`](crate::Generation::dedicated). Dropping it closes it.
#[derive(Debug)]
pub struct Dedicated {
    wire: Wire,
    node: Arc<Node>,
    /// Its own end; the generation's connections' counts as well.
    death: Death,
    driver: Driver,
}

impl Dedicated {
    pub(crate) async fn open(node: Arc<Node>, deadline: Deadline) -> Result<Self, Error> {
        let started = Instant::now();
        let (opener, endpoint) = (node.opener(), node.endpoint());
        let connect = async {
            let (wire, driver) = opener.open(endpoint).await?;
            let info = wire.info(endpoint).await?;
            if info.run_id != node.info().run_id || info.replid != node.info().replid {
                return Err(unavailable(&format!("{endpoint} leads to another server now")));
            }
            Ok((wire, driver))
        };
        let bounded = deadline.capped(opener.config.connect_timeout).run(Box::pin(connect));
        let opened = tokio::select! {
            biased;
            () = node.death().wait() => return Err(node.unavailable()),
            opened = bounded => opened,
        };
        let late = |_| Error::Timeout { operation: "connecting", after: started.elapsed(), sent: false };
        let (wire, driver) = opened.map_err(late)??;
        Ok(Self { wire, node, death: Death::default(), driver })
    }

    /// The epoch of the data that it talks to.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.node.epoch()
    }

    /// Whether calls can still be made: neither it nor its generation's connections to the master are dead, and no call on it timed out.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.node.is_alive() && !self.death.is_dead() && !self.driver.is_finished()
    }

    /// A command that does not block. A time-out ends the connection, as what follows would wait behind the answer.
    ///
    /// Cancel safe; a call that is dropped ends the connection, too.
    ///
    /// # Errors
    /// As [`Generation::call`](crate::Generation::call).
    pub async fn call(&self, command: Command, deadline: Deadline) -> Result<Value, Error> {
        let limit = self.node.opener().config.command_timeout;
        self.exchange(command, deadline.capped(limit)).await
    }

    /// A command that blocks for up to `block`, which has to stand in its arguments: it gets `block` and
    /// [`Config::blocking_margin`](crate::Config::blocking_margin) on top. Else as [`call`](Self::call).
    ///
    /// # Errors
    /// As [`Generation::call`](crate::Generation::call).
    pub async fn call_blocking(
        &self,
        command: Command,
        block: Duration,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        let margin = self.node.opener().config.blocking_margin;
        self.exchange(command, deadline.capped(block.saturating_add(margin))).await
    }

    async fn exchange(&self, command: Command, deadline: Deadline) -> Result<Value, Error> {
        let operation = command.name();
        let limit = self.node.opener().config.max_request;
        if command.size() > limit {
            return Err(Error::TooLarge { operation, size: command.size(), limit });
        }
        if !self.is_alive() {
            return Err(self.unavailable());
        }
        if deadline.is_expired() {
            return Err(Error::Timeout { operation, after: Duration::ZERO, sent: false });
        }
        let started = Instant::now();
        // Disarmed by an answer: whatever else happens, the connection is out of step.
        let guard = OutOfStep(&self.death);
        let raced = async {
            tokio::select! {
                biased;
                outcome = self.wire.exchange(operation, command.arguments) => outcome,
                () = self.node.death().wait() => Err(Failure::Lost(self.node.death().cause().0)),
            }
        };
        match deadline.run(raced).await {
            Ok(Ok(value)) => {
                guard.disarm();
                Ok(value)
            }
            Ok(Err(Failure::Reply(message))) => {
                guard.disarm();
                if message.starts_with("EPOCH") {
                    self.node.death().kill(&message);
                    return Err(Error::Epoch { epoch: self.node.epoch() });
                }
                Err(reply_error(operation, &message))
            }
            Ok(Err(failure)) => Err(failure.into_error(operation)),
            Err(_) => Err(Error::Timeout { operation, after: started.elapsed(), sent: true }),
        }
    }

    fn unavailable(&self) -> Error {
        if self.node.is_alive() {
            return unavailable("the connection of its own is over");
        }
        self.node.unavailable()
    }
}

struct OutOfStep<'a>(&'a Death);

impl OutOfStep<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for OutOfStep<'_> {
    fn drop(&mut self) {
        self.0.kill("a call on it got no answer");
    }
}
