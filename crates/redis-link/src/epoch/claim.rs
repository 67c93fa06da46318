//! The epoch key: how it is read, and how a generation claims its epoch in it. The value is
//! `replid:epoch:mark`; the mark is random, so that two states of a server never have the same value.

use super::MAX_EPOCH;

/// Sets the key unless it already holds a larger epoch, or the same one for the same server; answers what it then holds.
/// With two arguments (7.0 and later) it refuses a server whose replication id has changed meanwhile.
pub(crate) const CLAIM: &str = "\
local wanted=ARGV[1] local replid,epoch=string.match(wanted,'^(%x+):(%d+):') \
if ARGV[2] and not string.find(redis.call('INFO','replication'),'master_replid:'..replid,1,true) \
then return redis.error_reply('EPOCH the replication id changed') end \
local held=redis.call('GET',KEYS[1]) if held then local r,e=string.match(held,'^(%x+):(%d+):') \
if e and tonumber(e)<=16777215 and (tonumber(e)>tonumber(epoch) or (e==epoch and r==replid)) then return held end end \
redis.call('SET',KEYS[1],wanted) return wanted";

/// What an epoch key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) replid: String,
    pub(crate) epoch: u32,
    pub(crate) mark: u64,
}

impl Claim {
    pub(crate) fn new(replid: &str, epoch: u32) -> Self {
        Self { replid: replid.to_owned(), epoch, mark: rand::random() }
    }

    /// Reads a key's value; what is not one counts as missing, and is overwritten.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let replid = parts.next().filter(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let epoch = parts.next()?.parse().ok().filter(|epoch| (1..=MAX_EPOCH).contains(epoch))?;
        let mark = u64::from_str_radix(parts.next()?, 16).ok()?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self { replid: replid.to_owned(), epoch, mark })
    }

    pub(crate) fn value(&self) -> String {
        format!("{}:{}:{:016x}", self.replid, self.epoch, self.mark)
    }
}
