//! The shared instances: one per mode and runtime, found by `get_database_services`, held weakly.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};

use crate::services::Inner;
use crate::settings::Settings;
use crate::{DatabaseServices, Error, ManagerMode, ServiceState, create_database_services};

type Instances = HashMap<(ManagerMode, Id), Weak<Inner>>;

static INSTANCES: LazyLock<Mutex<Instances>> = LazyLock::new(Mutex::default);

/// The services of `mode` that this process shares, initialized, from the settings in the environment.
///
/// They live as long as somebody holds them; one that was shut down, or whose runtime is another, is not handed out
/// again: a fresh one takes its place. Concurrent first calls wait for one initialization.
///
/// Cancel safety: as [`DatabaseServices::initialize`].
///
/// # Errors
/// The settings, or a part that does not come up; the next call tries again.
pub async fn get_database_services(mode: ManagerMode) -> Result<DatabaseServices, Error> {
    let services = instance(mode, Settings::from_env)?;
    services.initialize().await?;
    Ok(services)
}

pub(crate) fn instance(
    mode: ManagerMode,
    settings: impl FnOnce() -> Result<Settings, crate::settings::SettingsErrors>,
) -> Result<DatabaseServices, Error> {
    let runtime = Handle::try_current().map_err(|_outside| Error::NoRuntime)?.id();
    let mut instances = INSTANCES.lock();
    instances.retain(|_, inner| inner.strong_count() > 0);
    let known =
        instances.get(&(mode, runtime)).and_then(Weak::upgrade).map(|inner| DatabaseServices { inner });
    if let Some(services) = known
        && !matches!(services.state(), ServiceState::Stopping | ServiceState::Stopped)
    {
        return Ok(services);
    }
    let settings = settings()?;
    let context = settings.security_context()?;
    let services = create_database_services(mode, settings, context)?;
    instances.insert((mode, runtime), Arc::downgrade(&services.inner));
    Ok(services)
}

#[cfg(test)]
mod tests;
