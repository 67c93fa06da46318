//! The only opener of Redis connections in the workspace.
//!
//! # The idea: connection generations
//! A [`Generation`] is what a caller talks to. Behind it is, for each master, a small set of connections that were opened
//! and checked together; such a set dies once, as a whole, and never comes back: no reconnecting below the caller, no
//! replay, one attempt per command. What was in flight ends at once, as [`Error::Unknown`] where it may have been sent. A
//! supervisor finds the masters, opens what is missing (back-off ≤ 1 s) and publishes the next generation through
//! [`RedisLink::watch`]. So a caller always knows on *which* server state its command ran, and what survived an
//! interruption is decided in one place.
//!
//! # Topologies
//! - **One master**, at a fixed address or one that moves.
//! - **Sentinel**: the supervisor asks all Sentinels, every [`Config::probe_interval`] and ten times a second while the
//!   master is missing, and believes the one that knows of the latest failover. A master that hangs is left as soon as
//!   another is named.
//! - **Cluster**: a generation is a view of who serves which slot. When a master is lost or slots move there is a next
//!   one, which shares the connections that are good: the other masters' callers notice nothing. Commands go to the master
//!   of their first [`Key`], [`mget`](Generation::mget) and [`del`](Generation::del) are split by slot, a `MOVED` or
//!   `ASK` is followed (the server that says so has done nothing), a slot that nobody serves is an error of its own.
//!
//! # Epochs
//! Redis may come back empty, older, or as another server. Each master's data carries an *epoch*: a number that grows
//! with every such loss, kept outside of Redis by an [`EpochAuthority`]. Opening connections to a master reads `INFO` (must
//! be a master, 6.2 or later), takes `master_replid` and the epoch key to the authority, and claims the epoch in that
//! key, together with a random mark. [`Script::fenced`] scripts check inside Lua that the replication id (7.0 or later)
//! and the epoch key are still those of the connections that send them, and answer `EPOCH` if not: nothing was done, the
//! connections end, the next ones know the truth. FLUSHALL, an empty restart, a restored old file, a promoted replica:
//! all of them show in one of the two. A probe repeats that check once a second for links that send no fenced script.
//!
//! The key is `{ns}:epoch`. On a cluster each master has one of its own, in one of its slots (scripts without a shebang may
//! read it beside their own keys), and the epochs of a cluster's masters are all different: what moves from one master to
//! another never looks like the other's own. So one failover makes one master's data cold, not all of it.
//!
//! # Credentials and certificates
//! Both may change while the link is in use ([`CredentialProvider`], [`TlsConfig`]). They are looked at every
//! [`Config::renew_interval`], before each attempt to connect, and at [`RedisLink::renew`]. When they have changed, new
//! connections are opened beside the old ones, and take over; the old ones go on for [`Config::command_timeout`] and a
//! second, for whoever still holds their generation. A server that refuses the new ones changes nothing.
//!
//! # Subscriptions
//! A [`Subscription`] owns the set of what is wanted, and makes the servers' subscriptions equal to it after every
//! reconnect, failover and move. Names and patterns share one connection, on a cluster to any master. Sharded channels
//! ([`Keys::sharded_channel_in`], Redis 7.0) have one to each master that serves some of them: a failover or a slot that
//! moves is told for the channels concerned ([`SubscriptionEvent::ShardsLost`]), and the others notice nothing.
//!
//! A server forgets the channels of a slot that leaves it, and tells so in a push that the driver does not pass on. So the
//! layout decides: as soon as the link knows of a move (within [`Config::probe_interval`], or by an answer that says so) the
//! channels are subscribed at the new master. And once in that interval the server's count of the connection's sharded
//! subscriptions is compared (`CLIENT INFO`; since 7.0.3, in RESP3), so that none which it forgot passes for subscribed.
//!
//! # What is bounded
//! Every call has a [`resilience::Deadline`] and is also capped by [`Config::command_timeout`]; calls in flight, the
//! queue of a connection, events of a [`Subscription`] and their overflow (counted, reported) have limits; there is no
//! unbounded queue. A connection that answers nothing for [`Config::probe_timeout`] ends its generation.
//!
//! # Cancel safety
//! Every `async fn` may be dropped at any point: nothing leaks, and a command that was already handed to a connection
//! is still carried out by the server. Dropping the last [`RedisLink`] ends its background work, also outside of a
//! runtime.
//!
//! # Commands sent
//! By itself: `HELLO` (or `AUTH`, in RESP2), `SELECT`, `CLIENT ID`, `PING`, `INFO`, `TIME`, `GET`, `EVAL`, `EVALSHA`,
//! `SUBSCRIBE`, `PSUBSCRIBE`, `SSUBSCRIBE`, `UNSUBSCRIBE`, `PUNSUBSCRIBE`, `SUNSUBSCRIBE`; inside the epoch scripts also `SET`; on a cluster `CLUSTER SLOTS`,
//! `CLUSTER INFO`, `ASKING`, `CLIENT INFO`; to Sentinels `SENTINEL MASTER`, `GET-MASTER-ADDR-BY-NAME`, `REPLICAS`. Through helpers: `GET`,
//! `MGET`, `SET`, `DEL`, `PUBLISH`, `SPUBLISH`. Everything else is what callers pass to [`Generation::call`] and write in their scripts.
//! Never `KEYS`, `SCAN`, `FLUSH*` or `CONFIG`. Keys and channels all begin with the namespace ([`Keys`]).
//!
//! # Good to know
//! - Redis compares a pattern of `PSUBSCRIBE` with a user's rights letter by letter: a right to `ns:*` is none to
//!   `ns:p:orders.*`.
//! - On a cluster a message may still be on its way between the nodes when a subscription is confirmed.
//! - The first slot that a new master of a cluster is given: as long as it moves, and until the link has seen it (within
//!   [`Config::probe_interval`]), calls on it fail with `ASK` or `MOVED`, which is retryable; nothing was done.
//! - The driver knows no limit for replies: [`Config::max_reply`] is looked at when a reply is there.
//!
//! Not yet: reads from replicas.
//!
//! ```no_run
//! # async fn example() -> Result<(), redis_link::Error> {
//! use redis_link::{Config, Deps, Endpoint, SelfKeptEpochs, Topology};
//! use resilience::Deadline;
//! use std::{sync::Arc, time::Duration};
//!
//! let config = Config {
//!     topology: Topology::standalone(Endpoint::new("127.0.0.1", 6379)),
//!     namespace: "shop".to_owned(),
//!     ..Config::default()
//! };
//! let link = config.connect(Deps::new(Arc::new(SelfKeptEpochs::new()))).await?;
//! let deadline = Deadline::after(Duration::from_millis(200));
//! let generation = link.ready(deadline).await?;
//! let key = link.keys().cache_value("users", "42")?;
//! generation.set(&key, "Ada", Some(Duration::from_secs(60)), deadline).await?;
//! assert_eq!(generation.get(&key, deadline).await?.as_deref(), Some(&b"Ada"[..]));
//! link.shutdown(Duration::from_secs(1)).await;
//! # Ok(()) }
//! ```

mod config;
mod credentials;
mod error;
mod keys;
mod topology;

mod command;
mod script;
mod value;

mod epoch;
mod server_info;

mod dedicated;
mod generation;
mod link;
mod status;
mod subscription;

mod finder;
mod layout;
mod metrics;
mod opener;
mod replica;
mod tls;
mod wire;

pub use command::{Argument, Command};
pub use config::{Config, Deps, Problem};
pub use credentials::{CredentialError, CredentialProvider, Credentials, PasswordFile};
pub use dedicated::Dedicated;
pub use epoch::{EpochAuthority, EpochError, EpochRequest, MAX_EPOCH, SelfKeptEpochs};
pub use error::Error;
pub use generation::Generation;
pub use keys::{Channel, InvalidName, Key, Keys, MAX_KEY_LEN, MAX_NAME_LEN};
pub use link::{LinkState, RedisLink};
pub use script::Script;
pub use server_info::{Capabilities, Version};
pub use status::{CallErrors, ConnectionState, LinkStatus, MasterStatus};
pub use subscription::{
    Incoming, Listener, Listening, SubscribeOptions, Subscription, SubscriptionEvent, SubscriptionHandle,
};
pub use tls::{CertificateProblem, TlsConfig, Verify};
pub use topology::{Endpoint, SentinelTopology, Topology};
pub use value::{UnexpectedReply, Value};
