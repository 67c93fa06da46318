//! The images that servers are run from by [`Provider::Containers`](crate::Provider::Containers): names only, for
//! every build. Not here: running them (`containers`).

use std::path::Path;

/// Image names as the engine takes them: `postgres:17`, `registry.example:5000/redis:7.4`, `redis@sha256:…`.
///
/// An image serves if its programs are on its `PATH` and it has `/bin/sh`, as the official ones; its entry point and
/// user are not used. Only the images of servers that a stack has are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// With `postgres` and `initdb`. `LOCAL_STACK_POSTGRES_IMAGE`, default `postgres:17`.
    pub postgres: String,
    /// With `redis-server`. `LOCAL_STACK_REDIS_IMAGE`, default `redis:7.4`.
    pub redis: String,
    /// With `pgbouncer`. `LOCAL_STACK_PGBOUNCER_IMAGE`, default `edoburu/pgbouncer:v1.24.1-p1`: there is no official one.
    pub pgbouncer: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            postgres: "postgres:17".into(),
            redis: "redis:7.4".into(),
            pgbouncer: "edoburu/pgbouncer:v1.24.1-p1".into(),
        }
    }
}

impl Images {
    /// The default, with what the environment names instead.
    pub fn from_env() -> Self {
        let default = Self::default();
        let named =
            |value: Result<String, _>, other| value.ok().filter(|name| !name.is_empty()).unwrap_or(other);
        Self {
            postgres: named(std::env::var("LOCAL_STACK_POSTGRES_IMAGE"), default.postgres),
            redis: named(std::env::var("LOCAL_STACK_REDIS_IMAGE"), default.redis),
            pgbouncer: named(std::env::var("LOCAL_STACK_PGBOUNCER_IMAGE"), default.pgbouncer),
        }
    }

    /// The image that has this program, and the variable that names it.
    #[cfg_attr(
        not(all(feature = "containers", target_os = "linux")),
        expect(dead_code, reason = "asked only where containers are run")
    )]
    pub(crate) fn of(&self, program: &Path) -> (&str, &'static str) {
        match program.file_name().and_then(|name| name.to_str()) {
            Some("pgbouncer") => (&self.pgbouncer, "LOCAL_STACK_PGBOUNCER_IMAGE"),
            Some("redis-server" | "redis-cli") => (&self.redis, "LOCAL_STACK_REDIS_IMAGE"),
            _ => (&self.postgres, "LOCAL_STACK_POSTGRES_IMAGE"),
        }
    }
}
