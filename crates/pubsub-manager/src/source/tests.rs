//! The order in which a feed looks at what is ready, under paused time.

use super::*;
use crate::{Codec, Lane, MessageId, PublisherId, SlowConsumer, Subject, envelope::Kind};
use async_trait::async_trait;
use bytes::BytesMut;
use std::future::poll_fn;
use tokio::sync::mpsc;

struct Piped(mpsc::Receiver<BusEvent>);

#[async_trait]
impl BusStream for Piped {
    async fn next(&mut self) -> Option<BusEvent> {
        self.0.recv().await
    }
}

fn told(kind: Kind, sequence: u64) -> BusEvent {
    let id = MessageId { publisher: PublisherId(1), epoch: 1, sequence };
    let header = Header { kind, codec: Codec::Json, id, published_at: 0, trace: None };
    let mut frame = BytesMut::new();
    envelope::encode(&mut frame, &header, b"");
    BusEvent::Frame { subject: "n".into(), frame: frame.freeze() }
}

#[tokio::test(start_paused = true)]
async fn after_a_stall_what_waits_comes_before_the_verdict_of_silence() {
    let filter = Filter::exact(Lane::Plain, &Subject::new("n").expect("a good name"));
    let source = Arc::new(Source::new(filter));
    let queue = Arc::new(Queue::new(1, SlowConsumer::Block));
    source.subscribers.lock().push(Arc::clone(&queue));
    let counts = Arc::<Counts>::default();
    let stop = CancellationToken::new();
    let announce_every = Duration::from_secs(1);
    let feed = Feed {
        source,
        announce_every,
        counts: Arc::clone(&counts),
        latency: Latency::new("memory"),
        stop: stop.clone(),
    };
    let (pipe, events) = mpsc::channel(10);
    let end = |source: &Arc<Source>| source.subscribers.lock().drain(..).for_each(|queue| queue.end());
    let running = tokio::spawn(feed.run(Box::new(Piped(events)), |_| false, end));
    let take = || poll_fn(|context| queue.poll_take(context));
    pipe.send(told(Kind::Message, 1)).await.expect("runs");
    for sequence in 2..50 {
        // The feed is held up by this one, while an announcement and a tick become ready behind it.
        pipe.send(told(Kind::Message, sequence)).await.expect("runs");
        pipe.send(told(Kind::Announcement, sequence)).await.expect("runs");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(matches!(take().await, Some(Item::Message { .. })));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(counts.gaps.load(Relaxed), 0);
    // Real silence is still told.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(counts.gaps.load(Relaxed), 1);
    stop.cancel();
    running.await.expect("no panic");
    assert!(!queue.is_open());
}
