//! Opening connections: start-up settings, one attempt, and the task that keeps trying while it is wanted.

use crate::{
    config::Config,
    conn::{Conn, Mark, Pooled, identify},
    door::{Cluster, Door},
    error::{ConnectFailure, Error, Problem},
    events::{Events, PoolEvent},
    lease::Connecting,
    pgbouncer::Known,
    pool::Pool,
    slot::Slot,
    sql::Latest,
    stats::Role,
};
use resilience::{Backoff, BackoffConfig};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};
use std::{sync::Arc, time::Duration};
use tokio::runtime::Handle;

/// The address of a pool, with what is set at every start-up, so that no session lacks it.
///
/// Behind PgBouncer nothing is set: it refuses what it does not know, and what it knows it would share.
pub(crate) fn options(url: &SecretString, config: &Config) -> Result<PgConnectOptions, sqlx::Error> {
    if !config.pgbouncer {
        return direct_options(url, config);
    }
    let options: PgConnectOptions = url.expose_secret().parse()?;
    let options = options.extra_float_digits(None).statement_cache_capacity(0);
    Ok(options.application_name(&config.application_name).disable_statement_logging())
}

/// The same for an address with no PgBouncer before it.
pub(crate) fn direct_options(url: &SecretString, config: &Config) -> Result<PgConnectOptions, sqlx::Error> {
    let millis = |d: Duration| d.as_millis().to_string();
    let mut settings = vec![
        ("statement_timeout", millis(config.statement_timeout)),
        ("idle_in_transaction_session_timeout", millis(config.idle_in_transaction_timeout)),
        // A server whose client vanished without a word notices within about half a minute.
        ("tcp_keepalives_idle", "15".to_owned()),
        ("tcp_keepalives_interval", "5".to_owned()),
        ("tcp_keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "30000".to_owned()),
        // The reset after raw use rolls back blindly; its warning would reach the driver's log each time.
        ("client_min_messages", "error".to_owned()),
    ];
    if let Some(interval) = config.connection_check_interval {
        settings.push(("client_connection_check_interval", millis(interval)));
    }
    let options: PgConnectOptions = url.expose_secret().parse()?;
    let options = options.application_name(&config.application_name).options(settings);
    // Statements may hold data; what is worth knowing about them is measured, not logged.
    Ok(options.disable_statement_logging())
}

/// Logs in once, with the credentials of now.
pub(crate) async fn attempt(
    door: &Door,
    host: &str,
    options: &PgConnectOptions,
) -> Result<PgConnection, Error> {
    // Boxed: the driver's log-in is a future of many kilobytes.
    Box::pin(door.enter(host, options, async |options| options.connect().await)).await
}

/// One attempt, all of it within `connect_timeout`.
pub(crate) async fn open(pool: &Pool) -> Result<Pooled, Error> {
    // As of before the server says what it is: its role may change meanwhile.
    let alarm = pool.alarm();
    let attempt = async {
        let mut pg = attempt(&pool.door, &pool.label, &pool.options).await?;
        let (server, backend) = identify(&mut pg, pool.role(), &pool.label, &pool.door.cluster).await?;
        Ok::<_, Error>((pg, server, backend))
    };
    let (limit, started) = (pool.config.connect_timeout, tokio::time::Instant::now());
    let (pg, mut server, backend) = match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result?,
        Err(_) => {
            let text = format!("no answer within {limit:?}");
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, text);
            let (host, failure) = (pool.label.clone(), ConnectFailure::Unreachable);
            return Err(Error::Connect { host, failure, source: Some(source.into()) });
        }
    };
    pool.recorder.created(started.elapsed());
    if pool.config.pgbouncer && pool.role() == Role::Replica {
        // PgBouncer outlives the server behind it: which run of it answers is not known, and no token is satisfied.
        server.started = 0;
    }
    let now = pool.clock.now();
    let lifetime = pool.config.max_lifetime.mul_f64(1.0 - 0.25 * rand::random::<f64>());
    Ok(Box::new(Conn {
        pg,
        mark: Mark::default(),
        server,
        idle_since: now,
        seen: now,
        expires: now + lifetime,
        keepalive_jitter: 0.8 + 0.4 * rand::random::<f64>(),
        alarm,
        statements: 0,
        latest: Latest::default(),
        loans: 0,
        slot: Slot::new(backend),
        known: Known::default(),
    }))
}

/// A pool for one server; opens nothing.
pub(crate) fn new_pool(
    name: &str,
    url: &SecretString,
    role: Role,
    config: &Arc<Config>,
    events: &Events,
    handle: &Handle,
    cluster: &Arc<Cluster>,
) -> Result<Arc<Pool>, Error> {
    let options = options(url, config).map_err(|e| {
        Error::Invalid(vec![Problem { setting: format!("{name}.url"), message: e.to_string() }])
    })?;
    let door = Door::new(url, config.credentials.clone(), cluster);
    Ok(Pool::new(name, role, options, door, Arc::clone(config), events.clone(), handle.clone()))
}

/// Opens the pool's first connection here, so that a wrong setting is an error of `connect`.
pub(crate) async fn first_attempt(pool: &Arc<Pool>) -> Result<(), Error> {
    let Some(place) = pool.reserve() else { return Ok(()) };
    match open(pool).await {
        Ok(conn) => {
            place.succeeded(conn);
            Ok(())
        }
        Err(e) => {
            pool.failed(describe(&e));
            Err(e)
        }
    }
}

/// Tries until it has a connection or nobody wants one any more.
pub(crate) async fn connecting(mut place: Connecting) {
    let mut backoff = Backoff::new(BackoffConfig::default());
    // A full server is left alone for longer: others need the connection that we would take.
    let mut patient = Backoff::new(BackoffConfig {
        base: Duration::from_millis(500),
        max: Duration::from_secs(5),
        ..BackoffConfig::default()
    });
    while place.still_wanted() {
        let pool = Arc::clone(&place.pool);
        let error = tokio::select! {
            () = pool.closing.cancelled() => return,
            opened = open(&pool) => match opened {
                Ok(conn) => return place.succeeded(conn),
                Err(e) => e,
            },
        };
        let failure = match &error {
            Error::Connect { failure, .. } => *failure,
            _ => ConnectFailure::Other,
        };
        let full = failure == ConnectFailure::TooManyConnections;
        let why = describe(&error);
        if pool.door.is_news(failure) {
            pool.events.emit(PoolEvent::ConnectRefused { host: pool.name.clone(), why: why.clone() });
        }
        pool.failed(why);
        if !failure.is_refusal() {
            pool.suspect_all();
        } else if full || pool.counts().in_use > 0 {
            // It lives; it only takes no more.
            pool.answered();
        }
        if pool.role() == Role::Replica {
            // Whoever waits here is better served elsewhere at once.
            pool.dismiss();
        }
        let delay = if full { patient.next_delay() } else { backoff.next_delay() };
        tokio::select! {
            () = pool.closing.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// An error with its sources on one line, for texts that outlive it.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let more = e.to_string();
        // The driver's own texts end with their source's.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = e.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
