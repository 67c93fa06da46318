//! Where sharded channels belong on a cluster, and what follows when their slots move. Nothing here knows connections.

use super::{Plan, Seat, Sitting};
use crate::{Channel, Endpoint, SubscriptionEvent, layout::Layout};
use std::{collections::HashSet, sync::Arc};
use tokio::time::Instant;

impl Plan {
    /// Whoever serves the slots now. Channels whose slot has another master than before are lost at the old one.
    /// `None`: that was known.
    pub(in crate::subscription) fn place(
        &mut self,
        layout: &Arc<Layout>,
        now: Instant,
    ) -> Option<Vec<SubscriptionEvent>> {
        if !self.cluster || self.layout.as_ref().is_some_and(|known| Arc::ptr_eq(known, layout)) {
            return None;
        }
        (self.layout, self.since) = (Some(Arc::clone(layout)), now);
        let sharded: Vec<_> = self.wanted.keys().filter(|channel| channel.is_sharded()).cloned().collect();
        let mut moved = Vec::new();
        for channel in sharded {
            let home = self.home(&channel);
            let Some(want) = self.wanted.get_mut(&channel) else { continue };
            if want.home == home {
                continue;
            }
            let before = std::mem::replace(&mut want.home, home);
            if let Some(sitting) = before.and_then(|seat| self.seats.get_mut(&seat)) {
                sitting.later.remove(&channel);
                if sitting.active.remove(&channel) {
                    // Nothing is said to the old master: it forgets the channels of a slot with the slot.
                    moved.push(channel);
                }
            }
        }
        let mut seats = std::mem::take(&mut self.seats);
        for (seat, sitting) in &mut seats {
            // Nor is anything said about those that were just to be taken back.
            let stays = |channel: &Channel| self.home(channel).as_ref() == Some(seat);
            sitting.active.retain(|channel| self.wanted.contains_key(channel) || stays(channel));
        }
        self.seats = seats;
        Some(self.lose(moved, "the slot has another master").into_iter().collect())
    }

    /// The masters at which sharded channels are wanted.
    pub(in crate::subscription) fn masters(&self) -> HashSet<Endpoint> {
        let masters = self.wanted.values().filter_map(|want| match &want.home {
            Some(Seat::Shard(master)) => Some(master.clone()),
            _ => None,
        });
        masters.collect()
    }

    /// A connection to this master is going to be kept.
    pub(in crate::subscription) fn sit(&mut self, master: &Endpoint, now: Instant) {
        self.seats.entry(Seat::Shard(master.clone())).or_insert_with(|| Sitting::new(now));
    }

    /// It is no longer kept; nothing is wanted there.
    pub(in crate::subscription) fn leave(&mut self, master: &Endpoint) {
        self.seats.remove(&Seat::Shard(master.clone()));
    }

    /// What the server is to have on this connection.
    pub(in crate::subscription) fn active(&self, seat: &Seat) -> Vec<Channel> {
        self.seats.get(seat).map(|sitting| sitting.active.iter().cloned().collect()).unwrap_or_default()
    }

    /// The server had silently forgotten these: some of them it has taken again, the others it no longer takes.
    pub(in crate::subscription) fn forgotten(
        &mut self,
        seat: &Seat,
        again: &[Channel],
        gone: &[Channel],
    ) -> Vec<SubscriptionEvent> {
        self.given_back(seat, again);
        self.given_back(seat, gone);
        let lost = again.iter().chain(gone).cloned().collect::<Vec<_>>();
        let mut events: Vec<_> = self.lose(lost, "the server had forgotten it").into_iter().collect();
        events.extend(self.taken(seat, again));
        gone.iter().for_each(|channel| self.later(seat, channel));
        events
    }

    pub(super) fn home(&self, channel: &Channel) -> Option<Seat> {
        if !self.cluster || !channel.is_sharded() {
            return Some(Seat::Shared);
        }
        let layout = self.layout.as_ref()?;
        let owner = layout.slots.as_ref()?.owner(channel.slot())?;
        layout.masters.get(owner).cloned().map(Seat::Shard)
    }
}
