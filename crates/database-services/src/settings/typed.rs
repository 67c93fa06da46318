//! The loaded settings: typed, immutable, cheap to clone, redacted when shown.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::load::{self, LoadOptions, Note};
use super::problem::{SettingsErrors, Source};
use super::table::{self, Group, Values};
use super::value::Parsed;
use crate::{Error, ManagerMode, SecurityContext};

/// Loaded and checked settings; the fields of [`Values`] are read through it (`settings.database_pool_size`).
#[derive(Clone)]
pub struct Settings(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) values: Values,
    pub(crate) parsed: BTreeMap<&'static str, Parsed>,
    pub(crate) sources: BTreeMap<&'static str, Source>,
    pub(crate) files: BTreeMap<&'static str, PathBuf>,
    pub(crate) notes: Vec<Note>,
}

impl Deref for Settings {
    type Target = Values;

    fn deref(&self) -> &Values {
        &self.0.values
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.0.parsed.iter().filter(|(key, _)| self.source(key) != Source::Default);
        f.debug_map().entries(given.map(|(key, value)| (key, value.shown()))).finish()
    }
}

impl Settings {
    /// Loads and checks.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(options: &LoadOptions) -> Result<Self, SettingsErrors> {
        load::load(options)
    }

    /// From the environment of this process, with the file and profiles that it names.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_env() -> Result<Self, SettingsErrors> {
        Self::load(&LoadOptions::from_env())
    }

    /// From pairs of name and value, read as if they were the environment.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, SettingsErrors> {
        Self::load(&LoadOptions::new().env(pairs))
    }

    /// Whether unsafe settings are refused.
    pub fn is_production(&self) -> bool {
        self.environment == "production"
    }

    /// Whether the schema is migrated at start: as set, else outside of production.
    pub fn auto_migrate(&self) -> bool {
        self.database_auto_migrate.unwrap_or_else(|| !self.is_production())
    }

    /// TLS to Postgres in libpq's words, from `DATABASE_SSL_MODE`, else `DATABASE_USE_SSL`, else `prefer`.
    pub fn postgres_ssl_mode(&self) -> &str {
        match (&self.database_ssl_mode, self.database_use_ssl) {
            (Some(mode), _) => mode,
            (None, Some(true)) => "require",
            (None, Some(false)) => "disable",
            (None, None) => "prefer",
        }
    }

    /// The mode that `dbsvc serve` runs in.
    pub fn manager_mode(&self) -> ManagerMode {
        self.mode.parse().unwrap_or_default()
    }

    /// Who this process acts as: `SECURITY_AGENT_ID` in `SECURITY_TIER`, for
    /// [`create_database_services`](crate::create_database_services).
    ///
    /// # Errors
    /// The names are of no agent or no tier; loading has refused such settings already.
    pub fn security_context(&self) -> Result<SecurityContext, Error> {
        let refused = |message: String| Error::Component { component: "security", message };
        let tier = self.security_tier.parse().map_err(|error| refused(format!("SECURITY_TIER: {error}")))?;
        SecurityContext::new(&self.security_agent_id, tier)
            .map_err(|error| refused(format!("SECURITY_AGENT_ID: {error}")))
    }

    /// The filter of the log: `LOG_LEVEL` where it is set, else `debug` with `DEBUG`, else `info`.
    pub fn log_filter(&self) -> &str {
        if self.debug && self.source("log_level") == Source::Default { "debug" } else { &self.log_level }
    }

    /// The time-out of a probe: as set, else 2 s, or one and a half intervals where that is less.
    pub fn probe_timeout(&self) -> Duration {
        let usual = Duration::from_secs(2).min(self.health_interval * 3 / 2);
        self.health_timeout.unwrap_or(usual)
    }

    /// What is set without effect, and variables under our shared prefixes that are not ours.
    pub fn notes(&self) -> &[Note] {
        &self.0.notes
    }

    /// Where the value with this file key came from.
    pub fn source(&self, key: &str) -> Source {
        self.0.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// The file that the value with this file key was read from, where it was given as `NAME_FILE`.
    pub fn file_of(&self, key: &str) -> Option<&Path> {
        self.0.files.get(key).map(PathBuf::as_path)
    }

    /// Whether Redis is configured: one server, Sentinels, or a cluster.
    pub fn has_redis(&self) -> bool {
        self.redis_host.is_some() || !self.redis_sentinels.is_empty() || !self.redis_cluster_nodes.is_empty()
    }

    /// Names of the settings that differ, with the part they belong to.
    pub fn changed(&self, other: &Self) -> Vec<(&'static str, Group)> {
        let differs = |d: &&table::Definition| self.value(d.key) != other.value(d.key);
        table::TABLE.iter().filter(differs).map(|d| (d.name, d.group)).collect()
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Parsed> {
        self.0.parsed.get(key)
    }
}
