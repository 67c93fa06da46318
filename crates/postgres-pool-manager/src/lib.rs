//! PostgresPoolManager: bounded, role-aware, cancellation-proof Postgres connections.
//!
//! A service asks for a session, a transaction or an executor and says how long it will wait; where the connection
//! comes from, whether it is alive, clean and of the right role, is settled here.
//!
//! ```no_run
//! use postgres_pool_manager::{Config, TransactionError, sqlx};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let db = Config::new("postgres://app@localhost/app").connect().await?;
//! // Each statement on a session of its own; reads go to a replica where there is one.
//! let name: String = sqlx::query_scalar("SELECT name FROM users WHERE id = $1")
//!     .bind(7)
//!     .fetch_one(&db.replica())
//!     .await?;
//! // All or nothing, run again when the server asks for it (40001, 40P01).
//! db.transaction(Default::default(), |tx| {
//!     let name = name.clone();
//!     Box::pin(async move {
//!         sqlx::query("UPDATE users SET greeted = now() WHERE name = $1").bind(&name).execute(&mut *tx).await?;
//!         tx.on_commit(move |outcome| Box::pin(async move { tracing::debug!(?outcome, name, "greeted") }));
//!         Ok::<_, sqlx::Error>(())
//!     })
//! })
//! .await?;
//! # Ok(()) }
//! ```
//!
//! # Promises, and the one mechanism behind each
//! - **Callers wait on the pool alone.** `core` is a pure state machine (idle stack, waiters, wishes); connections
//!   are opened by background tasks that give up when nobody wants one any more. One deadline covers wait, connect
//!   and check, and its error says what the pool was full of and why connecting fails. Waiters are served first
//!   come, first served; idle connections last in, first out.
//! - **A warm checkout and return costs no round trip**, no allocation and no task: two short critical sections.
//!   A connection is checked only after 500 ms of idleness, after a failed statement, or when an alarm was raised
//!   since the server last answered on it (any connection lost raises it).
//! - **Cancellation at any await is harmless.** A connection is marked before a statement and unmarked after it. A
//!   loan (`lease`) that is dropped while marked is cleaned in the background (rest of the answer within 50 ms,
//!   ROLLBACK, reset in one round trip) or given up, and its permit is free only then. No drop does I/O or needs a
//!   runtime. What runs at the server for a client that left ends within `client_connection_check_interval`, 1 s, or
//!   at once where [`Cancel::Eager`] asks for it.
//! - **A session that is forgotten is told of, and can be taken back** ([`Config::reclaim_after`]): the server ends
//!   its connection. Coming back and being taken back are one atomic exchange, so its permit is freed once.
//! - **COMMIT is never dropped half-way.** Its future owns all it needs and moves to the background if its caller goes
//!   away. It is sent in one message with what has to precede it,
//!   a guard (Postgres answers COMMIT of a failed transaction with success) and the question for the read token:
//!   one round trip in all. Three outcomes: committed, [`Error::RolledBack`], [`Error::OutcomeUnknown`]. Hooks
//!   registered by [`Tx::on_commit`] run before [`Tx::commit`] returns, for the first and the last.
//! - **Reads go where they are true.** A prober asks each replica every 250 ms how far it is; its lag is bounded by
//!   samples of the primary's position and the moments before which they were taken, so that neither an idle
//!   primary nor a stalled one looks like lag or like none. [`PostgresPoolManager::read_after`] uses a replica only
//!   if it was seen to have replayed the token, in the same history and the same run of the server; it waits a moment
//!   for one that is about to. Each session says why it was taken where it was ([`Session::route_reason`],
//!   [`PostgresPoolManager::route_explain`]).
//! - **Writes follow the primary.** Every server is looked at. One that takes writes in a newer history (timeline) than
//!   any seen before is the primary from then on, and a former one never again; sessions of the former end, those that
//!   wait for an answer at once, and who waits for one is sent to the new. A transaction that lost its connection before
//!   COMMIT was sent is run again by [`PostgresPoolManager::transaction`]. A token of a history that this process has not
//!   seen yet is not answered by a former primary. What only the servers can promise is theirs: without a synchronous
//!   standby an acknowledged write may be lost with its server.
//! - **Run-time changes are one value** ([`Tunable`]), checked as a whole, and events ([`PostgresPoolManager::events`]).
//! - **Questions to the servers do not queue behind the trouble that they are about**: [`insight`] opens a connection of
//!   its own for each, and says what the user's rights hide. What it kills is named by process and start; what it runs
//!   for a plan does nothing but read.
//! - **Who we are is asked at every connection**: credentials of a [`CredentialProvider`], certificate files as they are
//!   then. What stands stays; what a server refuses it is not shown again at once, unless it changed.
//! - **A fleet stays within its budget** ([`Config::fleet_budget`]): a lease is written before connections are opened on it
//!   and given up after they have ended. Shares are max-min fair; what nobody lacks, anybody may use.
//! - **Behind PgBouncer** ([`Config::pgbouncer`]) nothing that outlives a transaction is sent, and no statement is taken
//!   apart by a change of server in its middle.
//! - **One migrator at a time**: [`PostgresPoolManager::migrate`], with a lock that ends with its connection.
//!
//! The read token comes with every COMMIT because it costs no round trip: two more statements in the same message,
//! which the server answers from memory (`examples/checkout.rs` measures it). A token of its own for a caller that
//! wants one is [`PostgresPoolManager::read_token`].
//!
//! # Rules for users
//! - Session state set by text (`SET`, `LISTEN`, `BEGIN`, temporary tables) is recognised by its first word and
//!   reset after the session; state set inside functions only for advisory locks and `set_config`. For anything else
//!   use [`Session::raw`], after which everything is reset.
//! - Warnings of the server are not sent (`client_min_messages = error`); they are in its log.
//! - The least server is Postgres 14. Each replica, and the primary if there are any, gets one connection more than
//!   its pool holds, for the prober; the migrator, [`PostgresPoolManager::open_direct`],
//!   [`PostgresPoolManager::open_listener`] and each question of [`insight`] open one each while they live, and a
//!   budget's keeper one. A budget counts them all but the questions, for which there is its margin.
//! - The derives of [`sqlx`] ([`FromRow`](sqlx::FromRow), …) write `::sqlx` into your code and have no attribute for
//!   another path: add `sqlx = { version = "0.9", default-features = false, features = ["postgres", "macros"] }` to your
//!   own manifest. It is the same crate, hence the same types.
//!
//! Not yet: named statements through a PgBouncer that keeps them (1.21), and a bound in bytes for the rest of an
//! abandoned answer (there is one in time; the driver shows no count). Neither has a call that pretends.

mod acquire;
mod budget;
mod cancel;
mod certificates;
mod comment;
mod commit;
mod config;
mod conn;
mod connect;
mod core;
mod credentials;
mod direct;
mod door;
mod election;
mod error;
mod events;
mod eviction;
mod executor;
mod explain;
mod failure;
mod handle;
mod host;
pub mod insight;
mod lag;
mod leaks;
mod lease;
mod manager;
mod metrics;
mod migrate;
mod orders;
mod pgbouncer;
mod pool;
mod probe;
mod recorder;
mod roles;
mod router;
mod schema;
mod session;
mod shell;
mod slot;
mod sql;
mod stats;
mod summary;
mod sync;
mod token;
mod transaction;
mod tuning;
mod tx;
mod upkeep;
mod watch;

pub use acquire::Acquire;
pub use budget::BudgetStatus;
pub use cancel::Cancel;
pub use certificates::{CertificateOwner, CertificateStatus};
pub use comment::Traceparent;
pub use config::{Balance, Config, Endpoint, ReplicaEndpoint};
pub use credentials::{CredentialError, CredentialProvider, Credentials, PasswordFile};
pub use direct::{DirectConnection, Listener};
pub use error::{ConnectFailure, Error, Problem, TransactionError};
pub use events::{EventStream, PoolEvent};
pub use explain::{HostExplanation, RouteExplanation, RouteReason};
pub use handle::{Primary, Replica};
pub use manager::PostgresPoolManager;
pub use migrate::{
    MigrateOptions, Migration, MigrationError, MigrationReport, MigrationSet, Step, migrations,
};
pub use roles::roles_sql;
pub use schema::Schema;
pub use session::Session;
pub use sqlx;
pub use stats::{HostState, HostStats, HostStatus, PoolState, PoolStats, Role, Status};
pub use token::{InvalidToken, ReadToken};
pub use tuning::{ReplicaTunable, Tunable};
pub use tx::{CommitOutcome, Isolation, TransactionOptions, Tx};
