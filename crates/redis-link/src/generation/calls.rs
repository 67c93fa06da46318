//! The calls on a generation. No task is spawned and nothing is retried that a server may have carried out.

use super::{Generation, Node, node::Lane, route::Parcel};
use crate::{
    Channel, Command, Error, Key, Script, Value,
    command::Argument,
    wire::{Failure, Wire},
};
use bytes::Bytes;
use fred::types::Value as FredValue;
use futures_util::{
    future::{join_all, try_join_all},
    poll,
};
use resilience::Deadline;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

impl Generation {
    /// Sends a command, which must not be one that blocks: see [`dedicated`](Self::dedicated). On a cluster it goes to the
    /// master of its first [`Key`], without one to any. Cancel safe; see [`Error::outcome_unknown`] for what may have
    /// happened after an error.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Overloaded`] (nothing sent), [`Error::Timeout`], [`Error::Unknown`],
    /// [`Error::TooLarge`], or what the server answers.
    pub async fn call(&self, command: Command, deadline: Deadline) -> Result<Value, Error> {
        let size = command.size();
        self.call_on(self.slot_of(&command), Lane::Any(size), command, deadline).await
    }

    /// `GET`. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn get(&self, key: &Key, deadline: Deadline) -> Result<Option<Bytes>, Error> {
        Ok(self.call(Command::of_keys("GET", [key]), deadline).await?.into_bytes()?)
    }

    /// `MGET`, in the order of the keys; without keys it sends nothing. On a cluster one for each slot, all at once.
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn mget(&self, keys: &[Key], deadline: Deadline) -> Result<Vec<Option<Bytes>>, Error> {
        let Some(groups) = self.by_slot(keys).filter(|_| !keys.is_empty()) else {
            return self.read_together(Command::of_keys("MGET", keys), deadline).await;
        };
        let command = |places: &Vec<usize>| Command::of_keys("MGET", places.iter().map(|at| &keys[*at]));
        let reads = groups.values().map(|places| self.read_together(command(places), deadline));
        let mut all = vec![None; keys.len()];
        for (places, values) in groups.values().zip(try_join_all(reads).await?) {
            places.iter().zip(values).for_each(|(at, value)| all[*at] = value);
        }
        Ok(all)
    }

    async fn read_together(&self, mget: Command, deadline: Deadline) -> Result<Vec<Option<Bytes>>, Error> {
        if mget.arguments.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.call(mget, deadline).await?.into_array()?;
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

    /// `DEL`; answers how many existed. Without keys it sends nothing; on a cluster it sends one for each slot, and an error
    /// of one says nothing about the others. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn del(&self, keys: &[Key], deadline: Deadline) -> Result<u64, Error> {
        let Some(groups) = self.by_slot(keys) else {
            return self.delete_together(Command::of_keys("DEL", keys), deadline).await;
        };
        let command = |places: &Vec<usize>| Command::of_keys("DEL", places.iter().map(|at| &keys[*at]));
        let deletes = groups.values().map(|places| self.delete_together(command(places), deadline));
        Ok(try_join_all(deletes).await?.into_iter().sum())
    }

    async fn delete_together(&self, del: Command, deadline: Deadline) -> Result<u64, Error> {
        if del.arguments.is_empty() {
            return Ok(0);
        }
        Ok(u64::try_from(self.call(del, deadline).await?.as_int()?).unwrap_or(0))
    }

    /// `PUBLISH`; answers how many subscribers the server handed it to: on a cluster the node's own, while the other nodes
    /// hand it to theirs. What one caller publishes on one channel, one
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
        // A cluster hands a message to all of its nodes, whoever gets it.
        let slot = self.layout().slots.is_some().then(|| channel.slot());
        let reply = self.call_on(slot, Lane::Of(channel.as_bytes()), command, deadline).await?;
        Ok(u64::try_from(reply.as_int()?).unwrap_or(0))
    }

    /// Many `PUBLISH`, handed over together on one connection and carried out in order; each has its own answer. Counts as one
    /// call. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call), for all of them: then each may have been carried out unless the error says otherwise.
    pub async fn publish_many(
        &self,
        messages: Vec<(Channel, Bytes)>,
        deadline: Deadline,
    ) -> Result<Vec<Result<u64, Error>>, Error> {
        const NAME: &str = "PUBLISH";
        let Some((first, _)) = messages.first() else { return Ok(Vec::new()) };
        let size = messages.iter().map(|(channel, payload)| channel.as_bytes().len() + payload.len()).sum();
        self.check_size(NAME, size)?;
        let all = messages.len();
        // Of a cluster any node will do.
        let node = self.node_of(self.layout().slots.is_some().then(|| first.slot()))?;
        let arguments = messages
            .into_iter()
            .map(|(channel, payload)| {
                vec![FredValue::Bytes(channel.as_bytes().clone()), FredValue::Bytes(payload)]
            })
            .collect();
        let exchanged = node.any_wire(size).exchange_together(NAME, arguments);
        let mut answers = node.bounded(NAME, deadline, exchanged).await?;
        // Whatever had no answer of its own shared the connection's end.
        answers.resize_with(all, || Err(Failure::Lost("no answer came".to_owned())));
        let read = |answer: Result<Value, Failure>| {
            let answer = answer.map_err(|failure| node.failed(NAME, failure))?;
            Ok(u64::try_from(answer.as_int()?).unwrap_or(0))
        };
        Ok(answers.into_iter().map(read).collect())
    }

    /// `SPUBLISH`: to those who subscribed to the channel as a [sharded](crate::Keys::sharded_channel_in) one. On a cluster it
    /// goes to the master of the channel's slot, and to no other shard. Else as [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Error::Unsupported`] before Redis 7.0, else as [`call`](Self::call).
    pub async fn spublish(
        &self,
        channel: &Channel,
        payload: impl Argument,
        deadline: Deadline,
    ) -> Result<u64, Error> {
        let slot = self.layout().slots.is_some().then(|| channel.slot());
        self.node_of(slot)?.check_sharded("SPUBLISH")?;
        let command = Command::new("SPUBLISH").arg(channel).arg(payload);
        let reply = self.call_on(slot, Lane::Of(channel.as_bytes()), command, deadline).await?;
        Ok(u64::try_from(reply.as_int()?).unwrap_or(0))
    }

    /// `PING`, to all masters; answers how long it took. Cancel safe.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn ping(&self, deadline: Deadline) -> Result<Duration, Error> {
        let started = Instant::now();
        let ping = |node| async move {
            let node: &std::sync::Arc<Node> = node;
            node.exchange(node.first_wire(), "PING", "PING", Vec::new(), deadline).await
        };
        try_join_all(self.nodes().map(ping)).await?;
        if self.is_complete() { Ok(started.elapsed()) } else { Err(self.incomplete()) }
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
        let size = keys.iter().map(|key| key.as_bytes().len()).sum::<usize>()
            + args.iter().map(Bytes::len).sum::<usize>();
        self.check_size(script.name(), size)?;
        let slot = self.common_slot(script.name(), keys)?;
        let lane = keys.first().map_or(Lane::Any(size), |key| Lane::Of(key.as_bytes()));
        let text = script.text(self.capabilities().info_in_scripts);
        let parcel = |name| Parcel { operation: script.name(), name, slot, lane, deadline };
        let by_hash = |node: &Node| node.script_arguments(&text.sha, script, keys, &args);
        match self.send(&parcel("EVALSHA"), by_hash).await {
            Err(Error::Server { code, .. }) if code == "NOSCRIPT" => {
                let by_text = |node: &Node| node.script_arguments(&text.lua, script, keys, &args);
                self.send(&parcel("EVAL"), by_text).await
            }
            outcome => outcome,
        }
    }

    /// Sends commands together on one connection: they are carried out in order, others may come in between. On a cluster
    /// the order holds for those of one master. Counts as one call at each master. Cancel safe.
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
        let mut of_nodes: BTreeMap<usize, (Vec<usize>, Vec<Command>)> = BTreeMap::new();
        let all = commands.len();
        for (place, command) in commands.into_iter().enumerate() {
            let (places, commands) = of_nodes.entry(self.index_of(self.slot_of(&command))?).or_default();
            places.push(place);
            commands.push(command);
        }
        let mut replies: Vec<Option<Result<Value, Error>>> = (0..all).map(|_| None).collect();
        let (places, parts): (Vec<_>, Vec<_>) = of_nodes
            .into_iter()
            .map(|(index, (places, commands))| (places, self.pipeline_at(index, commands, size, deadline)))
            .unzip();
        let mut parts = join_all(parts).await;
        if let [Err(_)] = parts.as_slice() {
            // One master, or all of one: an error of all.
            return parts.remove(0);
        }
        for (places, results) in places.into_iter().zip(parts) {
            // Of a part that failed, each command has its error: others may have been carried out.
            let results = match results {
                Ok(results) => results,
                Err(error) => places.iter().map(|_| Err(error.clone())).collect(),
            };
            places.into_iter().zip(results).for_each(|(place, result)| replies[place] = Some(result));
        }
        Ok(replies.into_iter().flatten().collect())
    }

    async fn pipeline_at(
        &self,
        index: usize,
        commands: Vec<Command>,
        size: usize,
        deadline: Deadline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let node = self.node_at(index)?;
        let wire = node.any_wire(size);
        // Kept for what has to be sent elsewhere.
        let again = self.layout().slots.is_some().then(|| commands.clone());
        let names: Vec<_> = commands.iter().map(Command::name).collect();
        let results = node.bounded("pipeline", deadline, in_order(wire, commands)).await?;
        let read = |(result, name): (Result<Value, Failure>, &'static str)| {
            result.map_err(|failure| node.failed(name, failure))
        };
        let mut results: Vec<_> = results.into_iter().zip(names).map(read).collect();
        for (result, command) in results.iter_mut().zip(again.into_iter().flatten()) {
            if matches!(result, Err(Error::Server { code, .. }) if code == "MOVED" || code == "ASK") {
                *result = self.call(command, deadline).await;
            }
        }
        Ok(results)
    }

    async fn call_on(
        &self,
        slot: Option<u16>,
        lane: Lane<'_>,
        command: Command,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        let name = command.name();
        self.check_size(name, command.size())?;
        let Command { mut arguments, .. } = command;
        let parcel = Parcel { operation: name, name, slot, lane, deadline };
        // Only on a cluster may they be needed again.
        let again = self.layout().slots.is_some();
        let arguments = |_: &Node| if again { arguments.clone() } else { std::mem::take(&mut arguments) };
        self.send(&parcel, arguments).await
    }

    /// On a cluster: the keys' places by slot.
    fn by_slot(&self, keys: &[Key]) -> Option<BTreeMap<u16, Vec<usize>>> {
        self.layout().slots.as_ref()?;
        let mut groups: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        keys.iter().enumerate().for_each(|(at, key)| groups.entry(key.slot()).or_default().push(at));
        Some(groups)
    }

    fn check_size(&self, operation: &'static str, size: usize) -> Result<(), Error> {
        let limit = self.opener.config.max_request;
        if size > limit { Err(Error::TooLarge { operation, size, limit }) } else { Ok(()) }
    }
}

/// Hands all commands over, one after the other, then waits for their answers.
async fn in_order(wire: &Wire, commands: Vec<Command>) -> Result<Vec<Result<Value, Failure>>, Failure> {
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
    Ok(results.into_iter().flatten().collect())
}
