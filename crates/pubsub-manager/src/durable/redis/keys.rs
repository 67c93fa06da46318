//! The names of a durable channel's parts in Redis; they share a slot.

use super::GroupName;
use crate::{Error, Subject};
use redis_link::{Key, Keys};

#[derive(Clone, Debug)]
pub(super) struct ChannelKeys {
    keys: Keys,
    channel_name: Subject,
    /// `ns:d:{channel}:s`: the messages.
    pub(super) stream: Key,
    /// `ns:d:{channel}:m`: the last id and what is kept.
    pub(super) channel: Key,
    /// `ns:d:{channel}:w`: a stream of one entry, which wakes who waits.
    pub(super) wake: Key,
}

#[derive(Clone, Debug)]
pub(super) struct GroupKeys {
    pub(super) stream: Key,
    pub(super) channel: Key,
    pub(super) wake: Key,
    /// `ns:d:{channel}:g:group`: losses, counts, whether it is paused.
    pub(super) group: Key,
    /// `ns:d:{channel}:t:group`: when what is pending is due.
    pub(super) timers: Key,
    /// `ns:d:{channel}:x:group`: the dead letters.
    pub(super) dead: Key,
    /// `ns:d:{channel}:h:group`: when each consumer was last heard of. Redis itself remembers only who was given something.
    pub(super) heard: Key,
}

/// `ns:dc:{channels}:names`: the names of all channels, in a slot of their own.
pub(super) fn channels(keys: &Keys) -> Result<Key, Error> {
    keys.other("dc", "channels", "names").map_err(|error| Error::backend("name the durable channels", error))
}

fn key(keys: &Keys, channel: &Subject, part: &str) -> Result<Key, Error> {
    keys.other("d", channel.as_str(), part).map_err(|_| Error::InvalidSubject {
        subject: channel.as_str().chars().take(64).collect(),
        reason: "a durable channel's name may not begin with a closing brace",
    })
}

impl ChannelKeys {
    pub(super) fn new(keys: &Keys, channel: &Subject) -> Result<Self, Error> {
        Ok(Self {
            stream: key(keys, channel, "s")?,
            channel: key(keys, channel, "m")?,
            wake: key(keys, channel, "w")?,
            channel_name: channel.clone(),
            keys: keys.clone(),
        })
    }

    pub(super) fn of_group(self, group: &GroupName) -> Result<GroupKeys, Error> {
        let part = |letter| key(&self.keys, &self.channel_name, &format!("{letter}:{group}"));
        let (of_group, timers, dead, heard) = (part('g')?, part('t')?, part('x')?, part('h')?);
        let Self { stream, channel, wake, .. } = self;
        Ok(GroupKeys { stream, channel, wake, group: of_group, timers, dead, heard })
    }
}
