//! What bringing the parts up, down or over to new settings can fail with; each variant names the phase.

use std::time::Duration;

use crate::settings::SettingsErrors;

/// Errors of the composition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings are wrong; all problems.
    #[error(transparent)]
    Settings(#[from] SettingsErrors),
    /// The settings passed their own checks, and a component refused them.
    #[error("{component} refuses its settings: {message}")]
    Component {
        /// Which.
        component: &'static str,
        /// Every problem.
        message: String,
    },
    /// Postgres could not be used.
    #[error("Postgres at {host} cannot be used; {mend}")]
    Postgres {
        /// Where it was looked for.
        host: String,
        /// What to do.
        mend: &'static str,
        /// What the pool says.
        source: Box<postgres_pool_manager::Error>,
    },
    /// Our tables are missing or older than this version needs.
    #[error(
        "schema {schema} lacks {missing} migrations; run `dbsvc migrate` (or set DATABASE_AUTO_MIGRATE=true)"
    )]
    SchemaMissing {
        /// The schema.
        schema: String,
        /// How many migrations have not been run.
        missing: usize,
    },
    /// Migrating failed.
    #[error("migrating schema {schema} failed")]
    Migrate {
        /// The schema.
        schema: String,
        /// What the migrator says.
        source: Box<postgres_pool_manager::Error>,
    },
    /// Redis refuses us in a way that waiting does not mend (credentials, rights, role, version, TLS).
    #[error("Redis at {endpoint} cannot be used; {mend}")]
    Redis {
        /// Where it was looked for.
        endpoint: String,
        /// What to do.
        mend: &'static str,
        /// What the link says.
        source: Box<redis_link::Error>,
    },
    /// A component could not be built.
    #[error("{component} could not be started")]
    Start {
        /// Which.
        component: &'static str,
        /// What it says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A component of the new settings did not pass its health check.
    #[error("{component} is not healthy: {reason}")]
    Unhealthy {
        /// Which.
        component: &'static str,
        /// Why.
        reason: String,
    },
    /// Called before [`initialize`](crate::DatabaseServices::initialize).
    #[error("the services are not initialized: call initialize() first")]
    NotInitialized,
    /// Called outside of a tokio runtime.
    #[error("database services run inside a tokio runtime, and there is none here")]
    NoRuntime,
    /// It did not end in time.
    #[error("{operation} did not end within {after:?}")]
    Timeout {
        /// What.
        operation: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Shut down.
    #[error("the services are shut down")]
    Shutdown,
}

impl Error {
    /// Whether the same call may succeed later without a change of settings.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Postgres { source, .. } | Self::Migrate { source, .. } => source.is_retryable(),
            Self::Redis { source, .. } => source.is_retryable(),
            Self::Unhealthy { .. } | Self::Timeout { .. } => true,
            Self::Settings(_) | Self::Component { .. } | Self::SchemaMissing { .. } | Self::Start { .. } => {
                false
            }
            Self::NotInitialized | Self::NoRuntime | Self::Shutdown => false,
        }
    }
}

/// New settings were not taken over; the old ones are in force as before.
#[derive(Debug, thiserror::Error)]
#[error("the settings in force are kept: {}", told(&**.cause))]
#[non_exhaustive]
pub struct ReconfigureError {
    /// Settings that would have changed.
    pub changed: Vec<&'static str>,
    /// Why not; told in full by `Display`, so that it is no `source`.
    pub cause: Box<Error>,
}

impl ReconfigureError {
    /// As [`Error::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.cause.is_retryable()
    }
}

/// An error with its causes, in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
