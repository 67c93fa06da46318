//! What a subscription wants, where each channel belongs, what the servers have taken, what is to be said to them next and
//! what the subscriber is to be told: decisions alone. It does no I/O, and time is an argument.

mod places;

use super::SubscriptionEvent;
use crate::{Channel, Endpoint, Error, keys::ChannelKind, layout::Layout};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// Names in one command.
const BATCH: usize = 500;
/// Refusals that are kept for those who wait to hear of them.
const REFUSALS: usize = 64;

/// A connection that channels are subscribed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seat {
    /// Of names and patterns; without a cluster also of sharded channels.
    Shared,
    /// Of the sharded channels that this master of a cluster serves.
    Shard(Endpoint),
}

/// All decisions of one subscription.
#[derive(Debug)]
pub(super) struct Plan {
    wanted: HashMap<Channel, Want>,
    seats: HashMap<Seat, Sitting>,
    /// Sharded channels belong to the master of their slot.
    cluster: bool,
    layout: Option<Arc<Layout>>,
    /// When the layout became what it is.
    since: Instant,
    /// Channels that the server refused, with its words; forgotten when they are wanted again.
    refusals: VecDeque<(Channel, Error)>,
}

/// A channel that is wanted.
#[derive(Debug)]
struct Want {
    standing: Standing,
    /// Where it is to be subscribed; `None` while nobody is known to serve its slot.
    home: Option<Seat>,
    /// Of a sharded channel: the subscriber was told of its loss, and not yet of its return.
    lost: bool,
}

/// How the server stands to a channel that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not been asked, or has not answered.
    New,
    /// It took it, on this connection or an earlier one.
    Taken,
    /// It took it once and refuses it now: left out, asked for again now and then, as the right may come back.
    Refused,
}

/// What is known of a seat's connection.
#[derive(Debug)]
struct Sitting {
    /// What the server has confirmed on this connection.
    active: HashSet<Channel>,
    /// What it was told to take back, and has not confirmed.
    leaving: HashSet<Channel>,
    /// What this server cannot take just now.
    later: HashSet<Channel>,
    /// Since when, and why, not everything that was wanted at some recent moment is subscribed.
    trouble: Option<(Instant, String)>,
    /// Of the shared seat: `Lost` was told, `Restored` not yet.
    lost: bool,
    /// The connection before ended with a refusal: one name in a command, to find out whose.
    one_by_one: bool,
}

/// What to say to a server next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: ChannelKind,
    /// Or taking them back.
    pub(super) adding: bool,
    /// At least one.
    pub(super) channels: Vec<Channel>,
}

/// How far it is with some channels.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Taken,
    Refused(Error),
    /// Not yet; with the trouble that is in the way, if there is any.
    Waiting(Option<(Instant, String)>),
}

impl Plan {
    pub(super) fn new(cluster: bool, now: Instant) -> Self {
        let seats = HashMap::from([(Seat::Shared, Sitting::new(now))]);
        Self { wanted: HashMap::new(), seats, cluster, layout: None, since: now, refusals: VecDeque::new() }
    }

    /// Adds to what is wanted, all or nothing; `false`: that would be more than `max`.
    pub(super) fn want(&mut self, channels: &[Channel], max: usize) -> bool {
        let new = channels.iter().filter(|channel| !self.wanted.contains_key(*channel)).count();
        if self.wanted.len() + new > max {
            return false;
        }
        for channel in channels {
            match self.wanted.get_mut(channel) {
                Some(want) if want.standing == Standing::Refused => want.standing = Standing::Taken,
                Some(_) => {}
                None => {
                    let home = self.home(channel);
                    let taken = home.as_ref().is_some_and(|seat| self.is_active(seat, channel));
                    let standing = if taken { Standing::Taken } else { Standing::New };
                    self.wanted.insert(channel.clone(), Want { standing, home, lost: false });
                }
            }
        }
        self.refusals.retain(|(refused, _)| !channels.contains(refused));
        true
    }

    pub(super) fn unwant(&mut self, channels: &[Channel]) {
        channels.iter().for_each(|channel| drop(self.wanted.remove(channel)));
    }

    /// The connection is gone, or could not be made; the next one begins with nothing.
    pub(super) fn closed(&mut self, seat: &Seat, cause: &str, now: Instant) -> Vec<SubscriptionEvent> {
        let Some(sitting) = self.seats.get_mut(seat) else { return Vec::new() };
        let since = sitting.trouble.as_ref().map_or(now, |(since, _)| *since);
        sitting.trouble = Some((since, cause.to_owned()));
        sitting.later.clear();
        sitting.leaving.clear();
        let was_active = std::mem::take(&mut sitting.active);
        let mut events = Vec::new();
        if *seat == Seat::Shared && !std::mem::replace(&mut sitting.lost, true) {
            events.push(SubscriptionEvent::Lost { cause: cause.to_owned() });
        }
        events.extend(self.lose(was_active, cause));
        events
    }

    /// What to say to the server next: subscribe what is wanted and not active, take back what is active and not wanted.
    /// `None`: nothing.
    pub(super) fn next(&mut self, seat: &Seat) -> Option<Step> {
        let sitting = self.seats.get_mut(seat)?;
        let missing = self.wanted.iter().filter(|(channel, want)| {
            want.standing != Standing::Refused
                && want.home.as_ref() == Some(seat)
                && !sitting.active.contains(*channel)
                && !sitting.later.contains(*channel)
        });
        let most = if sitting.one_by_one { 1 } else { BATCH };
        let excess = sitting.active.iter().filter(|channel| !self.wanted.contains_key(*channel));
        let missing = missing.map(|(channel, _)| channel);
        let step = Step::of(true, missing, most).or_else(|| Step::of(false, excess, BATCH))?;
        if !step.adding {
            // Whoever wants one of them from now on waits until it was taken anew.
            step.channels.iter().for_each(|channel| sitting.leaving.extend(sitting.active.take(channel)));
        }
        Some(step)
    }

    /// The server has taken these.
    pub(super) fn taken(&mut self, seat: &Seat, channels: &[Channel]) -> Vec<SubscriptionEvent> {
        let Some(sitting) = self.seats.get_mut(seat) else { return Vec::new() };
        let mut back = Vec::new();
        for channel in channels {
            let want = self.wanted.get_mut(channel);
            if want.as_ref().is_some_and(|want| want.home.as_ref() != Some(seat)) {
                // Its slot left meanwhile: the server forgets it by itself.
                continue;
            }
            sitting.active.insert(channel.clone());
            if let Some(want) = want {
                want.standing = Standing::Taken;
                if std::mem::take(&mut want.lost) {
                    back.push(channel.clone());
                }
            }
        }
        restored(back)
    }

    /// The server has taken these back.
    pub(super) fn given_back(&mut self, seat: &Seat, channels: &[Channel]) {
        if let Some(sitting) = self.seats.get_mut(seat) {
            sitting.active.retain(|channel| !channels.contains(channel));
            sitting.leaving.retain(|channel| !channels.contains(channel));
        }
    }

    /// The server cannot take this one just now.
    pub(super) fn later(&mut self, seat: &Seat, channel: &Channel) {
        let is_its = self.wanted.get(channel).is_some_and(|want| want.home.as_ref() == Some(seat));
        if let Some(sitting) = self.seats.get_mut(seat).filter(|_| is_its) {
            sitting.later.insert(channel.clone());
        }
    }

    /// Whether something was put off; from now on it no longer is.
    pub(super) fn again(&mut self, seat: &Seat) -> bool {
        self.seats.get_mut(seat).is_some_and(|sitting| !std::mem::take(&mut sitting.later).is_empty())
    }

    /// Whether something is put off.
    pub(super) fn has_later(&self, seat: &Seat) -> bool {
        self.seats.get(seat).is_some_and(|sitting| !sitting.later.is_empty())
    }

    /// The server refuses one of these, which time does not mend. Of a channel alone: it is no longer wanted if the server
    /// never took it. Another one is left out for now: a right that was taken away may come back.
    pub(super) fn refused(&mut self, seat: &Seat, channels: &[Channel], error: &Error) {
        let [channel] = channels else {
            if let Some(sitting) = self.seats.get_mut(seat) {
                sitting.one_by_one = true;
            }
            return;
        };
        match self.wanted.get_mut(channel) {
            // Its slot left meanwhile: the new master decides.
            Some(want) if want.home.as_ref() != Some(seat) => return,
            Some(Want { standing: Standing::New, .. }) => drop(self.wanted.remove(channel)),
            Some(want) => want.standing = Standing::Refused,
            None => return,
        }
        self.refusals.push_back((channel.clone(), error.clone()));
        let excess = self.refusals.len().saturating_sub(REFUSALS);
        self.refusals.drain(..excess);
    }

    /// Left out as they are refused.
    pub(super) fn left_out(&self, seat: &Seat) -> Vec<Channel> {
        let refused = |(_, want): &(&Channel, &Want)| {
            want.standing == Standing::Refused && want.home.as_ref() == Some(seat)
        };
        self.wanted.iter().filter(refused).map(|(channel, _)| channel.clone()).collect()
    }

    /// The server would take a channel that is left out.
    pub(super) fn readmit(&mut self, channel: &Channel) {
        if let Some(want) = self.wanted.get_mut(channel) {
            want.standing = Standing::Taken;
        }
    }

    /// There was nothing [`next`](Self::next) to say.
    pub(super) fn settled(&mut self, seat: &Seat) -> Vec<SubscriptionEvent> {
        let Some(sitting) = self.seats.get_mut(seat) else { return Vec::new() };
        sitting.trouble = None;
        sitting.one_by_one = false;
        if std::mem::take(&mut sitting.lost) { vec![SubscriptionEvent::Restored] } else { Vec::new() }
    }

    /// How far it is with these channels.
    pub(super) fn outcome(&self, channels: &[Channel]) -> Outcome {
        if let Some((_, error)) = self.refusals.iter().find(|(channel, _)| channels.contains(channel)) {
            return Outcome::Refused(error.clone());
        }
        let waiting = channels.iter().find_map(|channel| {
            let home = self.wanted.get(channel)?.home.as_ref();
            if home.is_some_and(|seat| self.is_active(seat, channel)) {
                return None;
            }
            let Some(seat) = home else {
                return Some(Some((self.since, "nobody is known to serve its slot".to_owned())));
            };
            let Some(sitting) = self.seats.get(seat) else {
                return Some(Some((self.since, "it was not connected yet".to_owned())));
            };
            Some(sitting.trouble.clone())
        });
        waiting.map_or(Outcome::Taken, Outcome::Waiting)
    }

    /// Whether no server has these any more, or somebody wants them again.
    pub(super) fn is_gone(&self, channels: &[Channel]) -> bool {
        channels.iter().all(|channel| {
            self.wanted.contains_key(channel) || !self.seats.values().any(|sitting| sitting.has(channel))
        })
    }

    /// Why not everything that was wanted at some recent moment is subscribed.
    pub(super) fn trouble(&self) -> Option<String> {
        let of_masters = self.masters().into_iter().map(Seat::Shard);
        let mut needed = std::iter::once(Seat::Shared).chain(of_masters);
        let trouble = needed.find_map(|seat| match self.seats.get(&seat) {
            Some(sitting) => sitting.trouble.as_ref().map(|(_, cause)| cause.clone()),
            None => Some("it was not connected yet".to_owned()),
        });
        if trouble.is_some() {
            return trouble;
        }
        let count = |is: fn(&&Want) -> bool| self.wanted.values().filter(is).count();
        let homeless = count(|want| want.home.is_none());
        if homeless > 0 {
            return Some(format!("nobody is known to serve {homeless} of the sharded channels"));
        }
        let put_off: usize = self.seats.values().map(|sitting| sitting.later.len()).sum();
        if put_off > 0 {
            return Some(format!("the slots of {put_off} of the sharded channels are on their way"));
        }
        let refused = count(|want| want.standing == Standing::Refused);
        (refused > 0).then(|| format!("Redis refuses {refused} of the channels that it took before"))
    }

    /// Channels and patterns wanted.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.len()
    }

    fn is_active(&self, seat: &Seat, channel: &Channel) -> bool {
        self.seats.get(seat).is_some_and(|sitting| sitting.active.contains(channel))
    }

    /// Of these, the sharded channels whose loss is news.
    fn lose(
        &mut self,
        channels: impl IntoIterator<Item = Channel>,
        cause: &str,
    ) -> Option<SubscriptionEvent> {
        let news = |channel: &Channel| {
            let want = self.wanted.get_mut(channel).filter(|_| channel.is_sharded());
            want.is_some_and(|want| !std::mem::replace(&mut want.lost, true))
        };
        let channels: Vec<_> = channels.into_iter().filter(news).collect();
        let cause = cause.to_owned();
        (!channels.is_empty()).then_some(SubscriptionEvent::ShardsLost { channels, cause })
    }
}

impl Sitting {
    fn new(now: Instant) -> Self {
        let trouble = Some((now, "it was not connected yet".to_owned()));
        let (active, leaving, later) = Default::default();
        Self { active, leaving, later, trouble, lost: false, one_by_one: false }
    }

    fn has(&self, channel: &Channel) -> bool {
        self.active.contains(channel) || self.leaving.contains(channel)
    }
}

impl Step {
    /// Of the first one's kind, as many as go into one command.
    fn of<'a>(adding: bool, mut channels: impl Iterator<Item = &'a Channel>, most: usize) -> Option<Self> {
        let first = channels.next()?;
        let alike = channels.filter(|channel| channel.kind() == first.kind()).take(most - 1);
        let channels = std::iter::once(first).chain(alike).cloned().collect();
        Some(Self { kind: first.kind(), adding, channels })
    }
}

fn restored(channels: Vec<Channel>) -> Vec<SubscriptionEvent> {
    if channels.is_empty() { Vec::new() } else { vec![SubscriptionEvent::ShardsRestored { channels }] }
}

#[cfg(test)]
mod tests;
