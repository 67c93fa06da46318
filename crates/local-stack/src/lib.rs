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
//! - **Real servers, at once.** Postgres and Redis from this machine's packages or from images, on free ports of 127.0.0.1, each in a
//!   private directory, in well under two seconds. [`install_servers`] gets them on Debian and Ubuntu.
//! - **Nothing survives.** Whether the owner drops the stack, panics, is interrupted or is killed with `kill -9`: within
//!   five seconds no process and no directory is left. A process of its own, the watchdog, holds the other end of a pipe
//!   and acts at its end. It registers nothing: a process belongs to the stack if its working directory is one of the
//!   stack's, so there is no moment at which a server runs and would be forgotten.
//! - **Replicas.** Streaming ones of Postgres, on request such that commits wait for them
//!   ([`PostgresOptions::synchronous`]), and of Redis.
//! - **PgBouncer** in transaction mode before Postgres ([`PostgresOptions::pgbouncer`]), for who wants it:
//!   [`install_pgbouncer`] gets it.
//! - **Sentinel and Cluster.** [`RedisOptions::with_sentinels`] starts a master with replicas and three Sentinels that
//!   fail over within two seconds; [`Redis::sentinel_master`] says whom they name, [`Redis::failover`] makes them name
//!   another. [`RedisOptions::cluster`] starts three masters with a replica each, in two seconds;
//!   [`Redis::failover_to`], [`Redis::move_slot`] and [`Redis::begin_move_slot`] (half a move, for `ASK`) change who
//!   serves what.
//! - **TLS.** With [`RedisOptions::tls`] or [`PostgresOptions::tls`] servers speak it and nothing else over TCP, with
//!   certificates of the stack's own [`Authority`], and ask for client certificates if told to.
//!   [`Server::use_certificate`] gives a running server one that is expired, of another host or of a stranger, or just a
//!   new one; [`Authority::renew_client`] renews the client's in place. (Feature `tls`, on by default.)
//! - **Rights.** An ACL file ([`RedisOptions::acl`]) rules on every server of any topology; [`Redis::set_password`]
//!   changes a user's passwords on all of them while they run.
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
//! # Where the servers come from
//!
//! | [`Provider`] | the servers are | needs |
//! |---|---|---|
//! | [`Native`](Provider::Native), the default | processes from this machine's packages | the packages ([`install_servers`]) |
//! | [`Containers`](Provider::Containers) | processes from [`Images`] | the feature `containers`, an engine of this machine (rootful Docker 20.10 or newer) |
//! | [`External`](Provider::External) | there already, by their URLs | nothing; but they are not killed, paused or restarted |
//!
//! A container is nothing but where a server's program comes from. It uses the host's network, and the stack's
//! directory at the same path and as the same user; ports, files, logs, faults and the watchdog are those of native
//! servers, and a process of a container is ended like any other (the engine then removes the container). Published
//! ports would give a server two addresses, one for clients and one for its replicas, and what Sentinel and Cluster
//! tell their clients would be the wrong one. A container whose start was under way when its owner was killed either
//! finds its directory gone and ends at once, or was never started: then it has no process and no data, and the next
//! stack removes it.
//!
//! # The environment
//!
//! | variable | meaning |
//! |---|---|
//! | `LOCAL_STACK_PROVIDER` | `native`, `containers` or `external`, for [`Provider::Auto`] |
//! | `LOCAL_STACK_POSTGRES_IMAGE`, `LOCAL_STACK_REDIS_IMAGE`, `LOCAL_STACK_PGBOUNCER_IMAGE` | what containers run, instead of the official images |
//! | `LOCAL_STACK_POSTGRES_URL`, `LOCAL_STACK_REDIS_URL` | use these servers ([`Provider::External`]); faults of processes then answer [`Error::NotOurs`] |
//! | `LOCAL_STACK_POSTGRES_REPLICA_URLS`, `LOCAL_STACK_REDIS_REPLICA_URLS` | their replicas, separated by commas |
//! | `LOCAL_STACK_POSTGRES_BIN_DIR`, `LOCAL_STACK_REDIS_SERVER`, `LOCAL_STACK_PGBOUNCER` | where the binaries are, instead of looking for them |
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
//!   was started with. Where Sentinels watch they write it into the servers' settings, and it stays.
//! - Our own commands go through the servers' Unix sockets, which ask for no certificate: a Redis or a Sentinel that
//!   speaks TLS has no other port that is plain.
//! - A path in a URL (`sslrootcert`) is of the stack's directory and goes with it. Keys of servers can be read by the
//!   servers' user alone, keys of clients by the stack's owner alone.
//! - Redis' user `local-stack` is ours, on every server: for commands, replication and Sentinels.
//! - The engine is spoken to on a thread of its own that is never ended: no handle of a stack needs a runtime.
//! - Needs Linux (`/proc`), Postgres 13 and Redis 6.2 or Valkey 7.2, or newer.
//! - Everything blocking runs to its end when its future is dropped.
//!
//! Not yet: external Sentinels and clusters, rewinding a former Postgres primary.

mod error;
mod options;

mod authority;
mod database;
#[cfg(feature = "async")]
mod proxy;
mod server;
mod shared;
mod stack;
#[cfg(feature = "async")]
mod wait;

mod find;
mod images;
mod install;
mod provider;

mod account;
mod address;
mod blocking;
#[cfg(all(feature = "containers", target_os = "linux"))]
mod containers;
#[cfg(not(all(feature = "containers", target_os = "linux")))]
#[path = "containers/absent.rs"]
mod containers;
mod directory;
mod launch;
mod launcher;
mod pgbouncer;
mod pgwire;
mod port;
mod postgres;
mod process;
mod procfs;
mod redis;
mod resp;
mod watchdog;

pub use authority::{Authority, Certificate, KeyPair};
pub use database::{Database, via};
pub use error::Error;
pub use find::{
    Found, PgBouncerBinary, PostgresBinaries, RedisBinary, Servers, find_pgbouncer, find_postgres,
    find_redis, find_servers,
};
pub use images::Images;
pub use install::{install_pgbouncer, install_servers};
pub use options::{
    Auth, CLUSTER_NODE_TIMEOUT, ClientCertificates, ExternalUrls, PostgresOptions, Provider, RedisOptions,
    SENTINEL_DOWN_AFTER, START_TIMEOUT, TlsOptions,
};
pub use pgwire::Row;
pub use postgres::Postgres;
#[cfg(feature = "async")]
pub use proxy::{Existing, FaultProxy, Traffic};
pub use redis::{Redis, SlotMove};
pub use resp::Reply;
pub use server::{Kind, Server};
pub use shared::SharedStack;
pub use stack::{Builder, Stack};
#[cfg(feature = "async")]
pub use wait::{wait_for, wait_until};

pub(crate) use blocking::pause;
#[cfg(feature = "async")]
pub(crate) use blocking::unblock;
