//! What registering and starting can refuse. A failing probe is no error: it is a status.

use crate::Group;

/// Errors of the health manager.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings; all problems.
    #[error("invalid health settings: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A name is taken.
    #[error("a probe named {0:?} is registered already")]
    Duplicate(String),
    /// A name cannot be used.
    #[error("{0:?} cannot name a probe: use 1 to 64 letters, digits, - _ and .")]
    Name(String),
    /// A group names a probe that does not exist.
    #[error("group {group} names the probe {probe:?}, which does not exist; there are: {known}")]
    MissingProbe {
        /// The group.
        group: Group,
        /// The probe's name.
        probe: String,
        /// The names that exist.
        known: String,
    },
    /// Liveness would depend on something outside the process: an outage there would restart every instance.
    #[error("probe {0:?} looks outside the process and cannot be part of liveness")]
    OutsideLiveness(String),
    /// There is no breaker of that name.
    #[error("there is no breaker named {0:?}; there are: {1}")]
    UnknownBreaker(String, String),
    /// Too many of something.
    #[error("there are {limit} {what} already, which is the limit")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Started outside of a tokio runtime.
    #[error("the health manager is started inside a tokio runtime, and there is none here")]
    NoRuntime,
    /// It was shut down.
    #[error("the health manager is shut down")]
    Shutdown,
}

impl Error {
    /// Never: the same call fails the same way.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Duplicate(_) | Self::Name(_) | Self::MissingProbe { .. } => false,
            Self::OutsideLiveness(_) | Self::UnknownBreaker(..) | Self::TooMany { .. } => false,
            Self::NoRuntime | Self::Shutdown => false,
        }
    }
}
