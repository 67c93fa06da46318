//! Calls on a generation: one permit, one exchange, one deadline each, raced with the generation's death. No task is
//! spawned and nothing is retried.

use super::Generation;
use crate::{
    Channel, Command, Error, Key, Script, Value,
    command::Argument,
    wire::{Failure, Wire, reply_error},
};
use bytes::Bytes;
use fred::types::Value as FredValue;
use futures_util::poll;
use resilience::Deadline;
use std::{future::Future, time::Duration};
use tokio::{
    sync::{SemaphorePermit, TryAcquireError},
    time::Instant,
};

impl Generation {
    /// Sends a command, which must not be one that blocks: see [`dedicated`](Self::dedicated). Cancel safe; see [`Error::outcome_unknown`] for what may have happened after an error.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Overloaded`] (nothing sent), [`Error::Timeout`], [`Error::Unknown`],
    /// [`Error::TooLarge`], or what the server answers.
    pub async fn call(&self, command: Command, deadline: Deadline) -> Result<Value, Error> {
        self.call_on(self.any_wire(command.size()), command, deadline).await
    }

    /// `GET`. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn get(&self, key: &Key, deadline: Deadline) -> Result<Option<Bytes>, Error> {
        let mut command = Command::with_capacity("GET", 1);
        command.push(key.as_bytes().clone());
        Ok(self.call(command, deadline).await?.into_bytes()?)
    }

    /// `MGET`, in the order of the keys; without keys it sends nothing. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn mget(&self, keys: &[Key], deadline: Deadline) -> Result<Vec<Option<Bytes>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = Command::with_capacity("MGET", keys.len());
        keys.iter().for_each(|key| command.push(key.as_bytes().clone()));
        let values = self.call(command, deadline).await?.into_array()?;
        Ok(values.into_iter().map(Value::into_bytes).collect::<Result<_, _>>()?)
    }

    /// `SET`, with a time to live (whole milliseconds, at least one) or without. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn set(
        &self,
        key: &Key,
        value: impl Argument,
        ttl: Option<Duration>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let mut command = Command::new("SET").arg(key).arg(value);
        if let Some(ttl) = ttl {
            let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
            command = command.arg("PX").arg(millis);
        }
        self.call(command, deadline).await.map(drop)
    }

    /// `DEL`; answers how many existed. Without keys it sends nothing. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn del(&self, keys: &[Key], deadline: Deadline) -> Result<u64, Error> {
        if keys.is_empty() {
            return Ok(0);
        }
        let reply = self.call(Command::new("DEL").args(keys), deadline).await?;
        Ok(u64::try_from(reply.as_int()?).unwrap_or(0))
    }

    /// `PUBLISH`; answers how many subscribers the server handed it to. What one caller publishes on one channel, one
    /// after the other, arrives in order. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn publish(
        &self,
        channel: &Channel,
        payload: impl Argument,
        deadline: Deadline,
    ) -> Result<u64, Error> {
        let command = Command::new("PUBLISH").arg(channel).arg(payload);
        let reply = self.call_on(self.wire_of(channel.as_bytes()), command, deadline).await?;
        Ok(u64::try_from(reply.as_int()?).unwrap_or(0))
    }

    /// `PING`; answers how long it took. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn ping(&self, deadline: Deadline) -> Result<Duration, Error> {
        let started = Instant::now();
        self.call(Command::new("PING"), deadline).await?;
        Ok(started.elapsed())
    }

    /// Runs a script: by its hash, or by its text where the server does not know it yet.
    ///
    /// Calls with the same first key are handed to the server in their order once the server knows the script; a call that
    /// has to bring the text is overtaken by those that follow. On a cluster all keys have to share a slot. Cancel safe; a
    /// script that was handed to a connection runs.
    ///
    /// # Errors
    /// [`Error::Epoch`] if the script is fenced, or answers an error that begins with `EPOCH`, and the server's data is
    /// no longer this generation's: nothing was done, and the generation has ended. Else as [`call`](Self::call).
    pub async fn eval(
        &self,
        script: &Script,
        keys: &[Key],
        args: Vec<Bytes>,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        let wire = keys.first().map_or_else(|| self.any_wire(0), |key| self.wire_of(key.as_bytes()));
        let text = script.text(self.info.capabilities.info_in_scripts);
        let by_hash = self.script_arguments(&text.sha, script, keys, &args);
        match self.exchange(wire, script.name(), "EVALSHA", by_hash, deadline).await {
            Err(Error::Server { code, .. }) if code == "NOSCRIPT" => {
                let by_text = self.script_arguments(&text.lua, script, keys, &args);
                self.exchange(wire, script.name(), "EVAL", by_text, deadline).await
            }
            outcome => outcome,
        }
    }

    /// Sends commands together on one connection: they are carried out in order, others may come in between. Counts as
    /// one call. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call) for all; a single command's error is its result.
    pub async fn pipeline(
        &self,
        commands: Vec<Command>,
        deadline: Deadline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let size: usize = commands.iter().map(Command::size).sum();
        self.check_size("pipeline", size)?;
        let names: Vec<_> = commands.iter().map(Command::name).collect();
        let wire = self.any_wire(size);
        let all = async {
            let mut exchanges: Vec<_> = commands
                .into_iter()
                .map(|command| Box::pin(wire.exchange(command.name(), command.arguments)))
                .collect();
            // The first poll hands a command over: one after the other, in order.
            let mut results = Vec::with_capacity(exchanges.len());
            for exchange in &mut exchanges {
                results.push(match poll!(exchange.as_mut()) {
                    std::task::Poll::Ready(result) => Some(result),
                    std::task::Poll::Pending => None,
                });
            }
            for (result, exchange) in results.iter_mut().zip(exchanges) {
                if result.is_none() {
                    *result = Some(exchange.await);
                }
            }
            Ok(results.into_iter().flatten().collect::<Vec<_>>())
        };
        let results = self.bounded("pipeline", deadline, all).await?;
        let read = |(result, name): (Result<Value, Failure>, &'static str)| {
            result.map_err(|failure| self.failed(name, failure))
        };
        Ok(results.into_iter().zip(names).map(read).collect())
    }

    async fn call_on(&self, wire: &Wire, command: Command, deadline: Deadline) -> Result<Value, Error> {
        let name = command.name();
        self.check_size(name, command.size())?;
        self.exchange_checked(wire, name, name, command.arguments, deadline).await
    }

    async fn exchange(
        &self,
        wire: &Wire,
        operation: &'static str,
        name: &'static str,
        arguments: Vec<FredValue>,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        let length = |value: &FredValue| value.as_bytes().map_or(0, <[u8]>::len);
        self.check_size(operation, arguments.iter().map(length).sum())?;
        self.exchange_checked(wire, operation, name, arguments, deadline).await
    }

    async fn exchange_checked(
        &self,
        wire: &Wire,
        operation: &'static str,
        name: &'static str,
        arguments: Vec<FredValue>,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        self.bounded(operation, deadline, wire.exchange(name, arguments)).await
    }

    /// Holds a permit while `exchange` runs, until the deadline, the command time-out or the generation's death.
    async fn bounded<T>(
        &self,
        operation: &'static str,
        deadline: Deadline,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let capped = started + self.opener.config.command_timeout;
        let until = deadline.instant().map_or(capped, |at| at.min(capped));
        if until <= started {
            return Err(Error::Timeout { operation, after: Duration::ZERO, sent: false });
        }
        let _permit = self.permit(operation, started, until).await?;
        let died = self.death.wait();
        if self.death.is_dead() {
            return Err(self.unavailable());
        }
        let raced = async {
            tokio::select! {
                biased;
                outcome = exchange => outcome,
                // The connections' own last answers, which know more, come before this.
                () = died => Err(Failure::Lost(self.death.cause().0)),
            }
        };
        match tokio::time::timeout_at(until, raced).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(self.failed(operation, failure)),
            Err(_) => Err(Error::Timeout { operation, after: started.elapsed(), sent: true }),
        }
    }

    async fn permit(
        &self,
        operation: &'static str,
        started: Instant,
        until: Instant,
    ) -> Result<SemaphorePermit<'_>, Error> {
        match self.permits.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(self.unavailable()),
            Err(TryAcquireError::NoPermits) => {}
        }
        tokio::select! {
            biased;
            () = self.death.wait() => Err(self.unavailable()),
            turn = tokio::time::timeout_at(until, self.permits.acquire()) => match turn {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_closed)) => Err(self.unavailable()),
                Err(_) => Err(Error::Timeout { operation, after: started.elapsed(), sent: false }),
            },
        }
    }

    /// Reads a failure, and ends the generation where it says that the connection or the data is gone.
    fn failed(&self, operation: &'static str, failure: Failure) -> Error {
        match failure {
            Failure::Full => {
                // The driver miscounts from here on and sends only every so many commands: the connection is of no use.
                self.death.kill("a connection's queue was full");
                Error::Overloaded
            }
            Failure::NotSent(cause) => {
                self.death.kill(&cause);
                self.unavailable()
            }
            Failure::Lost(cause) => {
                self.death.kill(&cause);
                Error::Unknown { operation, cause }
            }
            Failure::Reply(message) => {
                if message.starts_with("EPOCH") {
                    self.death.kill(&message);
                    return Error::Epoch { epoch: self.epoch };
                }
                let error = reply_error(operation, &message);
                let stale = matches!(&error, Error::Server { code, .. } if is_no_master(code));
                if stale || message.starts_with("NOAUTH") {
                    self.death.kill(&message);
                }
                error
            }
        }
    }

    fn script_arguments(
        &self,
        text: &Bytes,
        script: &Script,
        keys: &[Key],
        args: &[Bytes],
    ) -> Vec<FredValue> {
        let fenced = script.is_fenced();
        let count = keys.len() + usize::from(fenced);
        let mut arguments = Vec::with_capacity(2 + count + args.len() + 1);
        arguments.push(FredValue::Bytes(text.clone()));
        arguments.push(FredValue::Integer(i64::try_from(count).unwrap_or(i64::MAX)));
        arguments.extend(keys.iter().map(|key| FredValue::Bytes(key.as_bytes().clone())));
        if fenced {
            arguments.push(FredValue::Bytes(self.epoch_key.as_bytes().clone()));
        }
        arguments.extend(args.iter().cloned().map(FredValue::Bytes));
        if fenced {
            arguments.push(FredValue::Bytes(self.fence.clone()));
        }
        arguments
    }

    fn check_size(&self, operation: &'static str, size: usize) -> Result<(), Error> {
        let limit = self.opener.config.max_request;
        if size > limit { Err(Error::TooLarge { operation, size, limit }) } else { Ok(()) }
    }

    pub(crate) fn unavailable(&self) -> Error {
        let (cause, since) = self.death.cause();
        Error::Unavailable { since, cause }
    }
}

/// Errors of a server that is not, or not yet, the master that it was.
fn is_no_master(code: &str) -> bool {
    matches!(code, "READONLY" | "LOADING" | "MASTERDOWN")
}
