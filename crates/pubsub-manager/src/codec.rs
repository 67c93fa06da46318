//! How a value becomes bytes. Two codecs, both self-describing; schemas are the users' business.

use crate::Error;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// A payload's encoding; it travels with every message, so both ends need not agree beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Codec {
    /// MessagePack with field names: compact, and fields may be added. The default.
    #[default]
    MessagePack,
    /// JSON: readable by people and by anything else.
    Json,
}

impl Codec {
    pub(crate) const fn wire(self) -> u8 {
        match self {
            Self::MessagePack => 1,
            Self::Json => 2,
        }
    }

    pub(crate) const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            1 => Some(Self::MessagePack),
            2 => Some(Self::Json),
            _ => None,
        }
    }

    /// The codec's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessagePack => "MessagePack",
            Self::Json => "JSON",
        }
    }

    pub(crate) fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, Error> {
        let encoded = match self {
            Self::MessagePack => rmp_serde::to_vec_named(value).map_err(|error| Arc::new(error) as _),
            Self::Json => serde_json::to_vec(value).map_err(|error| Arc::new(error) as _),
        };
        encoded.map_err(|source| Error::Encode { codec: self.name(), source })
    }

    pub(crate) fn decode<T: DeserializeOwned>(self, payload: &[u8]) -> Option<T> {
        match self {
            Self::MessagePack => rmp_serde::from_slice(payload).ok(),
            Self::Json => serde_json::from_slice(payload).ok(),
        }
    }
}
