//! Requests over channels and their answers. An answer travels to the inbox of the manager that asked, numbered by nobody:
//! a lost one shows as the deadline.

use crate::{
    Bus, BusEvent, BusStream, Channel, Codec, Error, Filter, Lane, MessageId, PublishOptions, PublisherId,
    Subject,
    envelope::{self, Header, Kind},
    manager::Inner,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use resilience::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{OnceCell, mpsc},
    time::Instant,
};

/// Answers that wait for one request; more are dropped.
const ANSWERS: usize = 1024;
/// First byte of an answer's payload, after the correlation.
const OK: u8 = 0;
const FAILED: u8 = 1;

/// Where the answer to a request goes; taken from [`Message::reply_to`](crate::Message::reply_to).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplyTo {
    publisher: PublisherId,
    correlation: u64,
}

impl ReplyTo {
    /// Takes the correlation off a request's payload; `None` if it is too short for one.
    pub(crate) fn split(header: &Header, mut payload: Bytes) -> Option<(Option<Self>, Bytes)> {
        if header.kind != Kind::Request {
            return Some((None, payload));
        }
        let correlation = payload.try_get_u64().ok()?;
        Some((Some(Self { publisher: header.id.publisher, correlation }), payload))
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply<R> {
    /// What was answered.
    pub value: R,
    /// Who answered.
    pub publisher: PublisherId,
}

/// Who has handled a broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Broadcast {
    /// Subscriptions that the bus handed it to, where the bus knows: processes, those counted twice whose patterns match as
    /// well.
    pub receivers: Option<u64>,
    /// Those that said by the deadline that they have handled it, each once.
    pub handled: Vec<PublisherId>,
    /// Those whose handler failed, and what it said.
    pub failed: Vec<(PublisherId, String)>,
}

/// An answer as it came.
#[derive(Debug)]
struct Answer {
    publisher: PublisherId,
    codec: Codec,
    outcome: Result<Bytes, String>,
}

impl Answer {
    fn value<R: DeserializeOwned>(self) -> Result<Reply<R>, Error> {
        let payload = self.outcome.map_err(|reason| Error::Responder { reason })?;
        let value = self.codec.decode(&payload).ok_or(Error::Decode { codec: self.codec.name() })?;
        Ok(Reply { value, publisher: self.publisher })
    }
}

/// A manager's own: where the answers to its requests come in.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pending: Mutex<HashMap<u64, mpsc::Sender<Answer>>>,
    next: AtomicU64,
    open: OnceCell<()>,
}

/// A request that waits; dropping it forgets it.
struct Waiting<'a> {
    inbox: &'a Inbox,
    correlation: u64,
    answers: mpsc::Receiver<Answer>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inbox.pending.lock().remove(&self.correlation);
    }
}

impl Inbox {
    fn wait(&self, limit: usize) -> Result<Waiting<'_>, Error> {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let correlation = self.next.fetch_add(1, Relaxed);
        let mut pending = self.pending.lock();
        if pending.len() >= limit {
            return Err(Error::Limit { what: "requests waiting for an answer", limit });
        }
        pending.insert(correlation, sender);
        Ok(Waiting { inbox: self, correlation, answers })
    }

    fn take(&self, mut frame: Bytes) {
        while let Some(Ok((header, mut payload))) = envelope::decode(&mut frame) {
            let (Ok(correlation), Ok(outcome)) = (payload.try_get_u64(), payload.try_get_u8()) else {
                continue;
            };
            let outcome = match outcome {
                OK => Ok(payload),
                _ => Err(String::from_utf8_lossy(&payload).into_owned()),
            };
            let waiting = self.pending.lock().get(&correlation).cloned();
            if let Some(waiting) = waiting {
                // Nobody needs more than its bound.
                let _full =
                    waiting.try_send(Answer { publisher: header.id.publisher, codec: header.codec, outcome });
            }
        }
    }
}

/// The channel of a manager's inbox.
fn inbox_of(publisher: PublisherId) -> Result<Subject, Error> {
    Subject::new(&format!("_inbox.{publisher}"))
}

/// Until the bus ends or the manager stops.
async fn receive(inner: Weak<Inner>, mut stream: Box<dyn BusStream>) {
    let Some(stop) = inner.upgrade().map(|inner| inner.stop.clone()) else { return };
    while let Some(Some(event)) = stop.run_until_cancelled(stream.next()).await {
        let (BusEvent::Frame { frame, .. }, Some(inner)) = (event, inner.upgrade()) else { continue };
        inner.inbox.take(frame);
    }
}

impl Inner {
    async fn open_inbox(self: &Arc<Self>, bus: &Arc<dyn Bus>, deadline: Deadline) -> Result<(), Error> {
        let started = Instant::now();
        let open = self.inbox.open.get_or_try_init(|| async {
            let filter = Filter::exact(Lane::Plain, &inbox_of(self.publisher)?);
            let stream = bus.subscribe(&filter, deadline).await?;
            self.spawn(receive(Arc::downgrade(self), stream));
            Ok(())
        });
        match deadline.run(open).await {
            Ok(opened) => opened.map(drop),
            Err(_) => Err(Error::Timeout { operation: "open the inbox", after: started.elapsed() }),
        }
    }

    /// The frame of an answer: the value, or why there is none.
    pub(crate) fn answer<R: Serialize>(
        &self,
        to: ReplyTo,
        outcome: Result<&R, &str>,
    ) -> Result<Bytes, Error> {
        let codec = self.config.codec;
        let (status, payload) = match outcome {
            Ok(value) => (OK, self.encode(codec, &inbox_of(to.publisher)?, value)?),
            Err(reason) => (FAILED, reason.as_bytes().to_vec()),
        };
        let mut body = BytesMut::with_capacity(9 + payload.len());
        body.put_u64(to.correlation);
        body.put_u8(status);
        body.put_slice(&payload);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let header = Header {
            kind: Kind::Reply,
            codec,
            id: MessageId { publisher: self.publisher, epoch: 0, sequence: 0 },
            published_at: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
            trace: self.trace(),
        };
        let mut frame = BytesMut::new();
        envelope::encode(&mut frame, &header, &body);
        Ok(frame.freeze())
    }

    pub(crate) async fn send_answer(
        &self,
        to: ReplyTo,
        frame: Bytes,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let inbox = inbox_of(to.publisher)?;
        self.bus("reply")?.publish(Lane::Plain, &inbox, frame, deadline).await.map(drop)
    }
}

impl<T: Serialize + DeserializeOwned> Channel<T> {
    /// Asks whoever responds on this channel ([`respond`](Self::respond)) and returns the first answer.
    ///
    /// The deadline of `options` is that of the answer. Default [`Config::publish_timeout`](crate::Config::publish_timeout).
    ///
    /// Cancel safety: dropped, the request may have been sent, and its answer is ignored.
    ///
    /// # Errors
    /// [`Error::NoResponder`]: the bus knows that nobody is subscribed. [`Error::Responder`]: it answered that it failed.
    /// [`Error::Unknown`]: it was sent and no answer came by the deadline. [`Error::Decode`]: the answer is no `R`. Others as
    /// [`publish`](Self::publish): nothing was sent.
    pub async fn request<R: DeserializeOwned>(
        &self,
        value: &T,
        options: PublishOptions,
    ) -> Result<Reply<R>, Error> {
        let deadline = self.deadline(&options);
        let (mut waiting, _) = self.ask(value, options, deadline).await?;
        match deadline.run(waiting.answers.recv()).await {
            Ok(Some(answer)) => answer.value(),
            _ => Err(Error::Unknown { operation: "request" }),
        }
    }

    /// Asks everybody who responds on this channel and returns all answers that came by the deadline; earlier when as many
    /// processes have answered as the bus says that there are receivers, which a cluster never says. An answer that failed or
    /// is no `R` stands in its place.
    ///
    /// Cancel safety and errors: as [`request`](Self::request), but nothing missing is an error.
    pub async fn request_all<R: DeserializeOwned>(
        &self,
        value: &T,
        options: PublishOptions,
    ) -> Result<Vec<Result<Reply<R>, Error>>, Error> {
        let (answers, _) = self.gather(value, options).await?;
        Ok(answers.into_iter().map(Answer::value).collect())
    }

    /// Tells every instance that responds on this channel, and returns which of them have handled it by the deadline.
    ///
    /// Cancel safety and errors: as [`request_all`](Self::request_all).
    pub async fn broadcast(&self, value: &T, options: PublishOptions) -> Result<Broadcast, Error> {
        let (answers, receivers) = self.gather(value, options).await?;
        let mut broadcast = Broadcast { receivers, ..Broadcast::default() };
        for Answer { publisher, outcome, .. } in answers {
            match outcome {
                Ok(_) if broadcast.handled.contains(&publisher) => {}
                Ok(_) => broadcast.handled.push(publisher),
                Err(reason) => broadcast.failed.push((publisher, reason)),
            }
        }
        Ok(broadcast)
    }

    async fn gather(&self, value: &T, options: PublishOptions) -> Result<(Vec<Answer>, Option<u64>), Error> {
        let deadline = self.deadline(&options);
        let (mut waiting, receivers) = self.ask(value, options, deadline).await?;
        let enough = receivers.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        // Receivers are processes, and one may answer more than once.
        let (mut answers, mut answered) = (Vec::new(), HashSet::new());
        while answered.len() < enough
            && answers.len() < ANSWERS
            && let Ok(Some(answer)) = deadline.run(waiting.answers.recv()).await
        {
            answered.insert(answer.publisher);
            answers.push(answer);
        }
        Ok((answers, receivers))
    }

    async fn ask(
        &self,
        value: &T,
        options: PublishOptions,
        deadline: Deadline,
    ) -> Result<(Waiting<'_>, Option<u64>), Error> {
        let manager = self.manager();
        let payload = self.encode(value)?;
        manager.open_inbox(manager.bus("request")?, deadline).await?;
        let waiting = manager.inbox.wait(manager.config.max_pending)?;
        let mut body = Vec::with_capacity(8 + payload.len());
        body.put_u64(waiting.correlation);
        body.extend_from_slice(&payload);
        let options = PublishOptions { deadline: Some(deadline), ..options };
        let published = self.publish_encoded(Kind::Request, body, options).await?;
        if published.receivers == Some(0) {
            return Err(Error::NoResponder { subject: self.subject().to_string() });
        }
        Ok((waiting, published.receivers))
    }
}
