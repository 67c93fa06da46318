//! How a value becomes bytes. All self-describing; schemas are the users' business.

use crate::{Cause, CloudEvent, Error, PublisherId, TraceContext};
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
    /// A [`CloudEvent`] in JSON around the value: for consumers that hand events on to others.
    CloudEvents,
}

/// What a codec may say about a message beside its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) subject: &'a str,
    pub(crate) publisher: PublisherId,
    pub(crate) trace: Option<TraceContext>,
}

impl Codec {
    pub(crate) const fn wire(self) -> u8 {
        match self {
            Self::MessagePack => 1,
            Self::Json => 2,
            Self::CloudEvents => 3,
        }
    }

    pub(crate) const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            1 => Some(Self::MessagePack),
            2 => Some(Self::Json),
            3 => Some(Self::CloudEvents),
            _ => None,
        }
    }

    /// The codec's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessagePack => "MessagePack",
            Self::Json => "JSON",
            Self::CloudEvents => "CloudEvents JSON",
        }
    }

    pub(crate) fn encode<T: Serialize + ?Sized>(
        self,
        value: &T,
        about: &About<'_>,
    ) -> Result<Vec<u8>, Error> {
        let json = |error: serde_json::Error| -> Cause { Arc::new(error) };
        let encoded = match self {
            Self::MessagePack => rmp_serde::to_vec_named(value).map_err(|error| Arc::new(error) as _),
            Self::Json => serde_json::to_vec(value).map_err(json),
            Self::CloudEvents => CloudEvent::about(about, value).to_json().map_err(json),
        };
        encoded.map_err(|source| Error::Encode { codec: self.name(), source })
    }

    pub(crate) fn decode<T: DeserializeOwned>(self, payload: &[u8]) -> Option<T> {
        self.try_decode(payload).ok()
    }

    /// The same with the codec's own words of what is wrong.
    pub(crate) fn try_decode<T: DeserializeOwned>(self, payload: &[u8]) -> Result<T, String> {
        match self {
            Self::MessagePack => rmp_serde::from_slice(payload).map_err(|error| error.to_string()),
            Self::Json => serde_json::from_slice(payload).map_err(|error| error.to_string()),
            Self::CloudEvents => {
                CloudEvent::from_json(payload).map(|event| event.data).map_err(|error| error.to_string())
            }
        }
    }
}
