//! The only opener of Redis connections in the workspace.
//!
//! # The idea: connection generations
//! A [`Generation`] is a small set of connections to one server, opened and checked together. It dies once, as a
//! whole, and never comes back: no reconnecting below the caller, no replay, one attempt per command. What was in
//! flight ends at once, as [`Error::Unknown`] where it may have been sent. A supervisor opens the next generation
//! (back-off ≤ 1 s) and publishes it through [`RedisLink::watch`]. So a caller always knows on *which* server state
//! its command ran, and what survived an interruption is decided in one place.
//!
//! # Epochs
//! Redis may come back empty, older, or as another server. Each generation carries an *epoch*: a number that grows
//! with every such loss, kept outside of Redis by an [`EpochAuthority`]. Opening a generation reads
//! `INFO` (must be a master, 6.2 or later), takes `master_replid` and the epoch key `{ns}:epoch` to the authority, and
//! claims the epoch in that key, together with a random mark. [`Script::fenced`] scripts check inside Lua that the
//! replication id (7.0 or later) and the epoch key are still those of the generation that sends them, and answer
//! `EPOCH` if not: nothing was done, the generation ends, the next one knows the truth. FLUSHALL, an empty restart, a
//! restored old file, a promoted replica: all of them show in one of the two. A probe repeats that check once a second
//! for links that send no fenced script.
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
//! By itself: `HELLO`, `SELECT`, `CLIENT ID`, `PING`, `INFO`, `TIME`, `GET`, `EVAL`, `EVALSHA`, `SUBSCRIBE`, `PSUBSCRIBE`,
//! `UNSUBSCRIBE`, `PUNSUBSCRIBE`; inside the epoch scripts also `SET`. Through helpers: `GET`, `MGET`, `SET`, `DEL`,
//! `PUBLISH`. Everything else is what callers pass to [`Generation::call`] and write in their scripts. Never `KEYS`,
//! `SCAN`, `FLUSH*` or `CONFIG`. Keys and channels all begin with the namespace ([`Keys`]).
//!
//! Not yet: Sentinel and Cluster topologies (on a cluster a fenced script will check an epoch key in the hash slot of
//! its first key, by the same signature), reads from replicas, reloading of certificates and credentials, a limit on the size
//! of replies.
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
//! let link = config.connect(Deps { epochs: Arc::new(SelfKeptEpochs::new()) }).await?;
//! let deadline = Deadline::after(Duration::from_millis(200));
//! let generation = link.ready(deadline).await?;
//! let key = link.keys().cache_value("users", "42")?;
//! generation.set(&key, "Ada", Some(Duration::from_secs(60)), deadline).await?;
//! assert_eq!(generation.get(&key, deadline).await?.as_deref(), Some(&b"Ada"[..]));
//! link.shutdown(Duration::from_secs(1)).await;
//! # Ok(()) }
//! ```

mod config;
mod error;
mod keys;

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

mod metrics;
mod replica;
mod tls;
mod wire;

pub use command::{Argument, Command};
pub use config::{Config, Deps, Endpoint, Problem, TlsConfig, Topology};
pub use dedicated::Dedicated;
pub use epoch::{EpochAuthority, EpochError, EpochRequest, MAX_EPOCH, SelfKeptEpochs};
pub use error::Error;
pub use generation::Generation;
pub use keys::{Channel, InvalidName, Key, Keys, MAX_KEY_LEN, MAX_NAME_LEN};
pub use link::{LinkState, RedisLink};
pub use script::Script;
pub use server_info::{Capabilities, Version};
pub use status::{ConnectionState, LinkStatus};
pub use subscription::{SubscribeOptions, Subscription, SubscriptionEvent, SubscriptionHandle};
pub use value::{UnexpectedReply, Value};
