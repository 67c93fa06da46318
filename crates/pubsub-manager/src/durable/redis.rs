//! Durable channels in Redis: for each channel one stream with consumer groups, and beside it what streams do not know:
//! when something is due again, what was lost, who is paused. Everything that changes more than one of them is one
//! script; all scripts but the reading ones are fenced by the epoch, so none runs on data that has been replaced.

mod keys;
mod reply;
mod scripts;
mod source;

use super::{
    ConsumerKey, DeadLetter, DurableGroup, DurableId, DurableLimits, DurableRecord, DurableSource,
    DurableStore, GroupChange, GroupName, Resolution, Settle, Settled, Settlement, StartFrom,
};
use crate::{Error, Subject, redis_error::translate};
use async_trait::async_trait;
use bytes::Bytes;
use keys::ChannelKeys;
use parking_lot::Mutex;
use redis_link::{Command, Key, RedisLink, Script, Value};
use resilience::Deadline;
use scripts::Scripts;
use source::RedisSource;
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Groups that a channel may have.
const MAX_GROUPS: usize = 256;
/// Names of channels that this process remembers to have registered.
const MAX_REGISTERED: usize = 10_000;

/// Keeps durable channels in Redis, shared by all processes of a namespace. Clones share the link.
///
/// A publish is acknowledged by the master alone: what a replica had not yet received when it took over is lost, and told as
/// [`LossCause::StoreReplaced`](crate::LossCause::StoreReplaced).
#[derive(Clone, Debug)]
pub struct RedisDurable(Arc<Store>);

#[derive(Debug)]
struct Store {
    link: RedisLink,
    scripts: Scripts,
    /// Channels whose name this generation of connections has put into the list of all: another one may have lost it.
    registered: Mutex<(u64, HashSet<Subject>)>,
}

impl RedisDurable {
    /// A store over `link`, which need not be connected yet.
    #[must_use]
    pub fn new(link: RedisLink) -> Self {
        Self(Arc::new(Store { link, scripts: Scripts::new(), registered: Mutex::default() }))
    }

    fn keys(&self, channel: &Subject) -> Result<ChannelKeys, Error> {
        ChannelKeys::new(self.0.link.keys(), channel)
    }

    /// Has the channel's name in the list of all channels, once for each generation of connections.
    async fn register(&self, channel: &Subject, deadline: Deadline) -> Result<(), Error> {
        const REGISTER: &str = "register a durable channel";
        let generation = self.0.link.ready(deadline).await.map_err(|error| translate(REGISTER, error))?;
        {
            let (of, registered) = &mut *self.0.registered.lock();
            if *of != generation.id() {
                (*of, *registered) = (generation.id(), HashSet::new());
            }
            if registered.contains(channel) {
                return Ok(());
            }
        }
        let names = keys::channels(self.0.link.keys())?;
        let command = Command::new("SADD").arg(&names).arg(channel.as_str());
        // Repeating it does no harm, and nothing of what was asked for has been done yet.
        generation
            .call(command, deadline)
            .await
            .map_err(|error| Error::Unavailable { operation: REGISTER, reason: error.to_string() })?;
        let mut registered = self.0.registered.lock();
        if registered.1.len() < MAX_REGISTERED {
            registered.1.insert(channel.clone());
        }
        Ok(())
    }
}

impl Store {
    /// Runs a script under whichever generation there is. An `EPOCH` means that nothing was done.
    async fn eval(
        &self,
        operation: &'static str,
        script: &Script,
        keys: &[Key],
        args: impl Fn(u32) -> Vec<Bytes> + Send + Sync,
        deadline: Deadline,
    ) -> Result<Value, Error> {
        loop {
            let ready = self.link.ready(deadline).await;
            let generation = ready.map_err(|error| translate(operation, error))?;
            let epoch = match generation.epoch_of(&keys[0]) {
                Ok(epoch) => epoch,
                Err(error) => return Err(translate(operation, error)),
            };
            match generation.eval(script, keys, args(epoch), deadline).await {
                Err(redis_link::Error::Epoch { .. }) => {}
                outcome => return outcome.map_err(|error| translate(operation, error)),
            }
        }
    }
}

fn text(text: &(impl ToString + ?Sized)) -> Bytes {
    Bytes::from(text.to_string())
}

fn millis(duration: Duration) -> Bytes {
    // Lua counts exactly up to 2^53; a hundred years are below.
    text(&duration.as_millis().min(100 * 365 * 86_400_000))
}

fn place(start: StartFrom) -> Bytes {
    start.after().map_or_else(|| Bytes::from_static(b"$"), |after| text(&after))
}

#[async_trait]
impl DurableStore for RedisDurable {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn append(
        &self,
        channel: &Subject,
        records: &[DurableRecord],
        limits: &DurableLimits,
        deadline: Deadline,
    ) -> Result<(), Error> {
        const APPEND: &str = "publish on a durable channel";
        if records.is_empty() {
            return Ok(());
        }
        self.register(channel, deadline).await?;
        let keys = self.keys(channel)?;
        let mut args = vec![text(&limits.max_len), text(&limits.keep_len), millis(limits.keep_for)];
        args.extend(records.iter().map(DurableRecord::to_bytes));
        let keys = [keys.stream, keys.channel, keys.wake];
        let reply = self.0.eval(APPEND, &self.0.scripts.append, &keys, |_| args.clone(), deadline).await?;
        match reply {
            Value::Int(_) => Ok(()),
            full => {
                let slowest =
                    full.as_array().ok().and_then(|full| full.first()?.as_str().ok()).unwrap_or_default();
                let (channel, group) = (channel.to_string(), slowest.to_owned());
                Err(Error::Full { channel, group, limit: limits.max_len })
            }
        }
    }

    async fn open(
        &self,
        consumer: &ConsumerKey,
        start: StartFrom,
        known: Option<u64>,
        deadline: Deadline,
    ) -> Result<Box<dyn DurableSource>, Error> {
        const OPEN: &str = "open a group of a durable channel";
        self.register(&consumer.channel, deadline).await?;
        let keys = self.keys(&consumer.channel)?.of_group(&consumer.group)?;
        // Lua's numbers are exact up to 2^53.
        let fresh: u64 = rand::random_range(1..1 << 53);
        let args = |epoch: u32| {
            let known = known.map(|known| known.to_string()).unwrap_or_default();
            vec![
                text(&epoch),
                text(&consumer.group),
                place(start),
                text(&known),
                text(&fresh),
                text(&MAX_GROUPS),
                text(&consumer.name),
            ]
        };
        let names = [&keys.stream, &keys.channel, &keys.group, &keys.timers, &keys.heard].map(Clone::clone);
        let reply = self.0.eval(OPEN, &self.0.scripts.open, &names, args, deadline).await?;
        let incarnation = reply.as_int().map_err(|error| Error::backend(OPEN, error))?;
        match u64::try_from(incarnation) {
            Ok(0) | Err(_) => Err(Error::Limit { what: "groups of a durable channel", limit: MAX_GROUPS }),
            Ok(incarnation) => {
                Ok(Box::new(RedisSource::new(Arc::clone(&self.0), keys, consumer.clone(), incarnation)))
            }
        }
    }

    async fn settle(
        &self,
        consumer: &ConsumerKey,
        settlements: &[Settlement],
        deadline: Deadline,
    ) -> Result<Vec<Settled>, Error> {
        const SETTLE: &str = "settle deliveries";
        let keys = self.keys(&consumer.channel)?.of_group(&consumer.group)?;
        let mut args = vec![text(&consumer.group), text(&consumer.name)];
        for one in settlements {
            let (what, a, b) = match &one.how {
                Settle::Ack => ("ack", Bytes::new(), Bytes::new()),
                Settle::Retry(after) => ("retry", millis(*after), Bytes::new()),
                Settle::Dead { reason, max } => ("dead", text(&reason), text(&max)),
                Settle::Extend(by) => ("extend", millis(*by), Bytes::new()),
                Settle::Release => ("release", Bytes::new(), Bytes::new()),
            };
            args.extend([text(&one.id), text(&one.deliveries), Bytes::from_static(what.as_bytes()), a, b]);
        }
        let names = [&keys.stream, &keys.group, &keys.timers, &keys.dead].map(Clone::clone);
        let reply = self.0.eval(SETTLE, &self.0.scripts.settle, &names, |_| args.clone(), deadline).await?;
        reply::settled(&reply).map_err(|error| Error::backend(SETTLE, error))
    }

    async fn told(&self, consumer: &ConsumerKey, number: u64, deadline: Deadline) -> Result<(), Error> {
        let keys = self.keys(&consumer.channel)?.of_group(&consumer.group)?;
        let told = self.0.eval(
            "record a told loss",
            &self.0.scripts.told,
            std::slice::from_ref(&keys.group),
            |_| vec![text(&number)],
            deadline,
        );
        told.await.map(drop)
    }

    async fn tend(
        &self,
        consumer: &ConsumerKey,
        forget_after: Duration,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let keys = self.keys(&consumer.channel)?.of_group(&consumer.group)?;
        let names = [keys.stream, keys.channel, keys.timers, keys.heard];
        let args = |_| vec![text(&consumer.group), millis(forget_after)];
        self.0.eval("tend a group", &self.0.scripts.tend, &names, args, deadline).await.map(drop)
    }

    async fn channels(&self, deadline: Deadline) -> Result<Vec<String>, Error> {
        const LIST: &str = "list durable channels";
        let command = Command::new("SMEMBERS").arg(&keys::channels(self.0.link.keys())?);
        let ready = self.0.link.ready(deadline).await.map_err(|error| translate(LIST, error))?;
        let reply = ready.call(command, deadline).await.map_err(|error| translate(LIST, error))?;
        reply::names(reply).map_err(|error| Error::backend(LIST, error))
    }

    async fn groups(&self, channel: &Subject, deadline: Deadline) -> Result<Vec<DurableGroup>, Error> {
        const LIST: &str = "list the groups of a durable channel";
        let keys = self.keys(channel)?;
        let ready = self.0.link.ready(deadline).await.map_err(|error| translate(LIST, error))?;
        let command = Command::new("XINFO GROUPS").arg(&keys.stream);
        let names = match ready.call(command, deadline).await {
            Ok(groups) => reply::group_names(groups).map_err(|error| Error::backend(LIST, error))?,
            Err(redis_link::Error::Server { message, .. }) if message.contains("no such key") => Vec::new(),
            Err(error) => return Err(translate(LIST, error)),
        };
        let mut groups = Vec::with_capacity(names.len());
        for name in names {
            // Made by somebody else, if it is none.
            let Ok(name) = GroupName::new(&name) else { continue };
            let keys = self.keys(channel)?.of_group(&name)?;
            let keys = [keys.stream, keys.channel, keys.group, keys.dead, keys.heard];
            let info =
                self.0.eval(LIST, &self.0.scripts.info, &keys, |_| vec![text(&name)], deadline).await?;
            let group = reply::group(channel, &name, &info).map_err(|error| Error::backend(LIST, error))?;
            groups.extend(group);
        }
        Ok(groups)
    }

    async fn change(
        &self,
        channel: &Subject,
        group: &GroupName,
        change: GroupChange,
        deadline: Deadline,
    ) -> Result<(), Error> {
        const CHANGE: &str = "change a group";
        let keys = self.keys(channel)?.of_group(group)?;
        let (what, argument) = match change {
            GroupChange::Pause => ("pause", text(&1)),
            GroupChange::Resume => ("pause", text(&0)),
            GroupChange::Place(start) => ("place", place(start)),
            GroupChange::Delete => ("delete", Bytes::new()),
        };
        let args = |_| vec![text(&group), text(&what), argument.clone()];
        let names = [keys.stream, keys.group, keys.timers, keys.dead, keys.heard];
        let reply = self.0.eval(CHANGE, &self.0.scripts.change, &names, args, deadline).await?;
        if reply.as_int() == Ok(0) { Err(group.unknown(channel)) } else { Ok(()) }
    }

    async fn dead_letters(
        &self,
        channel: &Subject,
        group: &GroupName,
        after: Option<DurableId>,
        max: usize,
        deadline: Deadline,
    ) -> Result<Vec<DeadLetter>, Error> {
        const LIST: &str = "list dead letters";
        let keys = self.keys(channel)?.of_group(group)?;
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let exists = Command::new("EXISTS").arg(&keys.group);
        let range = Command::new("XRANGE").arg(&keys.dead).arg(from).arg("+").arg("COUNT").arg(max);
        let ready = self.0.link.ready(deadline).await.map_err(|error| translate(LIST, error))?;
        let replies = ready.pipeline(vec![exists, range], deadline).await;
        let mut replies = replies.map_err(|error| translate(LIST, error))?.into_iter();
        let mut next = || match replies.next() {
            Some(reply) => reply.map_err(|error| translate(LIST, error)),
            None => Ok(Value::Nil),
        };
        if next()?.as_int() == Ok(0) {
            return Err(group.unknown(channel));
        }
        reply::dead_letters(next()?).map_err(|error| Error::backend(LIST, error))
    }

    async fn resolve(
        &self,
        channel: &Subject,
        group: &GroupName,
        letter: DurableId,
        resolution: Resolution,
        deadline: Deadline,
    ) -> Result<(), Error> {
        const RESOLVE: &str = "resolve a dead letter";
        let keys = self.keys(channel)?.of_group(group)?;
        let what = if resolution == Resolution::Retry { "retry" } else { "drop" };
        let args = |_| vec![text(&group), text(&letter), text(&what)];
        let names = [keys.stream, keys.channel, keys.wake, keys.dead];
        let reply = self.0.eval(RESOLVE, &self.0.scripts.resolve, &names, args, deadline).await?;
        match reply.as_int().map_err(|error| Error::backend(RESOLVE, error))? {
            0 => Err(group.unknown(channel)),
            1 => Err(Error::UnknownDeadLetter {
                channel: channel.to_string(),
                group: group.to_string(),
                letter: letter.to_string(),
            }),
            _ => Ok(()),
        }
    }
}
