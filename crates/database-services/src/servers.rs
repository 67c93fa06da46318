//! The Postgres servers that settings name, for tools that ask them without running the services.

use crate::{Error, ManagerMode, Settings, configs, settings::hosts};
use postgres_pool_manager::{Config, ReplicaEndpoint};

/// The pool's configuration of these settings: every server with its address, user and password.
///
/// # Errors
/// A replica's address that cannot be read.
pub fn postgres_config(mode: ManagerMode, settings: &Settings) -> Result<Config, Error> {
    configs::pool(mode, settings)
}

/// A replica written as in the setting `DATABASE_REPLICAS` (`host[:port][*weight]`), with the settings' user, password
/// and TLS; its name is `host:port`.
///
/// # Errors
/// It is of another form.
pub fn postgres_replica(settings: &Settings, item: &str) -> Result<ReplicaEndpoint, Error> {
    let host = hosts::parse(item, settings.database_port).map_err(|()| Error::Component {
        component: "Postgres",
        message: format!("{item:?} is no replica; write host[:port][*weight], the weight from 1 to 1000"),
    })?;
    let url = configs::replica_url(settings, &host.host, host.port)?;
    let weight = i32::try_from(host.weight).unwrap_or(i32::MAX);
    Ok(ReplicaEndpoint::new(format!("{}:{}", host.host, host.port), url, weight))
}
