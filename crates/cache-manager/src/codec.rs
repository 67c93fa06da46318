//! Values as bytes: codec, type fingerprint, payload. Not here: times, epochs and versions, which belong to the tier
//! that stores them.
//!
//! The fingerprint is made of the type's path and the region's schema version, so bytes that were written for
//! another type are a miss instead of a value that happens to decode. MessagePack carries field names: a field that
//! was added or moved does not silently shift the others.

use bytes::Bytes;

use crate::answer::CacheValue;
use crate::config::Codec;
use crate::error::CacheError;
use crate::region::Region;

const HEADER: usize = 9;

/// The fingerprint of `V` at a schema version.
pub(crate) fn fingerprint<V>(schema_version: u32) -> u64 {
    let name = std::any::type_name::<V>().bytes();
    // FNV-1a, 64 bits: stable over processes and releases, unlike the standard hasher.
    name.chain(schema_version.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(crate) fn encode<V: CacheValue>(region: &Region, value: &V) -> Result<Bytes, CacheError> {
    let mut body = Vec::with_capacity(256);
    body.push(match region.options.codec {
        Codec::MessagePack => 1,
        Codec::Json => 2,
    });
    body.extend_from_slice(&fingerprint::<V>(region.options.schema_version).to_le_bytes());
    let written = match region.options.codec {
        Codec::MessagePack => rmp_serde::encode::write_named(&mut body, value).map_err(|e| e.to_string()),
        Codec::Json => serde_json::to_writer(&mut body, value).map_err(|e| e.to_string()),
    };
    written.map_err(|message| CacheError::Encode { region: region.name.to_string(), message })?;
    if body.len() - HEADER > region.options.max_value {
        return Err(CacheError::TooLarge {
            region: region.name.to_string(),
            size: body.len() - HEADER,
            limit: region.options.max_value,
        });
    }
    Ok(body.into())
}

/// `None` for bytes that are not a `V` of this region; the codec is the writer's, whatever the region's is now.
pub(crate) fn decode<V: CacheValue>(region: &Region, body: &[u8]) -> Option<V> {
    let (header, payload) = body.split_at_checked(HEADER)?;
    if header[1..] != fingerprint::<V>(region.options.schema_version).to_le_bytes() {
        return None;
    }
    match header[0] {
        1 => rmp_serde::from_slice(payload).ok(),
        2 => serde_json::from_slice(payload).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
