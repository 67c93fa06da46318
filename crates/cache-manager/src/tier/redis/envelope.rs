//! The bytes of a value in Redis. Not here: the value itself (`codec`).
//!
//! | bytes | |
//! |---|---|
//! | 0–7 | version: server time in µs at the lease; orders values of one key, decides nothing about validity |
//! | 8–23 | marker of the region, marker of everything |
//! | 24–27 | magic `dC`, format 1, kind (1 value, 0 known absence) |
//! | 28–31 | epoch |
//! | 32–39 | when it was loaded, server time in ms |
//! | 40–47 | fresh until, server time in ms |
//! | 48–51 | length of the body |
//! | 52– | body, then one byte 0x0A |
//!
//! Numbers are big-endian. A blob that ends early, is of another format or another epoch, or whose markers are not
//! those that stand, is a miss. How long Redis keeps it is the key's expiry.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use redis_link::Value;

use crate::tier::{Fresh, Stored};

const MAGIC: [u8; 3] = *b"dC\x01";
const FRONT: usize = 24;
const HEADER: usize = 52;
const END: u8 = b'\n';

/// The two markers, of the region and of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Markers([u8; 16]);

impl Markers {
    pub(super) fn standing(region: &[u8], everything: &[u8]) -> Option<Self> {
        let mut both = [0; 16];
        if region.len() != 8 || everything.len() != 8 {
            return None;
        }
        both[..8].copy_from_slice(region);
        both[8..].copy_from_slice(everything);
        Some(Self(both))
    }

    /// As the scripts take them.
    pub(super) fn bytes(&self) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(&self.0[..8]), Bytes::copy_from_slice(&self.0[8..]))
    }

    pub(super) fn of(region: Value, everything: Value) -> Option<Self> {
        Self::standing(&region.into_bytes().ok()??, &everything.into_bytes().ok()??)
    }
}

/// What stands before the body.
#[derive(Debug)]
pub(super) struct Header {
    epoch: u32,
    loaded_at: u64,
    fresh_until: u64,
}

impl Header {
    pub(super) fn new(epoch: u32, now: u64, value: &Fresh) -> Self {
        let loaded_at = now.saturating_sub(millis(value.age));
        Self { epoch, loaded_at, fresh_until: now.saturating_add(millis(value.fresh_for)) }
    }

    pub(super) fn blob(&self, version: u64, markers: &Markers, value: &Fresh) -> Bytes {
        let mut to = BytesMut::with_capacity(HEADER + value.body.as_ref().map_or(0, Bytes::len) + 1);
        to.put_u64(version);
        to.put_slice(&markers.0);
        to.put_slice(&MAGIC);
        to.put_u8(u8::from(value.body.is_some()));
        to.put_u32(self.epoch);
        to.put_u64(self.loaded_at);
        to.put_u64(self.fresh_until);
        let body = value.body.as_deref().unwrap_or_default();
        to.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        to.put_slice(body);
        to.put_u8(END);
        to.freeze()
    }
}

/// A marker together with the epoch of the master that it lies with: equal only if both are.
pub(super) fn of_epoch(marker: &[u8], epoch: u32) -> Option<Bytes> {
    let marker = u64::from_be_bytes(marker.try_into().ok()?);
    // Odd, so that no two epochs give the same.
    let mixed = marker ^ u64::from(epoch).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some(Bytes::copy_from_slice(&mixed.to_be_bytes()))
}

/// The value, if epoch and markers are those that stand.
pub(super) fn accept(blob: &Bytes, markers: &Markers, epoch: u32, now: u64) -> Option<Stored> {
    let fits = blob.get(8..FRONT)? == markers.0 && blob.get(28..32)? == epoch.to_be_bytes();
    if fits { unchecked(blob, now) } else { None }
}

/// The value, for who has compared epoch and markers already.
pub(super) fn unchecked(blob: &Bytes, now: u64) -> Option<Stored> {
    if blob.get(FRONT..27)? != MAGIC || blob.last() != Some(&END) {
        return None;
    }
    let length = u32::from_be_bytes(blob.get(48..52)?.try_into().ok()?) as usize;
    if blob.len() != HEADER + length + 1 {
        return None;
    }
    let body = match blob[27] {
        1 => Some(blob.slice(HEADER..HEADER + length)),
        0 => None,
        _ => return None,
    };
    Some(Stored {
        body,
        fresh_for: Duration::from_millis(number(&blob[40..48]).saturating_sub(now)),
        age: Duration::from_millis(now.saturating_sub(number(&blob[32..40]))),
        version: number(&blob[..8]),
    })
}

/// A big-endian number of 8 bytes; 0 if it is not.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
