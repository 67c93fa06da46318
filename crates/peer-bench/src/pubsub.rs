//! The pub/sub suite: a message from publish to receive, one at a time and 64 on their way; an entry of the journal.

pub(crate) mod journal;
pub(crate) mod latency;
mod peers;
pub(crate) mod throughput;
