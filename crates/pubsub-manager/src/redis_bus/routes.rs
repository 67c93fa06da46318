//! Who wants what of the bus over Redis, and the queue to each of them. Delivery never waits, so that one slow subscription
//! does not hold up the others. No connection is known here.

use super::scope;
use crate::{BusEvent, Filter, Lane, bus::inbox::Route};
use parking_lot::Mutex;
use redis_link::{Channel, Incoming, Keys, Listener, SubscriptionEvent};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// Who wants what.
#[derive(Debug)]
pub(super) struct Routes {
    keys: Keys,
    wanted: Mutex<Wanted>,
    /// By the names of channels; see [`changing`](Self::changing).
    changing: Mutex<HashMap<String, Weak<Changing>>>,
}

type Changing = tokio::sync::Mutex<()>;

#[derive(Debug, Default)]
struct Wanted {
    plain: Names,
    sharded: Names,
    raw: Names,
    /// Over plain channels.
    patterns: HashMap<Filter, Vec<Route>>,
    /// Nothing comes any more.
    ended: bool,
}

/// By name, which every message of it shares.
type Names = HashMap<Arc<str>, Vec<Route>>;

impl Wanted {
    fn names(&mut self, lane: Lane) -> &mut Names {
        match lane {
            Lane::Plain => &mut self.plain,
            Lane::Sharded => &mut self.sharded,
            Lane::Raw => &mut self.raw,
        }
    }

    fn routes(&mut self, filter: &Filter) -> &mut Vec<Route> {
        if filter.is_wildcard() {
            return self.patterns.entry(filter.clone()).or_default();
        }
        self.names(filter.lane()).entry(filter.as_str().into()).or_default()
    }

    fn leave(&mut self, filter: &Filter) -> bool {
        let routes = self.routes(filter);
        routes.retain(|route| !route.is_closed());
        if !routes.is_empty() {
            return false;
        }
        if !filter.is_wildcard() {
            self.names(filter.lane()).remove(filter.as_str());
            return true;
        }
        self.patterns.remove(filter);
        // `a.*` and `a.>` are one pattern to the server.
        let glob = filter.glob();
        !self.patterns.keys().any(|other| other.glob() == glob)
    }
}

impl Routes {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, wanted: Mutex::default(), changing: Mutex::default() }
    }

    /// One more wants this. Dropped at once when nothing comes any more.
    pub(super) fn enter(&self, filter: &Filter, route: Route) {
        let mut wanted = self.wanted.lock();
        if !wanted.ended {
            wanted.routes(filter).push(route);
        }
    }

    /// Those whose stream is closed want it no more; whether nobody wants anything of its channel any more.
    pub(super) fn leave(&self, filter: &Filter) -> bool {
        self.wanted.lock().leave(filter)
    }

    /// Held while a channel is added at or removed from the server, so that the two cannot overtake one another. One for each
    /// channel: the server may take one of them late, and the others need not wait for that.
    pub(super) fn changing(&self, channel: &Channel) -> Arc<Changing> {
        let mut changing = self.changing.lock();
        if let Some(lock) = changing.get(channel.as_str()).and_then(Weak::upgrade) {
            return lock;
        }
        // Now and then, so that each costs no more than itself.
        if changing.len().is_power_of_two() {
            changing.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::<Changing>::default();
        changing.insert(channel.as_str().to_owned(), Arc::downgrade(&lock));
        lock
    }

    fn tell_shards(&self, channels: &[Channel], event: &BusEvent) {
        let wanted = self.wanted.lock();
        let names = channels.iter().filter_map(|channel| self.keys.channel_parts(channel.as_str()));
        let routes = names.filter_map(|(_, name)| wanted.sharded.get(name));
        routes.flatten().for_each(|route| route.send(event.clone()));
    }

    /// Everybody but the sharded channels, who are told one by one.
    fn tell_shared(&self, event: &BusEvent) {
        let wanted = self.wanted.lock();
        let routes = wanted.plain.values().chain(wanted.raw.values()).chain(wanted.patterns.values());
        routes.flatten().for_each(|route| route.send(event.clone()));
    }
}

impl Listener for Routes {
    /// With several patterns that match, Redis sends a message once for each of them without saying for which; all get
    /// all copies, and the envelope's number tells the first from the others.
    fn message(&self, message: Incoming<'_>) {
        let Some((of, name)) = self.keys.channel_parts(message.channel) else { return };
        let wanted = self.wanted.lock();
        if message.pattern {
            let mut matching = wanted.patterns.iter().filter(|(filter, _)| filter.matches(name)).peekable();
            if matching.peek().is_none() {
                return;
            }
            let known = wanted.plain.get_key_value(name).map(|(subject, _)| Arc::clone(subject));
            let subject = known.unwrap_or_else(|| name.into());
            matching.flat_map(|(_, routes)| routes).for_each(|route| route.frame(&subject, &message.payload));
            return;
        }
        let names = match of {
            _ if of == scope(Lane::Plain) => &wanted.plain,
            _ if of == scope(Lane::Sharded) => &wanted.sharded,
            _ if of == scope(Lane::Raw) => &wanted.raw,
            _ => return,
        };
        if let Some((subject, routes)) = names.get_key_value(name) {
            routes.iter().for_each(|route| route.frame(subject, &message.payload));
        }
    }

    fn event(&self, event: SubscriptionEvent) {
        match event {
            SubscriptionEvent::Lost { .. } => self.tell_shared(&BusEvent::Interrupted),
            SubscriptionEvent::Restored => self.tell_shared(&BusEvent::Restored),
            SubscriptionEvent::ShardsLost { channels, .. } => {
                self.tell_shards(&channels, &BusEvent::Interrupted)
            }
            SubscriptionEvent::ShardsRestored { channels } => {
                self.tell_shards(&channels, &BusEvent::Restored)
            }
            SubscriptionEvent::Overflow { .. } => {
                self.tell_shared(&BusEvent::Overflowed);
                let wanted = self.wanted.lock();
                wanted.sharded.values().flatten().for_each(|route| route.send(BusEvent::Overflowed));
            }
            _ => {}
        }
    }

    /// Dropping the routes ends the streams.
    fn ended(&self) {
        *self.wanted.lock() = Wanted { ended: true, ..Wanted::default() };
    }
}

/// The way to one stream, with a subscription of its own.
#[derive(Debug)]
pub(super) struct Outpost {
    pub(super) keys: Keys,
    pub(super) route: Mutex<Option<Route>>,
}

impl Outpost {
    fn with(&self, go: impl FnOnce(&Route)) {
        if let Some(route) = &*self.route.lock() {
            go(route);
        }
    }
}

impl Listener for Outpost {
    fn message(&self, message: Incoming<'_>) {
        if let Some((_, name)) = self.keys.channel_parts(message.channel) {
            self.with(|route| route.frame(&name.into(), &message.payload));
        }
    }

    fn event(&self, event: SubscriptionEvent) {
        let event = match event {
            SubscriptionEvent::Lost { .. } => BusEvent::Interrupted,
            SubscriptionEvent::Restored => BusEvent::Restored,
            SubscriptionEvent::Overflow { .. } => BusEvent::Overflowed,
            _ => return,
        };
        self.with(|route| route.send(event));
    }

    fn ended(&self) {
        self.route.lock().take();
    }
}

#[cfg(test)]
mod tests;
