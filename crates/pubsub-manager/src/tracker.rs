//! What one subscription has heard of each publisher, and what it must have missed: the pure rule behind every
//! counted gap. It knows no I/O; time is an argument.

use crate::{
    GapCause, PublisherId,
    envelope::{Header, Kind},
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Publishers remembered per subscription.
const MAX_PUBLISHERS: usize = 4096;
/// A publisher silent for that long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A number of missed messages, if known, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    pub(crate) count: Option<u64>,
    pub(crate) cause: GapCause,
}

/// What to do with an envelope.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Told first.
    pub(crate) gaps: Vec<Missed>,
    /// Whether it is a message to hand out.
    pub(crate) deliver: bool,
}

/// All publishers on the subjects of one subscription.
#[derive(Debug)]
pub(crate) struct Tracker {
    publishers: HashMap<(Arc<str>, PublisherId), Heard>,
    announce_every: Duration,
    /// Since when connected without interruption.
    since: Instant,
    /// Interruptions so far and the cause of the last one.
    interruptions: u64,
    cause: GapCause,
    connected: bool,
    /// Connected long enough, once, for every publisher of the time to have announced itself: whoever turns up
    /// unknown began later, so what it sent before was missed.
    complete: bool,
}

#[derive(Debug)]
struct Heard {
    epoch: u32,
    last: u64,
    at: Instant,
    interruptions: u64,
    told_silent: bool,
    /// It took its leave. Kept for a while: where several patterns match, every frame comes more than once.
    left: bool,
}

impl Heard {
    const fn of(epoch: u32, last: u64, interruptions: u64, left: bool, at: Instant) -> Self {
        Self { epoch, last, at, interruptions, told_silent: false, left }
    }
}

impl Tracker {
    pub(crate) fn new(announce_every: Duration, now: Instant) -> Self {
        Self {
            publishers: HashMap::new(),
            announce_every,
            since: now,
            interruptions: 0,
            cause: GapCause::Missed,
            connected: true,
            complete: false,
        }
    }

    /// Messages may be lost from now on, or have just been.
    pub(crate) fn interrupted(&mut self, cause: GapCause, now: Instant) {
        if self.connected && now.duration_since(self.since) >= self.announce_every.mul_f64(2.5) {
            self.complete = true;
        }
        self.connected = false;
        self.interruptions += 1;
        self.cause = cause;
    }

    /// Messages arrive again.
    pub(crate) fn restored(&mut self, now: Instant) {
        self.connected = true;
        self.since = now;
    }

    /// An envelope arrived.
    pub(crate) fn heard(&mut self, subject: &Arc<str>, header: &Header, now: Instant) -> Verdict {
        let key = (Arc::clone(subject), header.id.publisher);
        let (epoch, sequence) = (header.id.epoch, header.id.sequence);
        let (message, left) = (header.kind.is_message(), header.kind == Kind::Farewell);
        let mut verdict = Verdict { gaps: Vec::new(), deliver: message };
        // The last number that must have been heard before this envelope.
        let before = if message { sequence.saturating_sub(1) } else { sequence };
        let cause = self.cause;
        match self.publishers.get_mut(&key) {
            Some(heard)
                if epoch < heard.epoch || (epoch == heard.epoch && message && sequence <= heard.last) =>
            {
                // Late: it was already told as missed.
                verdict.deliver = false;
                return verdict;
            }
            Some(heard) => {
                let cause = if heard.interruptions < self.interruptions { cause } else { GapCause::Missed };
                if epoch > heard.epoch {
                    if !heard.left {
                        // The end of the counter before was not heard.
                        verdict.gaps.push(Missed { count: None, cause });
                    }
                    heard.last = 0;
                }
                if before > heard.last {
                    verdict.gaps.push(Missed { count: Some(before - heard.last), cause });
                }
                let last = heard.last.max(sequence);
                *heard = Heard::of(epoch, last, self.interruptions, left, now);
            }
            None => {
                if before > 0 && self.complete {
                    verdict.gaps.push(Missed { count: Some(before), cause });
                } else if before > 0 && self.interruptions > 0 {
                    verdict.gaps.push(Missed { count: None, cause });
                }
                self.remember(key, Heard::of(epoch, sequence, self.interruptions, left, now));
            }
        }
        verdict
    }

    /// To be called now and then: one gap for each publisher that has fallen silent without a farewell.
    pub(crate) fn tick(&mut self, now: Instant) -> usize {
        if !self.connected {
            return 0;
        }
        let limit = self.announce_every.mul_f64(3.5);
        let mut fallen_silent = 0;
        let (since, complete) = (self.since, &mut self.complete);
        self.publishers.retain(|_, heard| {
            let silence = now.duration_since(heard.at.max(since));
            if heard.left {
                return silence <= limit;
            }
            if silence > limit && !heard.told_silent {
                heard.told_silent = true;
                fallen_silent += 1;
            }
            let keep = silence < FORGET_AFTER;
            *complete &= keep;
            keep
        });
        fallen_silent
    }

    /// Publishers heard of and not forgotten.
    pub(crate) fn publishers(&self) -> usize {
        self.publishers.len()
    }

    fn remember(&mut self, key: (Arc<str>, PublisherId), heard: Heard) {
        if self.publishers.len() >= MAX_PUBLISHERS {
            let oldest = self.publishers.iter().min_by_key(|(_, heard)| heard.at).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.publishers.remove(&oldest);
                self.complete = false;
            }
        }
        self.publishers.insert(key, heard);
    }
}

#[cfg(test)]
mod tests;
