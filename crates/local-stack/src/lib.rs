//! Starts real Postgres and Redis servers, and a TCP fault proxy, for tests and demos.
//!
#![cfg_attr(feature = "async", doc = "```")]
#![cfg_attr(not(feature = "async"), doc = "```ignore")]
//! use std::time::Duration;
//! use local_stack::{FaultProxy, PostgresOptions, RedisOptions, Stack};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), local_stack::Error> {
//! let stack = Stack::builder()
//!     .postgres(PostgresOptions::with_replicas(1))
//!     .redis(RedisOptions::default())
//!     .start()
//!     .await?;
//! let database = stack.database().await?; // a fresh clone of a template, dropped with the handle
//! database.sql("create table t (x int)").await?; // your own code connects to database.url()
//! let proxy = FaultProxy::start(stack.redis().master().target()).await?; // and to proxy.addr()
//! proxy.delay(Duration::from_millis(20));
//! stack.redis().master().kill()?;
//! stack.redis().master().restart().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Real servers, at once.** Postgres and Redis from this machine's packages, on free ports of 127.0.0.1, each in a
//!   private directory, in well under two seconds. [`install_servers`] gets them on Debian and Ubuntu.
//! - **Nothing survives.** Whether the owner drops the stack, panics, is interrupted or is killed with `kill -9`: within
//!   five seconds no process and no directory is left. A process of its own, the watchdog, holds the other end of a pipe
//!   and acts at its end. It registers nothing: a process belongs to the stack if its working directory is one of the
//!   stack's, so there is no moment at which a server runs and would be forgotten.
//! - **A database for every test.** [`Stack::database`] clones a template that SQL
//!   ([`Builder::template_sql`]) or a closure ([`Stack::database_from`]) prepared once per stack. In a shared Redis a test
//!   keeps to its [`Stack::redis_namespace`]; one that flushes or kills starts its own, in some fifty milliseconds.
//! - **Faults.** [`Server::kill`], [`pause`](Server::pause), [`resume`](Server::resume), [`restart`](Server::restart),
//!   [`restart_empty`](Server::restart_empty), [`promote`](Server::promote), [`follow`](Server::follow); and everything
//!   that a network does, by [`FaultProxy`].
//! - **No skipped tests.** A missing server is an [`Error`] with the line that installs it.
//!
//! # How to use it in a test suite
//!
//! One stack per test binary, started by the first test that asks: [`Stack::shared`], or a [`SharedStack`] in a static
//! of your own. It is tied to no runtime, so every `#[tokio::test]` may use it. Tests that do harm start their own.
//! [`wait_for`] takes the place of sleeping. Without the feature `async` (on by default) there are the blocking faces
//! alone, named `…_blocking`, on the standard library.
//!
//! # The environment
//!
//! | variable | meaning |
//! |---|---|
//! | `LOCAL_STACK_POSTGRES_URL`, `LOCAL_STACK_REDIS_URL` | use these servers ([`Provider::External`]); faults of processes then answer [`Error::NotOurs`] |
//! | `LOCAL_STACK_POSTGRES_REPLICA_URLS`, `LOCAL_STACK_REDIS_REPLICA_URLS` | their replicas, separated by commas |
//! | `LOCAL_STACK_POSTGRES_BIN_DIR`, `LOCAL_STACK_REDIS_SERVER` | where the binaries are, instead of looking for them |
//! | `LOCAL_STACK_DIR` | where data go, instead of `/dev/shm` if memory is plenty, or else the temporary directory |
//! | `LOCAL_STACK_CACHE_DIR` | where `initdb`'s result is kept, instead of `~/.cache/local-stack` |
//! | `LOCAL_STACK_USER` | the servers' user when we are root, instead of `postgres`, `redis` or `nobody` |
//! | `LOCAL_STACK_KEEP_LOGS` | keep the servers' logs when a stack ends |
//!
//! # Good to know
//!
//! - As root the servers and the watchdog run as an unprivileged user, for Postgres refuses root. All as one user, so
//!   that the watchdog sees them without a privilege that containers lack.
//! - Postgres asks for a password over TCP, drawn at random unless set: trust would make every local user its superuser.
//! - Postgres runs with `fsync` off and in memory if there is plenty ([`PostgresOptions::durable`] ends both), and Redis with an append-only file, so
//!   that a killed server comes back with what it had.
//! - All clusters are copies of one cached `initdb` and so have one system identifier; see
//!   [`PostgresOptions::own_identity`].
//! - A promotion or a new master is the running server's: a Redis replica that is restarted follows the master that it
//!   was started with.
//! - Needs Linux (`/proc`), Postgres 13 and Redis 6.2 or Valkey 7.2, or newer.
//! - Everything blocking runs to its end when its future is dropped.
//!
//! Not yet: containers as a provider, TLS on the servers, Sentinel and Cluster, rewinding a former Postgres primary.

mod error;
mod options;

mod database;
#[cfg(feature = "async")]
mod proxy;
mod server;
mod shared;
mod stack;
#[cfg(feature = "async")]
mod wait;

mod find;
mod install;
mod provider;

mod account;
mod address;
mod blocking;
mod directory;
mod launch;
mod pgwire;
mod port;
mod postgres;
mod process;
mod procfs;
mod redis;
mod resp;
mod watchdog;

pub use database::{Database, via};
pub use error::Error;
pub use find::{Found, PostgresBinaries, RedisBinary, Servers, find_postgres, find_redis, find_servers};
pub use install::install_servers;
pub use options::{Auth, ExternalUrls, PostgresOptions, Provider, RedisOptions, START_TIMEOUT};
pub use pgwire::Row;
pub use postgres::Postgres;
#[cfg(feature = "async")]
pub use proxy::{Existing, FaultProxy, Traffic};
pub use redis::Redis;
pub use resp::Reply;
pub use server::{Kind, Server};
pub use shared::SharedStack;
pub use stack::{Builder, Stack};
#[cfg(feature = "async")]
pub use wait::{wait_for, wait_until};

pub(crate) use blocking::pause;
#[cfg(feature = "async")]
pub(crate) use blocking::unblock;
