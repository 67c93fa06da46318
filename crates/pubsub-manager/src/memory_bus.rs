//! A bus inside one process, for a service of one process and for tests. It reaches nobody else.

use crate::{Bus, BusEvent, BusStatus, BusStream, Error, Filter, Lane, Subject};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Frames waiting for one subscription.
const QUEUE: usize = 1024;

/// Delivers within the process; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryBus(Arc<Mutex<Vec<Listener>>>);

#[derive(Debug)]
struct Listener {
    filter: Filter,
    queue: mpsc::Sender<BusEvent>,
    overflowed: Arc<AtomicBool>,
}

impl MemoryBus {
    /// A bus with nobody on it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Bus for MemoryBus {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn publish(
        &self,
        lane: Lane,
        subject: &Subject,
        frame: Bytes,
        _deadline: Deadline,
    ) -> Result<Option<u64>, Error> {
        let mut receivers = 0;
        let name: Arc<str> = subject.as_str().into();
        self.0.lock().retain(|listener| {
            if listener.queue.is_closed() {
                return false;
            }
            if listener.filter.lane() == lane && listener.filter.matches(&name) {
                let event = BusEvent::Frame { subject: Arc::clone(&name), frame: frame.clone() };
                match listener.queue.try_send(event) {
                    Ok(()) => receivers += 1,
                    Err(_) => {
                        listener.overflowed.swap(true, AcqRel);
                    }
                }
            }
            true
        });
        Ok(Some(receivers))
    }

    async fn subscribe(&self, filter: &Filter, _deadline: Deadline) -> Result<Box<dyn BusStream>, Error> {
        let (queue, events) = mpsc::channel(QUEUE);
        let overflowed = Arc::new(AtomicBool::new(false));
        let listener = Listener { filter: filter.clone(), queue, overflowed: Arc::clone(&overflowed) };
        let mut listeners = self.0.lock();
        listeners.retain(|listener| !listener.queue.is_closed());
        listeners.push(listener);
        Ok(Box::new(MemoryStream { events, overflowed, bus: Arc::clone(&self.0) }))
    }

    fn status(&self) -> BusStatus {
        BusStatus { connected: true, reason: None }
    }

    async fn health_check(&self, _deadline: Deadline) -> Result<Duration, Error> {
        Ok(Duration::ZERO)
    }
}

struct MemoryStream {
    events: mpsc::Receiver<BusEvent>,
    overflowed: Arc<AtomicBool>,
    /// Keeps the bus, and with it the sending end, alive while anybody listens.
    bus: Arc<Mutex<Vec<Listener>>>,
}

#[async_trait]
impl BusStream for MemoryStream {
    async fn next(&mut self) -> Option<BusEvent> {
        if self.overflowed.swap(false, AcqRel) {
            return Some(BusEvent::Overflowed);
        }
        self.events.recv().await
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.events.close();
        self.bus.lock().retain(|listener| !listener.queue.is_closed());
    }
}
