//! Asks every component whether it would take its part of the settings, and names the setting that it refuses. Opens
//! nothing. The settings' table has the same bounds; this is what holds should a component's change.

use access_control::SecurityContext;

use super::{cache, coordination, health, locks, pool, redis};
use crate::settings::{Problem, Settings, SettingsErrors, Source, TABLE};
use crate::{Error, ManagerMode};

/// A component's field, and the file key of the setting that fills it.
type Fields = &'static [(&'static str, &'static str)];

const POOL: Fields = &[
    ("primary.url", "database_host"),
    ("size", "database_pool_size"),
    ("max_overflow", "database_max_overflow"),
    ("min_idle", "database_min_idle"),
    ("acquire_timeout", "database_acquire_timeout"),
    ("statement_timeout", "database_statement_timeout"),
    ("idle_timeout", "database_idle_timeout"),
    ("max_lifetime", "database_max_lifetime"),
    ("schema", "database_schema"),
    ("direct", "database_direct_url"),
    ("direct.url", "database_direct_url"),
    ("pgbouncer", "database_pgbouncer"),
    ("fleet_budget", "database_max_connections"),
];
const LINK: Fields = &[
    ("namespace", "redis_namespace"),
    ("topology", "redis_host"),
    ("username", "redis_username"),
    ("database", "redis_database"),
    ("tls", "redis_ssl_cert_path"),
    ("pool_size", "redis_pool_min_size"),
    ("connect_timeout", "redis_connection_timeout"),
    ("command_timeout", "redis_socket_timeout"),
];
/// What the second link has of its own; the rest it shares with the first.
const COORDINATION: Fields =
    &[("topology", "redis_coordination_url"), ("username", "redis_coordination_url")];
const CACHE: Fields = &[
    ("l1_entries", "cache_l1_size"),
    ("ttl", "cache_ttl"),
    ("l2_ttl", "cache_l2_ttl"),
    ("stale_for", "cache_stale_for"),
    ("disconnected_max_age", "cache_disconnected_max_age"),
    ("max_value", "cache_max_value_size"),
];
const LOCKS: Fields = &[("default_lease", "lock_default_lease")];

/// Whether every component would take these settings.
pub(crate) fn check(mode: ManagerMode, settings: &Settings) -> Result<(), Error> {
    let problems = problems(mode, settings);
    if problems.is_empty() { Ok(()) } else { Err(SettingsErrors { problems }.into()) }
}

/// Everything that a component refuses.
pub(crate) fn problems(mode: ManagerMode, settings: &Settings) -> Vec<Problem> {
    let mut found = Found { settings, problems: Vec::new() };
    match pool(mode, settings) {
        Ok(config) => {
            for problem in config.validate().err().unwrap_or_default() {
                let replica = problem.setting.starts_with("replicas");
                let field = if replica { "database_replicas" } else { key(POOL, &problem.setting) };
                found.add("the Postgres pool", field, &problem.message);
            }
        }
        Err(error) => found.add("the Postgres pool", "database_host", &error.to_string()),
    }
    for (config, own, at) in [
        (redis(settings), LINK, "redis_host"),
        (coordination(settings), COORDINATION, "redis_coordination_url"),
    ] {
        match config {
            Ok(Some(config)) => {
                for problem in config.validate().err().unwrap_or_default() {
                    let shared = own.iter().chain(LINK).find(|(field, _)| *field == problem.setting);
                    let field = shared.map_or(problem.setting, |(_, key)| *key);
                    found.add("the Redis link", field, &problem.message);
                }
            }
            Ok(None) => {}
            Err(error) => found.add("the Redis link", at, &error.to_string()),
        }
    }
    for problem in cache(mode, settings).validate().err().unwrap_or_default() {
        found.add("the cache", key(CACHE, problem.setting), &problem.message);
    }
    for problem in locks(settings).validate().err().unwrap_or_default() {
        found.add("the lock manager", key(LOCKS, problem.setting), &problem.message);
    }
    for message in health(settings).validate().err().unwrap_or_default() {
        let field = if message.starts_with("timeout") { "health_timeout" } else { "health_interval" };
        found.add("health", field, &message);
    }
    let tier = settings.security_tier.parse().unwrap_or_default();
    if let Err(error) = SecurityContext::new(&settings.security_agent_id, tier) {
        found.add("security", "security_agent_id", &error.to_string());
    }
    found.problems
}

fn key(fields: Fields, field: &str) -> &str {
    fields.iter().find(|(name, _)| *name == field).map_or(field, |(_, key)| *key)
}

struct Found<'s> {
    settings: &'s Settings,
    problems: Vec<Problem>,
}

impl Found<'_> {
    /// One problem a setting; a field that no setting fills is told by its own name.
    fn add(&mut self, component: &str, key: &str, message: &str) {
        let definition = TABLE.iter().find(|definition| definition.key == key);
        let setting = definition.map_or_else(|| format!("{component}: {key}"), |d| d.name.to_owned());
        if self.problems.iter().any(|known| known.setting == setting) {
            return;
        }
        let source = definition.map_or(Source::Combination, |d| self.settings.source(d.key));
        let message = format!("{component} refuses it ({message})");
        self.problems.push(Problem { setting, source, message, mend: "correct it".to_owned() });
    }
}

#[cfg(test)]
mod tests;
