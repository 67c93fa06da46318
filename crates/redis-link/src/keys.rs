//! The names of everything in Redis: one builder per scheme, all under the namespace. It knows nothing of what is
//! stored under a name.

use bytes::Bytes;
use std::fmt;

/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 2048;
/// The longest name that a caller may choose (a cache key, a lock's name, a channel), in bytes.
pub const MAX_NAME_LEN: usize = 1024;

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
#[non_exhaustive]
pub struct InvalidName {
    /// Which part.
    pub what: &'static str,
    /// What is wrong, with the limit.
    pub problem: &'static str,
}

/// A key in Redis, with its namespace. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Bytes);

/// A channel, or a pattern over channels, with its namespace. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Channel {
    name: Bytes,
    kind: ChannelKind,
}

/// How a channel is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ChannelKind {
    /// `SUBSCRIBE`.
    Name,
    /// `PSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`, on a cluster at the master of its slot.
    Shard,
}

impl Key {
    /// The whole key.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Its slot on a cluster, 0–16383. Keys of one script or MGET have to share it there.
    #[must_use]
    pub fn slot(&self) -> u16 {
        fred::util::redis_keyslot(&self.0)
    }
}

impl Channel {
    /// The whole name or pattern.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.name
    }

    /// The same as text; every channel is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.name).unwrap_or_default()
    }

    /// Its slot on a cluster, 0–16383, which says who carries it if it is sharded.
    #[must_use]
    pub fn slot(&self) -> u16 {
        fred::util::redis_keyslot(&self.name)
    }

    /// Whether it stands for many channels.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.kind == ChannelKind::Pattern
    }

    /// Whether, on a cluster, only the master of its slot carries it.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        self.kind == ChannelKind::Shard
    }

    pub(crate) const fn kind(&self) -> ChannelKind {
        self.kind
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.name.escape_ascii())
    }
}

/// Builds keys and channels of one namespace. In the schemes below `{…}` are literal braces, Redis's hash tag: names
/// with the same tag share a slot on a cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    namespace: std::sync::Arc<str>,
}

impl Keys {
    /// For a namespace that [`Config::validate`](crate::Config::validate) accepts.
    #[must_use]
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.into() }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `ns:epoch`: which data this is.
    #[must_use]
    pub fn epoch(&self) -> Key {
        Key(Bytes::from(format!("{}:epoch", self.namespace)))
    }

    /// `ns:epoch:{tag}`: the same on a cluster, for the master that serves `slot`, which it lies in.
    #[must_use]
    pub(crate) fn epoch_in(&self, slot: u16) -> Key {
        // Sixteen thousand slots, so some sixteen thousand attempts, once for a connection to a master.
        let in_slot = |tag: &String| fred::util::redis_keyslot(tag.as_bytes()) == slot;
        let tag = (0_u32..).map(|number| number.to_string()).find(in_slot).unwrap_or_default();
        Key(Bytes::from(format!("{}:epoch:{{{tag}}}", self.namespace)))
    }

    /// `ns:c:{region:key}:v`: a cached value.
    ///
    /// # Errors
    /// If region or key is empty or too long, or the region begins with `}` or contains a colon.
    pub fn cache_value(&self, region: &str, key: &str) -> Result<Key, InvalidName> {
        self.cache(region, key, "v")
    }

    /// `ns:c:{region:key}:l`: the lease beside a cached value, in its slot.
    ///
    /// # Errors
    /// As [`cache_value`](Self::cache_value).
    pub fn cache_lease(&self, region: &str, key: &str) -> Result<Key, InvalidName> {
        self.cache(region, key, "l")
    }

    /// `ns:m:{kind:name}`: a marker of the cache, for example of a region or a tag.
    ///
    /// # Errors
    /// If kind or name is empty or too long, or the kind begins with `}` or contains a colon.
    pub fn cache_marker(&self, kind: &str, name: &str) -> Result<Key, InvalidName> {
        check_first("the kind of marker", kind)?;
        check("the marker's name", name)?;
        self.key(&["m:{", kind, ":", name, "}"])
    }

    /// `ns:k:{name}:part`: something of a lock. All parts of a lock share a slot.
    ///
    /// # Errors
    /// If name or part is empty or too long, the name begins with `}`, or the part contains it.
    pub fn lock(&self, name: &str, part: &str) -> Result<Key, InvalidName> {
        check("the lock's name", name)?;
        check_part("the part of the lock", part)?;
        self.key(&["k:{", name, "}:", part])
    }

    /// `ns:j:{shard}`: a shard's journal.
    ///
    /// # Errors
    /// If the shard is empty, too long, or begins with `}`.
    pub fn journal(&self, shard: &str) -> Result<Key, InvalidName> {
        check("the journal's shard", shard)?;
        self.key(&["j:{", shard, "}"])
    }

    /// `ns:j:{shard}:part`: something beside a shard's journal, in its slot.
    ///
    /// # Errors
    /// If shard or part is empty or too long, the shard begins with `}`, or the part contains it.
    pub fn journal_part(&self, shard: &str, part: &str) -> Result<Key, InvalidName> {
        check("the journal's shard", shard)?;
        check_part("the part of the journal", part)?;
        self.key(&["j:{", shard, "}:", part])
    }

    /// `ns:scope:{tag}:part`: for what has no scheme of its own. `scope` is one to eight lower-case letters.
    ///
    /// # Errors
    /// If tag or part is empty or too long, the tag begins with `}`, the part contains it, or the scope has other
    /// characters.
    pub fn other(&self, scope: &str, tag: &str, part: &str) -> Result<Key, InvalidName> {
        check_scope(scope)?;
        check("the tag", tag)?;
        check_part("the part", part)?;
        self.key(&[scope, ":{", tag, "}:", part])
    }

    /// `ns:p:name`: a channel of the applications.
    ///
    /// # Errors
    /// If the name is empty or too long.
    pub fn channel(&self, name: &str) -> Result<Channel, InvalidName> {
        self.channel_in("p", name)
    }

    /// `ns:p:pattern`: all channels whose name matches, in Redis's glob syntax.
    ///
    /// # Errors
    /// If the pattern is empty or too long.
    pub fn channel_pattern(&self, pattern: &str) -> Result<Channel, InvalidName> {
        self.channel_pattern_in("p", pattern)
    }

    /// `ns:scope:name`: a channel between our own components, for example `w` for the wake channels of locks.
    ///
    /// # Errors
    /// If the name is empty or too long, or the scope is not one to eight lower-case letters.
    pub fn channel_in(&self, scope: &str, name: &str) -> Result<Channel, InvalidName> {
        check_scope(scope)?;
        check("the channel's name", name)?;
        Ok(Channel { name: self.join(&[scope, ":", name])?, kind: ChannelKind::Name })
    }

    /// `ns:scope:pattern`: all channels of a scope whose name matches, in Redis's glob syntax.
    ///
    /// # Errors
    /// As [`channel_in`](Self::channel_in).
    pub fn channel_pattern_in(&self, scope: &str, pattern: &str) -> Result<Channel, InvalidName> {
        Ok(Channel { kind: ChannelKind::Pattern, ..self.channel_in(scope, pattern)? })
    }

    /// `ns:scope:name` as a sharded channel (Redis 7.0). A plain channel of the same name is another one. As in keys, a part
    /// in braces alone decides about the slot.
    ///
    /// # Errors
    /// As [`channel_in`](Self::channel_in).
    pub fn sharded_channel_in(&self, scope: &str, name: &str) -> Result<Channel, InvalidName> {
        Ok(Channel { kind: ChannelKind::Shard, ..self.channel_in(scope, name)? })
    }

    /// The name of an application's channel without namespace, from what a message says it came on.
    #[must_use]
    pub fn channel_name<'a>(&self, channel: &'a str) -> Option<&'a str> {
        self.channel_parts(channel).filter(|(scope, _)| *scope == "p").map(|(_, name)| name)
    }

    /// Scope and name of a channel, from what a message says it came on.
    #[must_use]
    pub fn channel_parts<'a>(&self, channel: &'a str) -> Option<(&'a str, &'a str)> {
        channel.strip_prefix(&*self.namespace)?.strip_prefix(':')?.split_once(':')
    }

    fn cache(&self, region: &str, key: &str, part: &str) -> Result<Key, InvalidName> {
        check_first("the region's name", region)?;
        check("the cache key", key)?;
        self.key(&["c:{", region, ":", key, "}:", part])
    }

    fn key(&self, parts: &[&str]) -> Result<Key, InvalidName> {
        self.join(parts).map(Key)
    }

    fn join(&self, parts: &[&str]) -> Result<Bytes, InvalidName> {
        let length = self.namespace.len() + 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        if length > MAX_KEY_LEN {
            return Err(InvalidName { what: "the whole key", problem: "is longer than 2048 bytes" });
        }
        let mut name = String::with_capacity(length);
        name.push_str(&self.namespace);
        name.push(':');
        parts.iter().for_each(|part| name.push_str(part));
        Ok(Bytes::from(name))
    }
}

fn check(what: &'static str, name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName { what, problem: "is empty" });
    }
    if name.len() > MAX_NAME_LEN {
        return Err(InvalidName { what, problem: "is longer than 1024 bytes" });
    }
    // An empty hash tag is no hash tag: the keys of one thing would land in different slots.
    if name.starts_with('}') {
        return Err(InvalidName { what, problem: "begins with a closing brace" });
    }
    Ok(())
}

/// The first of two names with a colon between them: a second colon would make two pairs one.
fn check_first(what: &'static str, name: &str) -> Result<(), InvalidName> {
    check(what, name)?;
    if name.contains(':') { Err(InvalidName { what, problem: "contains a colon" }) } else { Ok(()) }
}

/// What follows a hash tag: a closing brace in it would make two pairs one.
fn check_part(what: &'static str, part: &str) -> Result<(), InvalidName> {
    check(what, part)?;
    if part.contains('}') { Err(InvalidName { what, problem: "contains a closing brace" }) } else { Ok(()) }
}

fn check_scope(scope: &str) -> Result<(), InvalidName> {
    if (1..=8).contains(&scope.len()) && scope.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(InvalidName { what: "the scope", problem: "is not one to eight lower-case letters" })
}

#[cfg(test)]
mod tests;
