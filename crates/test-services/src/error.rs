//! Why services for a test could not be had. Read by people in a test's output, so `Debug`, which `unwrap` prints, is the
//! whole story in words.

use std::fmt;

use database_services::settings::SettingsErrors;

/// Why a [`TestServices`](crate::TestServices) could not be started or asked.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server is missing (the message has the line that installs it), did not start or refused something; or the
    /// template could not be prepared.
    #[error(transparent)]
    Servers(#[from] local_stack::Error),
    /// The settings are wrong; all problems.
    #[error(transparent)]
    Settings(#[from] SettingsErrors),
    /// The services could not be started.
    #[error("the services could not be started")]
    Services(#[from] database_services::Error),
    /// A closure of [`template`](crate::Builder::template) failed.
    #[error("the step {step:?} of the template failed: {reason}")]
    Template {
        /// Its name.
        step: String,
        /// What it said.
        reason: String,
    },
    /// What was asked for does not go together.
    #[error("{option}: {reason}")]
    Options {
        /// The method of [`Builder`](crate::Builder).
        option: &'static str,
        /// Why, and what to do.
        reason: &'static str,
    },
}

impl Error {
    /// Whether the same call may succeed later with nothing changed by a person.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Servers(error) => error.is_retryable(),
            Self::Services(error) => error.is_retryable(),
            Self::Settings(_) | Self::Template { .. } | Self::Options { .. } => false,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&told(self))
    }
}

/// An error with everything that caused it, in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // A transparent error says what its source says.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
