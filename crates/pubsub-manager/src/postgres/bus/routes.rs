//! Who wants which frames in this process. It never waits: whoever does not keep up is told so.

use crate::{
    BusEvent, BusStream, Filter, Lane, Subject,
    bus::inbox::{Inbox, Route, inbox},
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::sync::{Notify, oneshot};

#[derive(Debug, Default)]
pub(super) struct Routes {
    wanted: Mutex<Wanted>,
    /// Somebody has come.
    pub(super) joined: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    active: HashMap<Filter, Vec<Route>>,
    /// Not confirmed yet, in the order of coming.
    joining: Vec<(Filter, Route, oneshot::Sender<()>)>,
    ended: bool,
}

impl Routes {
    /// A stream, and what is answered once it gets every frame that is published from then on.
    pub(super) fn add(self: &Arc<Self>, filter: &Filter) -> (Stream, oneshot::Receiver<()>) {
        let (route, inbox) = inbox();
        let (confirm, confirmed) = oneshot::channel();
        let mut wanted = self.wanted.lock();
        if !wanted.ended {
            wanted.joining.push((filter.clone(), route, confirm));
        }
        drop(wanted);
        self.joined.notify_one();
        (Stream { inbox, filter: filter.clone(), routes: Arc::downgrade(self) }, confirmed)
    }

    pub(super) fn is_empty(&self) -> bool {
        let wanted = self.wanted.lock();
        wanted.active.is_empty() && wanted.joining.is_empty()
    }

    /// How many are to be confirmed by a look at the table that begins now.
    pub(super) fn joining(&self) -> usize {
        self.wanted.lock().joining.len()
    }

    /// The look is done: the first so many get what comes after it.
    pub(super) fn confirm(&self, count: usize) {
        let mut wanted = self.wanted.lock();
        let count = count.min(wanted.joining.len());
        let confirmed: Vec<_> = wanted.joining.drain(..count).collect();
        for (filter, route, confirm) in confirmed {
            if confirm.send(()).is_ok() {
                wanted.active.entry(filter).or_default().push(route);
            }
        }
    }

    pub(super) fn deliver(&self, lane: Lane, name: &str, frame: &Bytes) {
        let Ok(subject) = Subject::new(name) else { return };
        let wanted = self.wanted.lock();
        let name: Arc<str> = name.into();
        let send = |route: &Route| route.frame(&name, frame);
        wanted.active.get(&Filter::exact(lane, &subject)).into_iter().flatten().for_each(send);
        let patterns = wanted
            .active
            .iter()
            .filter(|(filter, _)| filter.is_wildcard() && filter.lane() == lane && filter.matches(&name));
        patterns.flat_map(|(_, routes)| routes).for_each(send);
    }

    pub(super) fn tell_all(&self, event: &BusEvent) {
        self.wanted.lock().active.values().flatten().for_each(|route| route.send(event.clone()));
    }

    /// No more frames come: the streams end.
    pub(super) fn end(&self) {
        let mut wanted = self.wanted.lock();
        wanted.ended = true;
        wanted.active.clear();
        wanted.joining.clear();
    }

    fn leave(&self, filter: &Filter) {
        let mut wanted = self.wanted.lock();
        wanted.joining.retain(|(_, route, _)| !route.is_closed());
        if let Some(same) = wanted.active.get_mut(filter) {
            same.retain(|route| !route.is_closed());
            if same.is_empty() {
                wanted.active.remove(filter);
            }
        }
    }
}

pub(super) struct Stream {
    inbox: Inbox,
    filter: Filter,
    routes: Weak<Routes>,
}

#[async_trait]
impl BusStream for Stream {
    async fn next(&mut self) -> Option<BusEvent> {
        self.inbox.next().await
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(routes) = self.routes.upgrade() {
            routes.leave(&self.filter);
        }
    }
}

#[cfg(test)]
mod tests;
