//! One group of a channel in memory: its place, what is pending, what is dead.

use super::{Entry, List, now};
use crate::{
    DeadLetter, DurableGroup, DurableId, GroupChange, GroupName, LossCause, RecordedLoss, Settle, Settled,
    Settlement, Subject, Take, Taken, TakenMessage,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// When a dead letter for which there is no room is tried again.
const LATER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Group {
    name: GroupName,
    pub(super) incarnation: u64,
    place: DurableId,
    pending: BTreeMap<DurableId, Pending>,
    pub(super) dead: VecDeque<DeadLetter>,
    buried: DurableId,
    consumers: HashMap<Arc<str>, Instant>,
    paused: bool,
    losses: u64,
    told: u64,
    delivered: u64,
    redelivered: u64,
    acknowledged: u64,
}

#[derive(Debug)]
struct Pending {
    /// `None` while it waits for a retry.
    consumer: Option<Arc<str>>,
    deliveries: u32,
    due: Instant,
}

impl Group {
    pub(super) fn new(name: GroupName, incarnation: u64, place: DurableId, lost: bool) -> Self {
        Self {
            name,
            incarnation,
            place,
            pending: BTreeMap::new(),
            dead: VecDeque::new(),
            buried: DurableId::default(),
            consumers: HashMap::new(),
            paused: false,
            losses: u64::from(lost),
            told: 0,
            delivered: 0,
            redelivered: 0,
            acknowledged: 0,
        }
    }

    pub(super) fn register(&mut self, consumer: &Arc<str>) -> u64 {
        self.consumers.insert(Arc::clone(consumer), Instant::now());
        self.incarnation
    }

    /// Everything up to there is acknowledged.
    pub(super) fn needs_after(&self) -> DurableId {
        let pending = self.pending.first_key_value().map(|(id, _)| id.before());
        pending.map_or(self.place, |pending| pending.min(self.place))
    }

    /// What the consumer is given, and when something is due next.
    pub(super) fn take(
        &mut self,
        consumer: &Arc<str>,
        take: &Take<'_>,
        list: &List,
        resumed: &mut bool,
    ) -> (Taken, Option<Duration>) {
        self.register(consumer);
        let loss = (self.losses > self.told).then_some(RecordedLoss {
            number: self.losses,
            missed: None,
            cause: LossCause::GroupGone,
        });
        let mut taken = Taken { now: now(), paused: self.paused, loss, ..Taken::default() };
        if self.paused {
            return (taken, None);
        }
        let time = Instant::now();
        let own = |one: &Pending| !*resumed && one.consumer.as_ref() == Some(consumer);
        let ready = |id: &DurableId, one: &Pending| {
            !(one.consumer.as_ref() == Some(consumer) && take.holding.contains(id))
                && (own(one) || one.due <= time)
        };
        let ready: Vec<_> = self
            .pending
            .iter()
            .filter(|(id, one)| ready(id, one))
            .map(|(id, _)| *id)
            .take(take.max)
            .collect();
        *resumed |= ready.len() < take.max;
        let mut bytes = 0;
        for id in ready {
            if bytes >= take.max_bytes {
                *resumed = false;
                break;
            }
            if self.pending.get(&id).is_some_and(|one| one.deliveries >= take.max_deliveries) {
                taken.dead += u64::from(self.abandon(id, take.max_dead_letters, list));
                continue;
            }
            let Some(one) = self.pending.get_mut(&id) else { continue };
            (one.consumer, one.due) = (Some(Arc::clone(consumer)), time + take.ack_timeout);
            one.deliveries += 1;
            self.redelivered += 1;
            let record = list.get(id).map(|entry| entry.record.clone());
            bytes += record.as_ref().map_or(0, |record| record.payload.len());
            taken.messages.push(TakenMessage { id, deliveries: one.deliveries, record });
        }
        self.take_new(consumer, take, list, bytes, &mut taken);
        self.delivered += taken.messages.len() as u64;
        let due = self.pending.values().map(|one| one.due.saturating_duration_since(time)).min();
        (taken, due)
    }

    fn take_new(
        &mut self,
        consumer: &Arc<str>,
        take: &Take<'_>,
        list: &List,
        mut bytes: usize,
        taken: &mut Taken,
    ) {
        while taken.messages.len() < take.max && bytes < take.max_bytes {
            let Some(Entry { id, only, record }) = list.next(self.place) else { return };
            self.place = *id;
            if only.as_ref().is_some_and(|only| *only != self.name) {
                continue;
            }
            let due = Instant::now() + take.ack_timeout;
            let one = Pending { consumer: Some(Arc::clone(consumer)), deliveries: 1, due };
            self.pending.insert(*id, one);
            bytes += record.payload.len();
            taken.messages.push(TakenMessage { id: *id, deliveries: 1, record: Some(record.clone()) });
        }
    }

    /// Makes a dead letter of what is due too often.
    fn abandon(&mut self, id: DurableId, max: u64, list: &List) -> bool {
        let Some(one) = self.pending.get(&id) else { return false };
        let by = one.consumer.as_ref().map_or(String::new(), |name| format!(", last by {name}"));
        let reason = format!("not settled after {} deliveries{by}", one.deliveries);
        self.bury(id, reason, max, list) == Settled::Done
    }

    fn bury(&mut self, id: DurableId, reason: String, max: u64, list: &List) -> Settled {
        if self.dead.len() as u64 >= max {
            self.wait(id, LATER);
            return Settled::DeadLettersFull;
        }
        let deliveries = self.pending.remove(&id).map_or(0, |one| one.deliveries);
        self.buried = DurableId { millis: now().max(self.buried.millis), sequence: self.buried.sequence + 1 };
        let record = list.get(id).map(|entry| entry.record.clone());
        self.dead.push_back(DeadLetter { id: self.buried, position: id, deliveries, reason, record });
        Settled::Done
    }

    fn wait(&mut self, id: DurableId, after: Duration) {
        if let Some(one) = self.pending.get_mut(&id) {
            (one.consumer, one.due) = (None, Instant::now() + after);
        }
    }

    pub(super) fn settle(&mut self, consumer: &Arc<str>, settlement: &Settlement, list: &List) -> Settled {
        let id = settlement.id;
        let Some(one) = self.pending.get_mut(&id) else { return Settled::NotPending };
        let mine = one.consumer.as_ref().is_none_or(|name| name == consumer);
        if !mine || one.deliveries != settlement.deliveries {
            return Settled::Superseded;
        }
        match &settlement.how {
            Settle::Ack => {
                self.pending.remove(&id);
                self.acknowledged += 1;
            }
            Settle::Retry(after) => self.wait(id, *after),
            Settle::Dead { reason, max } => return self.bury(id, reason.clone(), *max, list),
            Settle::Extend(by) if one.consumer.is_some() => one.due = Instant::now() + *by,
            Settle::Extend(_) => return Settled::Superseded,
            Settle::Release => {
                one.deliveries -= 1;
                self.wait(id, Duration::ZERO);
            }
        }
        Settled::Done
    }

    pub(super) fn told(&mut self, number: u64) {
        self.told = self.told.max(number);
    }

    pub(super) fn forget(&mut self, forget_after: Duration) {
        let Self { consumers, pending, .. } = self;
        let busy = |name: &Arc<str>| pending.values().any(|one| one.consumer.as_ref() == Some(name));
        consumers.retain(|name, heard| heard.elapsed() < forget_after || busy(name));
    }

    pub(super) fn change(&mut self, change: GroupChange, last: DurableId) {
        match change {
            GroupChange::Pause => self.paused = true,
            GroupChange::Resume => self.paused = false,
            GroupChange::Place(start) => self.place = start.after().unwrap_or(last),
            GroupChange::Delete => {}
        }
    }

    pub(super) fn info(&self, channel: &Subject, name: &GroupName, list: &List) -> DurableGroup {
        let undelivered = list.next(self.place).map(|entry| entry.id);
        let oldest = self.pending.keys().next().copied().into_iter().chain(undelivered).min();
        let age = |id: DurableId| Duration::from_millis(now().saturating_sub(id.millis));
        DurableGroup {
            channel: channel.to_string(),
            group: name.to_string(),
            consumers: self.consumers.len() as u64,
            pending: self.pending.len() as u64,
            waiting: self.pending.values().filter(|one| one.consumer.is_none()).count() as u64,
            lag: undelivered.map_or(0, |first| list.last.sequence - first.sequence + 1),
            oldest_unacked: oldest.map(age),
            paused: self.paused,
            dead_letters: self.dead.len() as u64,
            losses: self.losses,
            delivered: self.delivered,
            redelivered: self.redelivered,
            acknowledged: self.acknowledged,
        }
    }
}
