//! Opening connections: start-up settings, one attempt, and the task that keeps trying while it is wanted.

use crate::{
    config::Config,
    conn::{Conn, Mark, Pooled, Slot, connect_failure, identify},
    error::{ConnectFailure, Error},
    lease::Connecting,
    pool::Pool,
    stats::Role,
};
use resilience::{Backoff, BackoffConfig};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use std::{sync::Arc, time::Duration};

/// The address with what is set at every start-up, so that no session lacks it.
pub(crate) fn options(url: &SecretString, config: &Config) -> Result<PgConnectOptions, sqlx::Error> {
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

/// One attempt, all of it within `connect_timeout`.
pub(crate) async fn open(pool: &Pool) -> Result<Pooled, Error> {
    let failed = |failure, source| Error::Connect { host: pool.label.clone(), failure, source };
    let attempt = async {
        let connected = pool.options.connect().await;
        let mut pg = connected.map_err(|e| failed(connect_failure(&e), Some(e)))?;
        let server = identify(&mut pg, pool.role, &pool.label).await?;
        Ok::<_, Error>((pg, server))
    };
    let limit = pool.config.connect_timeout;
    let (pg, server) = match tokio::time::timeout(limit, attempt).await {
        Ok(result) => result?,
        Err(_) => {
            let source =
                std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
            return Err(failed(ConnectFailure::Unreachable, Some(source.into())));
        }
    };
    let now = pool.clock.now();
    let lifetime = pool.config.max_lifetime.mul_f64(1.0 - 0.25 * rand::random::<f64>());
    Ok(Box::new(Conn {
        pg,
        mark: Mark::default(),
        server,
        idle_since: now,
        expires: now + lifetime,
        keepalive_jitter: 0.8 + 0.4 * rand::random::<f64>(),
        alarm: 0,
        statements: 0,
        slot: Slot::new(),
    }))
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
        let full = matches!(&error, Error::Connect { failure: ConnectFailure::TooManyConnections, .. });
        pool.failed(describe(&error));
        if full {
            // It lives; it only takes no more.
            pool.answered();
        } else {
            pool.suspect_all();
        }
        if pool.role == Role::Replica {
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
        text.push_str(": ");
        text.push_str(&e.to_string());
        source = e.source();
    }
    text
}
