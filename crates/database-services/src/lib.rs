//! The data-access layer of a Rust service on PostgreSQL and Redis, composed.
//!
//! One handle, [`DatabaseServices`], brings up the connection pool, the three-level cache, the distributed locks, pub/sub
//! and health in the order in which they need each other, keeps them running, takes over new settings without a restart
//! and drains them in reverse. Each component is a crate of its own that works without this one.
//!
//! ```no_run
//! use database_services::{ManagerMode, get_database_services};
//! use database_services::cache_manager::{Loaded, RegionOptions};
//! use database_services::sqlx;
//! # use std::time::Duration;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! // Settings come from the environment: DATABASE_URL, REDIS_URL, …
//! let services = get_database_services(ManagerMode::HighAvailability).await?;
//! let users = services.cache().region::<String>("users", RegionOptions::default())?;
//!
//! let db = services.database();
//! let hit = users
//!     .get_or_load("42", move |_ctx| async move {
//!         let name = sqlx::query_scalar::<_, String>("SELECT name FROM users WHERE id = 42");
//!         let name = name.fetch_optional(&db.primary()).await?;
//!         Ok::<_, sqlx::Error>(name.map_or(Loaded::Absent, Loaded::value))
//!     })
//!     .await?;
//! println!("{:?} from {:?}", hit.value, hit.level);
//!
//! services.shutdown(Duration::from_secs(30)).await;
//! # Ok(()) }
//! ```
//!
//! * **Start.** [`initialize`](DatabaseServices::initialize): Postgres (unreachable is an error) → schema → Redis
//!   (unreachable is degraded, refused credentials are an error) → pub/sub and journal → cache → locks → health. A part
//!   that fails unwinds those before it.
//! * **Without Redis** the services run on L1 and L3; locks and channels answer `Unavailable`.
//! * **Swap.** [`reconfigure`](DatabaseServices::reconfigure) builds what changed beside what runs, and keeps the old if
//!   the new is not healthy.
//! * **Settings** are values: [`Settings`]; only [`Settings::from_env`] and [`get_database_services`] read the
//!   environment.
//! * **Many instances** share `DATABASE_MAX_CONNECTIONS` through leases in our schema: each takes what the others leave.
//! * **Secrets that change**: `DATABASE_PASSWORD_FILE` and the certificates are read at every connection.
//! * **Behind PgBouncer** (`DATABASE_PGBOUNCER`, `DATABASE_DIRECT_URL`): what outlives a transaction is refused.
//!
//! The derives of sqlx ([`FromRow`](sqlx::FromRow), [`Type`](sqlx::Type), …) write `::sqlx` into your code, and have no
//! attribute for another path. A line in your own manifest mends that; the types are the same, as it is the same crate:
//!
//! ```toml
//! sqlx = { version = "0.9", default-features = false, features = ["postgres", "macros"] }
//! ```
//!
//! Not yet: maintenance and emergency modes, warming, Sentinel and Cluster, Postgres backends of locks and bus.

mod configs;
mod epochs;
mod error;
mod links;
mod metrics;
mod mode;
mod parts;
mod probes;
mod reconfigure;
mod servers;
mod services;
pub mod settings;
mod shared;
mod stats;

pub use error::{Error, ReconfigureError};
pub use mode::{ManagerMode, UnknownMode, Warming};
pub use probes::PROBES;
pub use reconfigure::ReconfigureReport;
pub use servers::{postgres_config, postgres_replica};
pub use services::{DatabaseServices, ServiceState, create_database_services};
pub use settings::Settings;
pub use shared::get_database_services;
pub use stats::ConnectionMetrics;

pub use access_control::SecurityContext;
pub use postgres_pool_manager::sqlx;
pub use {
    access_control, cache_manager, distributed_lock_manager, health_manager, postgres_pool_manager,
    pubsub_manager, redis_link, resilience,
};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
