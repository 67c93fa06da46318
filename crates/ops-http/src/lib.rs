//! The HTTP face of database-services: health, metrics, admin; as a [`router`] to mount in one's own axum service, and
//! as a [`Server`] on a thread and runtime of its own, which answers when the services' runtime is saturated.
//!
//! * **Health** (`/livez`, `/readyz`, `/health…`) tells what the background probes said last: no request waits for a
//!   backend. Database down: 503. Cache or Redis down: `degraded`, 200. `/livez` depends on nothing outside.
//! * **Metrics**: `/metrics` for Prometheus under exactly the names that dashboards know ([`Telemetry::install`] before
//!   the services are built), `/metrics/json` and `/metrics/database-services` for scripts.
//! * **Admin**: `POST /v1/{component}/{action}`, JSON in and out; `GET /v1` lists what there is. Actions run on the
//!   services' runtime and to their end. Each call, and each refusal, is an [`AdminEvent`] on tracing target `audit`.
//! * **Who may**: `/livez`, `/readyz`, `/health`, `/health/{cache,database,redis,database-services}` and `/metrics` are
//!   open and tell states and figures; `/health/detailed`, `/metrics/json`, `/metrics/database-services` (reasons,
//!   hosts) and `/v1` need `Authorization: Bearer` with the instance's [`Token`]. Without a token they are shut.
//! * **Errors** are `application/problem+json` with a `code` ([`Problem`]); unknown paths and actions list the known ones.
//! * **Limits** ([`Limits`]) bound connections, header bytes and time, body bytes, request time and connection age.
//! * [`HostMetricsLayer`] measures the host's own routes; probes, metrics and admin are not its traffic.
//!
//! ```no_run
//! # async fn example(services: database_services::DatabaseServices) -> Result<(), Box<dyn std::error::Error>> {
//! use ops_http::{ServeOptions, Server, Token};
//!
//! let token = Token::read_or_create("/run/shop/token".as_ref())?;
//! let options = ServeOptions { token: Some(token), ..ServeOptions::default() };
//! let server = Server::start(services.clone(), options)?;
//! println!("answers at {}", server.url());
//! server.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! Not yet: the weekly endpoints, the console, the OpenAPI document, mTLS, the OTLP exporter and traces, the last
//! errors in `/health/detailed`. Asking for one of their paths is a 404 that says what there is.

mod control;
mod listen;
mod options;
mod server;

mod access;
mod app;
mod problem;
mod router;
mod token;

mod admin;
mod audit;
mod health;
mod metrics;
mod tail;

mod host;
mod process;
mod telemetry;

pub use audit::{AdminEvent, AdminOutcome};
pub use control::Control;
pub use host::{HostMetrics, HostMetricsLayer, Measured};
pub use listen::{BindError, Listen, ListenParseError};
pub use options::{Limits, Reload, RouterOptions, ServeOptions};
pub use problem::Problem;
pub use router::router;
pub use server::{Bound, ServeError, Server};
pub use telemetry::{Telemetry, TelemetryError};
pub use token::{Token, TokenError};
