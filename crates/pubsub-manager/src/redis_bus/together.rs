//! Raw payloads published at the same time, sent together: each is a PUBLISH of its own, but they share the way there and
//! back. A lone one goes straight. It retries nothing.

use super::OPERATION;
use crate::{Error, redis_error::translate};
use bytes::Bytes;
use parking_lot::Mutex;
use redis_link::{Channel, Error as LinkError, RedisLink};
use resilience::Deadline;
use std::{collections::VecDeque, sync::Arc};
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

/// Payloads that may wait; one more answers [`Error::Limit`].
const WAITING: usize = 4096;
/// Rounds under way at a time: while one is answered the next is on its way.
const ROUNDS: usize = 4;
/// Payloads of one round, and their bytes.
const ROUND: usize = 128;
const ROUND_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Together {
    link: RedisLink,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Rounds under way.
    rounds: usize,
}

#[derive(Debug)]
struct Waiting {
    channel: Channel,
    payload: Bytes,
    deadline: Deadline,
    reply: oneshot::Sender<Result<u64, LinkError>>,
}

impl Together {
    pub(super) fn new(link: RedisLink) -> Self {
        Self { link, state: Mutex::default() }
    }

    /// Cancel safety: dropped before it was sent, it is not sent; after that it may have been.
    pub(super) async fn publish(
        self: &Arc<Self>,
        runtime: &Handle,
        channel: Channel,
        payload: Bytes,
        deadline: Deadline,
    ) -> Result<u64, Error> {
        let (started, (reply, answer)) = (Instant::now(), oneshot::channel());
        let send = {
            let mut state = self.state.lock();
            if state.waiting.len() >= WAITING {
                return Err(Error::Limit { what: "raw publishes waiting", limit: WAITING });
            }
            state.waiting.push_back(Waiting { channel, payload, deadline, reply });
            let more = state.rounds < ROUNDS;
            state.rounds += usize::from(more);
            more
        };
        if send {
            runtime.spawn(Arc::clone(self).drain());
        }
        match deadline.run(answer).await {
            Ok(Ok(result)) => result.map_err(|error| translate(OPERATION, error)),
            // Dropped unsent because its deadline had passed.
            Ok(Err(_)) => Err(Error::Timeout { operation: OPERATION, after: started.elapsed() }),
            Err(_) => Err(Error::Unknown { operation: OPERATION }),
        }
    }

    async fn drain(self: Arc<Self>) {
        while let Some(round) = self.next_round() {
            let deadline = round.iter().map(|one| one.deadline.remaining()).max().unwrap_or_default();
            let (messages, replies): (Vec<_>, Vec<_>) =
                round.into_iter().map(|one| ((one.channel, one.payload), one.reply)).unzip();
            let sent = async { self.link.current()?.publish_many(messages, Deadline::after(deadline)).await };
            match sent.await {
                // Whoever went away wanted no answer.
                Ok(answers) => {
                    replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(answer)))
                }
                Err(error) => replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
            }
        }
    }

    fn next_round(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        let (mut round, mut bytes) = (Vec::new(), 0);
        while let Some(one) = state.waiting.front() {
            bytes += one.payload.len();
            if round.len() == ROUND || (bytes > ROUND_BYTES && !round.is_empty()) {
                break;
            }
            let Some(one) = state.waiting.pop_front() else { break };
            // Its caller has been answered by the deadline, or has gone: nothing is sent.
            if !one.deadline.is_expired() && !one.reply.is_closed() {
                round.push(one);
            }
        }
        state.rounds -= usize::from(round.is_empty());
        (!round.is_empty()).then_some(round)
    }
}
