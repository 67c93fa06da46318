//! Lua scripts, plain and fenced by the epoch. No registry: a script is a value, its hash is computed once.

use bytes::Bytes;
use sha1::{Digest, Sha1};
use std::{fmt::Write, sync::Arc};

/// Takes the two values that the link appends off again, so that the script's own `ARGV` is as its author wrote it, then
/// compares. The epoch key is no declared key: on a cluster it lies in a slot of the same master, but in another one.
const FENCE_BY_KEY: &str = "local fence=table.remove(ARGV) \
if redis.call('GET',table.remove(ARGV))~=fence then return redis.error_reply('EPOCH the epoch key changed') end ";

/// From 7.0 on INFO may be called in a script; it costs about 5 µs.
const FENCE_BY_REPLICATION_ID: &str = "\
if not string.find(redis.call('INFO','replication'),'master_replid:'..string.sub(fence,1,40),1,true) \
then return redis.error_reply('EPOCH the replication id changed') end ";

/// A Lua script for [`Generation::eval`](crate::Generation::eval). Clones share the text.
#[derive(Clone, Debug)]
pub struct Script(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    fenced: bool,
    /// For servers of 7.0 and later.
    current: Text,
    /// For 6.2, the same if the script is not fenced.
    old: Text,
}

#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) sha: Bytes,
    pub(crate) lua: Bytes,
}

impl Text {
    fn new(lua: String) -> Self {
        let mut sha = String::with_capacity(40);
        for byte in Sha1::digest(lua.as_bytes()) {
            // Writing into a string cannot fail.
            let _ = write!(sha, "{byte:02x}");
        }
        Self { sha: Bytes::from(sha), lua: Bytes::from(lua) }
    }
}

impl Script {
    /// A script; `name` stands for it in errors and statistics.
    #[must_use]
    pub fn new(name: &'static str, lua: &str) -> Self {
        let text = Text::new(lua.to_owned());
        Self(Arc::new(Inner { name, fenced: false, old: text.clone(), current: text }))
    }

    /// A script that runs only while the server still holds the data of the generation that sends it, and otherwise
    /// does nothing and fails with [`Error::Epoch`](crate::Error::Epoch).
    ///
    /// The check goes before `lua`. It compares the epoch key and, from Redis 7.0 on, the replication id. The link adds the
    /// epoch key and its value by itself; `KEYS` and `ARGV` are what the caller passes.
    #[must_use]
    pub fn fenced(name: &'static str, lua: &str) -> Self {
        Self(Arc::new(Inner {
            name,
            fenced: true,
            current: Text::new(format!("{FENCE_BY_KEY}{FENCE_BY_REPLICATION_ID}{lua}")),
            old: Text::new(format!("{FENCE_BY_KEY}{lua}")),
        }))
    }

    /// The name given to it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Whether it checks the epoch.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.0.fenced
    }

    pub(crate) fn text(&self, info_in_scripts: bool) -> &Text {
        if info_in_scripts { &self.0.current } else { &self.0.old }
    }
}
