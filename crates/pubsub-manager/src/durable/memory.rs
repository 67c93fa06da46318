//! Durable channels inside one process, for a service of one process and for tests. They outlive their consumers, not
//! the process.

mod group;

use super::{
    ConsumerKey, DeadLetter, DurableGroup, DurableId, DurableLimits, DurableRecord, DurableSource,
    DurableStore, GroupChange, GroupName, Resolution, Settled, Settlement, StartFrom, Take, Taken,
};
use crate::{Error, Subject};
use async_trait::async_trait;
use group::Group;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::Notify, time::Instant};

/// Groups that a channel may have.
const MAX_GROUPS: usize = 256;

/// Keeps durable channels in memory; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryDurable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    channels: Mutex<BTreeMap<Subject, List>>,
    appended: Notify,
}

/// One channel.
#[derive(Debug, Default)]
struct List {
    last: DurableId,
    entries: VecDeque<Entry>,
    groups: BTreeMap<GroupName, Group>,
    incarnations: u64,
    limits: DurableLimits,
}

#[derive(Debug)]
struct Entry {
    id: DurableId,
    /// The group that it is for; all without.
    only: Option<GroupName>,
    record: DurableRecord,
}

impl MemoryDurable {
    /// A store without channels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_group<R>(
        &self,
        channel: &Subject,
        group: &GroupName,
        change: impl FnOnce(&mut List, &mut Group) -> R,
    ) -> Result<R, Error> {
        let mut channels = self.0.channels.lock();
        let list = channels.get_mut(channel).ok_or_else(|| group.unknown(channel))?;
        let (name, mut taken) = list.groups.remove_entry(group).ok_or_else(|| group.unknown(channel))?;
        let result = change(list, &mut taken);
        list.groups.insert(name, taken);
        Ok(result)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl List {
    fn push(&mut self, only: Option<GroupName>, record: DurableRecord) {
        self.last = DurableId { millis: now().max(self.last.millis), sequence: self.last.sequence + 1 };
        self.entries.push_back(Entry { id: self.last, only, record });
    }

    fn get(&self, id: DurableId) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.entries.get(at)
    }

    /// The first entry after a place.
    fn next(&self, after: DurableId) -> Option<&Entry> {
        self.entries.get(self.entries.partition_point(|entry| entry.id <= after))
    }

    /// Removes what every group has acknowledged and the limits do not keep. What is merely kept makes room for `more`, unless
    /// they could never fit.
    fn trim(&mut self, more: usize) {
        let keep_len = match self.limits.max_len.checked_sub(more as u64) {
            Some(most) => self.limits.keep_len.min(most),
            None => self.limits.keep_len,
        };
        let oldest = now().saturating_sub(millis(self.limits.keep_for));
        let needed = self.groups.values().map(Group::needs_after).min();
        while let Some(first) = self.entries.front() {
            let kept = self.entries.len() as u64 <= keep_len && first.id.millis >= oldest;
            if kept || needed.is_some_and(|needed| first.id > needed) {
                return;
            }
            self.entries.pop_front();
        }
    }
}

#[async_trait]
impl DurableStore for MemoryDurable {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn append(
        &self,
        channel: &Subject,
        records: &[DurableRecord],
        limits: &DurableLimits,
        _deadline: Deadline,
    ) -> Result<(), Error> {
        {
            let mut channels = self.0.channels.lock();
            let list = channels.entry(channel.clone()).or_default();
            list.limits = *limits;
            list.trim(records.len());
            if (list.entries.len() + records.len()) as u64 > limits.max_len {
                let slowest = list.groups.iter().min_by_key(|(_, group)| group.needs_after());
                let group = slowest.map(|(name, _)| name.to_string()).unwrap_or_default();
                return Err(Error::Full { channel: channel.to_string(), group, limit: limits.max_len });
            }
            records.iter().for_each(|record| list.push(None, record.clone()));
        }
        self.0.appended.notify_waiters();
        Ok(())
    }

    async fn open(
        &self,
        consumer: &ConsumerKey,
        start: StartFrom,
        known: Option<u64>,
        _deadline: Deadline,
    ) -> Result<Box<dyn DurableSource>, Error> {
        let mut channels = self.0.channels.lock();
        let list = channels.entry(consumer.channel.clone()).or_default();
        if !list.groups.contains_key(&consumer.group) {
            if list.groups.len() >= MAX_GROUPS {
                return Err(Error::Limit { what: "groups of a durable channel", limit: MAX_GROUPS });
            }
            list.incarnations += 1;
            let start = if known.is_some() { StartFrom::Earliest } else { start };
            let (place, name) = (start.after().unwrap_or(list.last), consumer.group.clone());
            let group = Group::new(name, list.incarnations, place, known.is_some());
            list.groups.insert(consumer.group.clone(), group);
        }
        let group = list.groups.get_mut(&consumer.group);
        let incarnation = group.map_or(0, |group| group.register(&consumer.name));
        let (store, consumer) = (self.clone(), consumer.clone());
        Ok(Box::new(MemorySource { store, consumer, incarnation, resumed: false }))
    }

    async fn settle(
        &self,
        consumer: &ConsumerKey,
        settlements: &[Settlement],
        _deadline: Deadline,
    ) -> Result<Vec<Settled>, Error> {
        let settled = self.with_group(&consumer.channel, &consumer.group, |list, group| {
            settlements.iter().map(|one| group.settle(&consumer.name, one, list)).collect()
        });
        match settled {
            Err(Error::UnknownGroup { .. }) => Ok(vec![Settled::NotPending; settlements.len()]),
            settled => settled,
        }
    }

    async fn told(&self, consumer: &ConsumerKey, number: u64, _deadline: Deadline) -> Result<(), Error> {
        self.with_group(&consumer.channel, &consumer.group, |_, group| group.told(number))
    }

    async fn tend(
        &self,
        consumer: &ConsumerKey,
        forget_after: Duration,
        _deadline: Deadline,
    ) -> Result<(), Error> {
        self.with_group(&consumer.channel, &consumer.group, |_, group| group.forget(forget_after))?;
        if let Some(list) = self.0.channels.lock().get_mut(&consumer.channel) {
            list.trim(0);
        }
        Ok(())
    }

    async fn channels(&self, _deadline: Deadline) -> Result<Vec<String>, Error> {
        Ok(self.0.channels.lock().keys().map(ToString::to_string).collect())
    }

    async fn groups(&self, channel: &Subject, _deadline: Deadline) -> Result<Vec<DurableGroup>, Error> {
        let channels = self.0.channels.lock();
        let Some(list) = channels.get(channel) else { return Ok(Vec::new()) };
        Ok(list.groups.iter().map(|(name, group)| group.info(channel, name, list)).collect())
    }

    async fn change(
        &self,
        channel: &Subject,
        group: &GroupName,
        change: GroupChange,
        _deadline: Deadline,
    ) -> Result<(), Error> {
        self.with_group(channel, group, |list, group| group.change(change, list.last))?;
        if change == GroupChange::Delete
            && let Some(list) = self.0.channels.lock().get_mut(channel)
        {
            list.groups.remove(group);
        }
        self.0.appended.notify_waiters();
        Ok(())
    }

    async fn dead_letters(
        &self,
        channel: &Subject,
        group: &GroupName,
        after: Option<DurableId>,
        max: usize,
        _deadline: Deadline,
    ) -> Result<Vec<DeadLetter>, Error> {
        self.with_group(channel, group, |_, group| {
            let later = group.dead.iter().filter(|letter| after.is_none_or(|after| letter.id > after));
            later.take(max).cloned().collect()
        })
    }

    async fn resolve(
        &self,
        channel: &Subject,
        group: &GroupName,
        letter: DurableId,
        resolution: Resolution,
        _deadline: Deadline,
    ) -> Result<(), Error> {
        let unknown = || Error::UnknownDeadLetter {
            channel: channel.to_string(),
            group: group.to_string(),
            letter: letter.to_string(),
        };
        self.with_group(channel, group, |list, taken| {
            let at = taken.dead.binary_search_by_key(&letter, |letter| letter.id).map_err(|_| unknown())?;
            let record = taken.dead.remove(at).and_then(|letter| letter.record);
            if let Some(record) = record.filter(|_| resolution == Resolution::Retry) {
                list.push(Some(group.clone()), record);
            }
            Ok(())
        })??;
        self.0.appended.notify_waiters();
        Ok(())
    }
}

#[derive(Debug)]
struct MemorySource {
    store: MemoryDurable,
    consumer: ConsumerKey,
    incarnation: u64,
    /// Whether what this name had pending has been delivered.
    resumed: bool,
}

#[async_trait]
impl DurableSource for MemorySource {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    async fn take(&mut self, take: &Take<'_>) -> Result<Taken, Error> {
        let until = Instant::now() + take.wait;
        let shared = Arc::clone(&self.store.0);
        loop {
            let mut appended = std::pin::pin!(shared.appended.notified());
            appended.as_mut().enable();
            let ConsumerKey { channel, group, name } = &self.consumer;
            let (taken, due) = self.store.with_group(channel, group, |list, group| {
                if group.incarnation != self.incarnation {
                    return Err(self.consumer.group.unknown(channel));
                }
                Ok(group.take(name, take, list, &mut self.resumed))
            })??;
            let idle = taken.messages.is_empty() && taken.loss.is_none() && taken.dead == 0;
            if !idle || Instant::now() >= until {
                return Ok(taken);
            }
            let due = due.map_or(until, |after| until.min(Instant::now() + after));
            // Whether appended to or due, it is looked at again.
            let _elapsed = tokio::time::timeout_at(due, appended).await;
        }
    }
}
