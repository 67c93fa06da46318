//! Services for a test: on a database and a Redis namespace of their own, migrated, ready, in parallel, with faults.
//!
//! ```
//! use std::convert::Infallible;
//! use database_services::cache_manager::{Loaded, RegionOptions};
//! use test_services::TestServices;
//!
//! # /*
//! #[tokio::test]
//! # */
//! async fn a_price_is_cached() {
//!     let ground = TestServices::start().await.unwrap();
//!     let prices = ground.services().cache().region::<u32>("prices", RegionOptions::default()).unwrap();
//!     prices.get_or_load("apple", |_| async { Ok::<_, Infallible>(Loaded::value(3)) }).await.unwrap();
//!     assert_eq!(prices.get("apple").await.unwrap().as_deref(), Some(&3));
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(a_price_is_cached());
//! ```
//!
//! # What a test gets
//!
//! - **Real servers**, one Postgres and one Redis for all tests of a process, started by the first that asks and gone with
//!   the process, whatever ends it ([`local_stack`] has the promises). `LOCAL_STACK_PROVIDER` chooses between packages of
//!   this machine (the default), `containers` (with the feature `containers`) and servers that run already. A missing
//!   server is an error with the line that installs it.
//! - **A database of its own**, a clone of a template that is migrated once per process; [`Builder::template_sql`] and
//!   [`Builder::template`] add your tables. **A Redis namespace of its own.** So tests run in parallel and see nothing of
//!   each other.
//! - **Services that run**: [`TestServices::services`] is what your code gets in production. [`TestServices::another`]
//!   gives a second process of the same service.
//! - **At once.** A start takes some 80 ms: 25 for the clone, the rest for connections, a look at the schema and the first
//!   probes; 110 with a Redis of its own, 290 with a Postgres too, 300 where it is the first of its process (the median,
//!   unoptimised, on 2 virtual cores; two to three times as much while builds take them).
//! - **An end.** Dropped, the services drain and the database goes. After a panic too.
//!
//! It works on either flavour of `#[tokio::test]`. Nothing here reads the environment of the service: settings are those
//! of the table below, the servers' addresses, and over them [`Builder::settings`].
//!
//! | setting | in tests | why |
//! |---|---|---|
//! | `DATABASE_POOL_SIZE`, `DATABASE_MAX_OVERFLOW` | 4, 4 | many tests share one server |
//! | `DATABASE_ACQUIRE_TIMEOUT` | 5 s | what waits for a Postgres that is away has a test wait, too |
//! | `REDIS_POOL_MIN_SIZE` | 1 | the same |
//! | `HEALTH_INTERVAL` | 500 ms | a test waits for what the probes find |
//!
//! # Faults
//!
//! | what happens | ask for | do |
//! |---|---|---|
//! | the network to Redis or Postgres breaks, for this test alone | [`with_faults`](Builder::with_faults) | [`ground.redis()`](TestServices::redis)`.cut_and_refuse()`, `.delay(…)`, `.black_hole(true)`, `.reset_after(…)`; then `.heal()` |
//! | Redis dies, hangs, forgets everything | [`own_redis`](Builder::own_redis) | [`ground.redis_server()`](TestServices::redis_server)`.kill()`, `.pause()`, `.restart_empty().await` |
//! | Postgres dies, a replica is promoted | [`own_postgres`](Builder::own_postgres) | [`ground.postgres_server()`](TestServices::postgres_server)`.kill()`, [`ground.postgres_servers()`](TestServices::postgres_servers)`.promote(0).await` |
//! | Sentinels or a cluster move the master | `own_redis(RedisOptions::with_sentinels(1))`, `own_redis(RedisOptions::cluster())` | [`ground.redis_servers()`](TestServices::redis_servers)`.failover().await` |
//! | one process of two is cut off | `with_faults`, [`another`](TestServices::another) | each has proxies of its own |
//!
//! Servers that other tests use cannot be harmed: asking for them panics and says what to ask for instead. Options for
//! replicas, TLS, passwords and ACLs are those of [`local_stack::PostgresOptions`] and [`local_stack::RedisOptions`]; with
//! TLS the services are given the authority and a client's certificate. Wait for what a fault leads to by [`wait_for`]:
//!
//! ```
//! use std::time::Duration;
//! use database_services::health_manager::Status;
//! use test_services::{TestServices, wait_for};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), test_services::Error> {
//! let ground = TestServices::builder().with_faults().start().await?;
//! let health = ground.services().health_manager();
//! ground.redis().cut_and_refuse();
//! let degraded = async || health.check_health().status == Status::Degraded;
//! wait_for("the loss is noticed", Duration::from_secs(10), degraded).await;
//! ground.redis().heal();
//! # Ok(()) }
//! ```
//!
//! # Good to know
//!
//! - A template is known by its SQL and by the names of its closures: give a closure that does something else another
//!   name.
//! - Keys without expiry (counters of locks) stay in Redis when a test ends: nothing here sends `KEYS`, `SCAN` or `FLUSH`.
//!   They go with the shared server; in an external one they stay.
//! - With external servers (`LOCAL_STACK_POSTGRES_URL`) a database whose test ended with the process may be left behind:
//!   [`TestServices::shutdown`] drops it for certain.
//! - `start_paused` runtimes do not go with real servers: their time leaps while an answer is awaited.

mod error;

mod builder;
mod services;

mod ground;
mod network;
mod template;

pub use builder::Builder;
pub use error::Error;
pub use services::TestServices;
pub use template::Template;

pub use local_stack;
pub use local_stack::{PostgresOptions, RedisOptions, wait_for};
