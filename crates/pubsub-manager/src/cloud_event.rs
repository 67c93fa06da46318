//! CloudEvents 1.0 in structured JSON, as a codec and for raw channels: what foreign peers read. No batches, no binary mode.

use crate::{TraceContext, codec::About};
use serde::{Deserialize, Serialize};
use std::time::SystemTime;

/// An event as <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md> writes it.
///
/// ```
/// use pubsub_manager::CloudEvent;
/// let event = CloudEvent::new("orders.created", "/shop", 42);
/// let json = event.to_json().expect("a number has JSON");
/// assert_eq!(CloudEvent::<u32>::from_json(&json).expect("what was written").data, 42);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CloudEvent<T> {
    /// `1.0`.
    pub specversion: String,
    /// Unique within the source.
    pub id: String,
    /// Where it comes from: a URI reference.
    pub source: String,
    /// What has happened.
    #[serde(rename = "type")]
    pub kind: String,
    /// When, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// W3C trace context, as in the distributed tracing extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What it says.
    pub data: T,
}

impl<T> CloudEvent<T> {
    /// An event of now under a random id.
    #[must_use]
    pub fn new(kind: &str, source: &str, data: T) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: uuid::Uuid::new_v4().to_string(),
            source: source.to_owned(),
            kind: kind.to_owned(),
            time: Some(humantime::format_rfc3339_micros(SystemTime::now()).to_string()),
            datacontenttype: Some("application/json".to_owned()),
            traceparent: None,
            data,
        }
    }

    /// An event about a message that is being published.
    pub(crate) fn about(about: &About<'_>, data: T) -> Self {
        let source = format!("/pubsub/{}", about.publisher);
        let traceparent = about.trace.as_ref().map(TraceContext::traceparent);
        Self { traceparent, ..Self::new(about.subject, &source, data) }
    }
}

impl<T: Serialize> CloudEvent<T> {
    /// As JSON.
    ///
    /// # Errors
    /// What the data says.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

impl<T: serde::de::DeserializeOwned> CloudEvent<T> {
    /// From JSON; attributes that are not known here are ignored.
    ///
    /// # Errors
    /// It is no event of version 1.0, or its data is no `T`.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let event: Self = serde_json::from_slice(json)?;
        if event.specversion != "1.0" {
            return Err(serde::de::Error::custom("not a CloudEvent of version 1.0"));
        }
        Ok(event)
    }
}
