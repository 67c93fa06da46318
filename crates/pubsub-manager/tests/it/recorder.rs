//! A bus that writes down what it is given, and fails as told. It delivers to nobody.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use pubsub_manager::{Bus, BusStatus, BusStream, Error, Filter, HEADER_BYTES, Lane, Subject};
use resilience::Deadline;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// What is wrong with a subject.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// It takes nothing, for good.
    Refuses,
    /// It cannot be reached.
    Away,
    /// It takes 3 ms for each message.
    Slow,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    published: Vec<(String, u64)>,
    trouble: HashMap<String, Trouble>,
}

impl Recorder {
    /// The values published on `subject`, in order.
    pub(crate) fn of(&self, subject: &str) -> Vec<u64> {
        let state = self.0.lock();
        state.published.iter().filter(|(name, _)| name == subject).map(|(_, value)| *value).collect()
    }

    pub(crate) fn set(&self, subject: &str, trouble: Trouble) {
        self.0.lock().trouble.insert(subject.to_owned(), trouble);
    }

    pub(crate) fn clear(&self, subject: &str) {
        self.0.lock().trouble.remove(subject);
    }

    fn check(&self, subject: &str) -> Result<(), Error> {
        match self.0.lock().trouble.get(subject) {
            None | Some(Trouble::Slow) => Ok(()),
            Some(Trouble::Refuses) => Err(Error::TooLarge { limit: 0, actual: 1 }),
            Some(Trouble::Away) => {
                Err(Error::Unavailable { operation: "publish", reason: "as the test asked".into() })
            }
        }
    }
}

#[async_trait]
impl Bus for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    async fn publish(
        &self,
        _lane: Lane,
        subject: &Subject,
        mut frame: Bytes,
        _deadline: Deadline,
    ) -> Result<Option<u64>, Error> {
        self.check(subject.as_str())?;
        let slow = matches!(self.0.lock().trouble.get(subject.as_str()), Some(Trouble::Slow));
        if slow {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        while frame.len() >= HEADER_BYTES {
            let header = frame.split_to(HEADER_BYTES);
            let length = u32::from_be_bytes(header[36..40].try_into().expect("four bytes"));
            let payload = frame.split_to(usize::try_from(length).expect("small"));
            // Announcements have no payload.
            if let Ok(value) = rmp_serde::from_slice(&payload) {
                self.0.lock().published.push((subject.as_str().to_owned(), value));
            }
        }
        Ok(None)
    }

    async fn subscribe(&self, _: &Filter, _: Deadline) -> Result<Box<dyn BusStream>, Error> {
        Err(Error::Unsupported { operation: "subscribe", reason: "it only writes down".into() })
    }

    fn status(&self) -> BusStatus {
        BusStatus { connected: true, reason: None }
    }

    async fn health_check(&self, _: Deadline) -> Result<Duration, Error> {
        Ok(Duration::ZERO)
    }
}
