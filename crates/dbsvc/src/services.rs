//! Why services did not come up, as an exit code: wrong settings, a server that is not there, or something else.

use database_services::{DatabaseServices, Error, ManagerMode, Settings, create_database_services};

use crate::exit::{Exit, Failed};

/// Services of these settings, acting as the settings say; nothing is opened yet.
pub(crate) fn create(mode: ManagerMode, settings: Settings) -> Result<DatabaseServices, Failed> {
    let context = settings.security_context().map_err(|error| Failed::usage(error.to_string()))?;
    create_database_services(mode, settings, context).map_err(|error| failed(&error))
}

/// The error with its exit code; causes that its sentence does not tell are appended.
pub(crate) fn failed(error: &Error) -> Failed {
    Failed::new(exit_of(error), anyhow::anyhow!("{}", told(error)))
}

fn exit_of(error: &Error) -> Exit {
    match error {
        // What waiting may mend is a server that is not there; what it may not is a setting (password, name, right).
        Error::Postgres { source, .. } => {
            if source.is_retryable() {
                Exit::Unreachable
            } else {
                Exit::Usage
            }
        }
        Error::Redis { source, .. } => {
            if source.is_retryable() {
                Exit::Unreachable
            } else {
                Exit::Usage
            }
        }
        Error::Migrate { source, .. } => {
            if source.is_retryable() {
                Exit::Unreachable
            } else {
                Exit::Failure
            }
        }
        Error::Settings(_) | Error::Component { .. } => Exit::Usage,
        Error::Timeout { .. } => Exit::Unreachable,
        _ => Exit::Failure,
    }
}

/// The error and its causes, without those that its own sentence repeats.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
