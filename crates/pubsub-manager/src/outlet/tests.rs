//! Numbers are given to what was or may have been sent, and to nothing else.

use super::*;
use crate::{BusStatus, BusStream, Filter};
use async_trait::async_trait;
use bytes::Bytes;

/// Answers as told, and keeps what it was sent.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<VecDeque<Result<Option<u64>, Error>>>,
    sent: Mutex<Vec<(Kind, u64)>>,
}

#[async_trait]
impl Bus for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn publish(
        &self,
        _: Lane,
        _: &Subject,
        mut frame: Bytes,
        _: Deadline,
    ) -> Result<Option<u64>, Error> {
        tokio::task::yield_now().await;
        let answer = self.answers.lock().pop_front().unwrap_or(Ok(Some(1)));
        if answer.as_ref().err().is_none_or(Error::may_have_happened) {
            while let Some(Ok((header, _))) = envelope::decode(&mut frame) {
                self.sent.lock().push((header.kind, header.id.sequence));
            }
        }
        answer
    }

    async fn subscribe(&self, _: &Filter, _: Deadline) -> Result<Box<dyn BusStream>, Error> {
        Err(Error::Shutdown { operation: "subscribe" })
    }

    fn status(&self) -> BusStatus {
        BusStatus { connected: true, reason: None }
    }

    async fn health_check(&self, _: Deadline) -> Result<Duration, Error> {
        Ok(Duration::ZERO)
    }
}

fn outlet(pending: usize) -> Arc<Outlet> {
    let limits = OutletLimits { pending, frame_bytes: 1000, announce_timeout: Duration::from_secs(1) };
    Arc::new(Outlet::new((Lane::Plain, Subject::new("n").expect("a good name")), PublisherId(1), 1, limits))
}

type Answer = oneshot::Receiver<Result<Published, Error>>;

fn queue(outlet: &Arc<Outlet>, deadline: Deadline) -> (bool, Answer) {
    let (reply, answer) = oneshot::channel();
    let message = Outgoing {
        kind: Kind::Message,
        codec: Codec::Json,
        payload: vec![b'1'],
        trace: None,
        deadline,
        reply,
    };
    (outlet.queue(message).expect("room"), answer)
}

fn unavailable() -> Error {
    Error::Unavailable { operation: "publish", reason: "told so".into() }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_takes_no_number() {
    let (bus, outlet) = (Arc::new(Scripted::default()), outlet(10));
    let never = Deadline::never();
    *bus.answers.lock() =
        [Ok(Some(1)), Err(unavailable()), Err(Error::Unknown { operation: "publish" })].into();
    let mut sequences = Vec::new();
    for _ in 0..4 {
        let (drain, answer) = queue(&outlet, never);
        assert!(drain);
        Arc::clone(&outlet).drain(Arc::clone(&bus) as _).await;
        sequences.push(answer.await.expect("answered").map(|published| published.id.sequence).ok());
    }
    // The unknown one keeps its number.
    assert_eq!(sequences, [Some(1), None, None, Some(3)]);
    assert_eq!(*bus.sent.lock(), [(Kind::Message, 1), (Kind::Message, 2), (Kind::Message, 3)]);
}

#[tokio::test(start_paused = true)]
async fn waiting_messages_share_a_frame_and_expired_or_abandoned_ones_are_not_sent() {
    let (bus, outlet) = (Arc::new(Scripted::default()), outlet(5));
    let (drain, first) = queue(&outlet, Deadline::never());
    let (second_drains, expired) = queue(&outlet, Deadline::after(Duration::ZERO));
    let (_, abandoned) = queue(&outlet, Deadline::never());
    let (_, last) = queue(&outlet, Deadline::never());
    drop(abandoned);
    assert!(drain && !second_drains);
    Arc::clone(&outlet).drain(Arc::clone(&bus) as _).await;
    assert_eq!(first.await.expect("answered").expect("published").id.sequence, 1);
    assert!(expired.await.is_err());
    assert_eq!(last.await.expect("answered").expect("published").id.sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn announcements_and_leave() {
    let (bus, outlet) = (Arc::new(Scripted::default()), outlet(2));
    assert!(!outlet.announce(), "nothing to tell yet");
    let (_, answer) = queue(&outlet, Deadline::never());
    assert!(!outlet.announce(), "the message under way tells it");
    Arc::clone(&outlet).drain(Arc::clone(&bus) as _).await;
    answer.await.expect("answered").expect("published");
    assert!(outlet.announce());
    Arc::clone(&outlet).drain(Arc::clone(&bus) as _).await;
    assert_eq!(outlet.retire(Duration::from_secs(60)), None, "used a moment ago");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(outlet.retire(Duration::from_secs(60)), Some(true));
    Arc::clone(&outlet).drain(Arc::clone(&bus) as _).await;
    assert_eq!(*bus.sent.lock(), [(Kind::Message, 1), (Kind::Announcement, 1), (Kind::Farewell, 1)]);
    let (reply, _answer) = oneshot::channel();
    let deadline = Deadline::never();
    let message = Outgoing {
        kind: Kind::Message,
        codec: Codec::Json,
        payload: Vec::new(),
        trace: None,
        deadline,
        reply,
    };
    assert!(matches!(outlet.queue(message), Err(Refused::Ended(_))));
}

#[tokio::test(start_paused = true)]
async fn an_end_in_the_middle_of_sending_takes_leave_after_all_that_waits() {
    let (bus, outlet) = (Arc::new(Scripted::default()), outlet(5));
    let (_, first) = queue(&outlet, Deadline::never());
    let draining = tokio::spawn(Arc::clone(&outlet).drain(Arc::clone(&bus) as _));
    tokio::task::yield_now().await;
    let (drain, second) = queue(&outlet, Deadline::never());
    assert!(!drain && !outlet.end(), "the drain under way does it");
    draining.await.expect("no panic");
    assert_eq!(first.await.expect("answered").expect("published").id.sequence, 1);
    assert_eq!(second.await.expect("answered").expect("published").id.sequence, 2);
    assert_eq!(*bus.sent.lock(), [(Kind::Message, 1), (Kind::Message, 2), (Kind::Farewell, 2)]);
    let unused = self::outlet(1);
    assert!(!unused.end(), "nothing was ever sent");
}

#[tokio::test(start_paused = true)]
async fn waiting_is_bounded() {
    let outlet = outlet(2);
    let (_one, _two) = (queue(&outlet, Deadline::never()), queue(&outlet, Deadline::never()));
    let (reply, _answer) = oneshot::channel();
    let deadline = Deadline::never();
    let message = Outgoing {
        kind: Kind::Message,
        codec: Codec::Json,
        payload: Vec::new(),
        trace: None,
        deadline,
        reply,
    };
    assert!(matches!(outlet.queue(message), Err(Refused::Full)));
}
