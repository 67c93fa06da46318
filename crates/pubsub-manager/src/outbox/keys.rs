//! Which keys are held up by a message that could not be delivered, until when, and whether to give the message up. Pure:
//! no I/O, time is an argument.

use crate::Error;
use resilience::BackoffConfig;
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// Keys that may be held up; with more, the trouble is not theirs and the relay waits as a whole.
pub(super) const MAX_HELD: usize = 64;

const BACKOFF: BackoffConfig =
    BackoffConfig { base: Duration::from_millis(100), max: Duration::from_secs(5), factor: 2.0, jitter: 0.2 };

/// When to give a message up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Attempts with a message that is itself at fault.
    pub(super) attempts: u32,
    /// Time of an error that may be the message's fault.
    pub(super) give_up_after: Duration,
}

/// What a failed delivery comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The key waits, and its message is tried again.
    Again,
    /// The message is to be buried after so many attempts.
    Bury(u32),
}

#[derive(Debug)]
struct Held {
    id: i64,
    attempts: u32,
    since: Instant,
    until: Instant,
}

/// All keys in trouble.
#[derive(Debug)]
pub(super) struct Keys {
    limits: Limits,
    held: HashMap<String, Held>,
}

impl Keys {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, held: HashMap::new() }
    }

    /// Message `id` of `key` could not be delivered.
    pub(super) fn failed(&mut self, key: &str, id: i64, error: &Error, jitter: f64, now: Instant) -> Verdict {
        let held =
            self.held.entry(key.to_owned()).or_insert(Held { id, attempts: 0, since: now, until: now });
        if held.id != id {
            *held = Held { id, attempts: 0, since: now, until: now };
        }
        held.attempts += 1;
        let give_up = match blame(error) {
            Blame::Message => held.attempts >= self.limits.attempts,
            Blame::Either => now.duration_since(held.since) >= self.limits.give_up_after,
            Blame::Target => false,
        };
        if give_up {
            return Verdict::Bury(held.attempts);
        }
        held.until = now + BACKOFF.delay(held.attempts - 1, jitter);
        Verdict::Again
    }

    /// Something of `key` got through, or was buried.
    pub(super) fn cleared(&mut self, key: &str) {
        self.held.remove(key);
    }

    /// The keys to leave alone now.
    pub(super) fn waiting(&mut self, now: Instant) -> Vec<String> {
        // Whose messages have gone by other hands.
        self.held.retain(|_, held| now.saturating_duration_since(held.until) < Duration::from_secs(600));
        self.held.iter().filter(|(_, held)| held.until > now).map(|(key, _)| key.clone()).collect()
    }

    /// How long nothing more than these should be tried: with so much trouble it is the target's.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let waiting = self.held.values().filter(|held| held.until > now);
        let (count, next) = waiting.fold((0, None), |(count, next): (usize, Option<Instant>), held| {
            (count + 1, Some(next.map_or(held.until, |next| next.min(held.until))))
        });
        next.filter(|_| count >= MAX_HELD).map(|next| next - now)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

/// Whether the target could not be had: then another process may fare better.
pub(super) const fn is_absence(error: &Error) -> bool {
    matches!(blame(error), Blame::Target)
}

enum Blame {
    /// It would be refused again.
    Message,
    /// It is away, full or busy.
    Target,
    Either,
}

const fn blame(error: &Error) -> Blame {
    match error {
        Error::TooLarge { .. } | Error::InvalidSubject { .. } | Error::InvalidName { .. } => Blame::Message,
        Error::Encode { .. } | Error::Decode { .. } | Error::Unsupported { .. } => Blame::Message,
        // Said of other things than a publish, or a right that somebody may still grant.
        Error::Forbidden { .. } | Error::NoResponder { .. } | Error::Responder { .. } => Blame::Either,
        Error::UnknownGroup { .. } | Error::UnknownDeadLetter { .. } => Blame::Either,
        Error::AlreadySettled | Error::Superseded { .. } => Blame::Either,
        Error::Backend { .. } => Blame::Either,
        Error::Unavailable { .. } | Error::Timeout { .. } | Error::Unknown { .. } => Blame::Target,
        Error::Limit { .. } | Error::Full { .. } => Blame::Target,
        Error::Config { .. } | Error::Shutdown { .. } => Blame::Target,
    }
}

#[cfg(test)]
mod tests;
