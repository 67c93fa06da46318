//! Publishing: the channels with a running counter, and the task that announces their last numbers.

use super::Inner;
use crate::{
    Error, Lane, Subject,
    baton::Baton,
    outlet::{Outgoing, Outlet, OutletLimits, Refused},
};
use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

impl Inner {
    /// Queues a message on its channel's outlet. Who gets a [`Baton`] has to see to it that it is sent.
    pub(crate) fn send(
        self: &Arc<Self>,
        channel: &(Lane, Subject),
        mut message: Outgoing,
    ) -> Result<Option<Baton>, Error> {
        let bus = self.bus("publish")?;
        loop {
            let outlet = self.outlet(channel)?;
            match outlet.queue(message) {
                Ok(true) => {
                    let (manager, under_way) = (Arc::clone(self), self.tasks.token());
                    let bus = Arc::clone(bus);
                    return Ok(Some(Baton { held: true, outlet, bus, manager, _under_way: under_way }));
                }
                Ok(false) => return Ok(None),
                Err(Refused::Full) => {
                    return Err(Error::Limit {
                        what: "publishes waiting on a channel",
                        limit: self.config.max_pending,
                    });
                }
                Err(Refused::Ended(back)) => {
                    let mut outlets = self.outlets.lock();
                    if outlets.get(channel).is_some_and(|current| Arc::ptr_eq(current, &outlet)) {
                        outlets.remove(channel);
                    }
                    message = back;
                }
            }
        }
    }

    fn outlet(&self, channel: &(Lane, Subject)) -> Result<Arc<Outlet>, Error> {
        let mut outlets = self.outlets.lock();
        if let Some(outlet) = outlets.get(channel) {
            return Ok(Arc::clone(outlet));
        }
        // Under the lock under which shutdown takes them all, so none is left without a farewell.
        if self.stop.is_cancelled() {
            return Err(Error::Shutdown { operation: "publish" });
        }
        if outlets.len() >= self.config.max_channels {
            return Err(Error::Limit { what: "channels", limit: self.config.max_channels });
        }
        let limits = OutletLimits {
            pending: self.config.max_pending,
            frame_bytes: self.config.max_frame_bytes,
            announce_timeout: self.config.announce_every,
        };
        let epoch = self.next_epoch.fetch_add(1, Relaxed);
        let outlet = Arc::new(Outlet::new(channel.clone(), self.publisher, epoch, limits));
        outlets.insert(channel.clone(), Arc::clone(&outlet));
        Ok(outlet)
    }
}

/// Has every channel's last number told once a period, and retires the idle ones.
pub(super) async fn announce(inner: Weak<Inner>, every: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let Some(inner) = inner.upgrade() else { return };
        let Some(bus) = &inner.bus else { return };
        let outlets: Vec<_> = inner
            .outlets
            .lock()
            .iter()
            .map(|(channel, outlet)| (channel.clone(), Arc::clone(outlet)))
            .collect();
        for (channel, outlet) in outlets {
            let drain = match outlet.retire(inner.config.idle_channel) {
                None => outlet.announce(),
                Some(farewell) => {
                    let mut outlets = inner.outlets.lock();
                    if outlets.get(&channel).is_some_and(|current| Arc::ptr_eq(current, &outlet)) {
                        outlets.remove(&channel);
                    }
                    farewell
                }
            };
            if drain {
                inner.spawn(outlet.drain(Arc::clone(bus)));
            }
        }
    }
}
