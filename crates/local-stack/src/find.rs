//! Finding the servers' binaries: what the environment names, then `PATH`, then where Debian keeps them.
//! Not here: installing them (`install`).

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::install::install_line;

/// Where Debian keeps each major version's binaries; only `psql` and the like are on its `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Other places that are often not on a service's `PATH`.
const ELSEWHERE: [&str; 5] =
    ["/usr/pgsql-18/bin", "/usr/pgsql-17/bin", "/usr/pgsql-16/bin", "/opt/homebrew/bin", "/usr/local/bin"];

/// The binaries of both servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    /// Postgres.
    pub postgres: PostgresBinaries,
    /// Redis.
    pub redis: RedisBinary,
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (postgres, redis) = (&self.postgres, &self.redis);
        write!(f, "Postgres {} in {}, ", postgres.version, postgres.directory.display())?;
        write!(f, "Redis {} at {}", redis.version, redis.server.display())
    }
}

/// A Postgres installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresBinaries {
    /// The directory of `postgres` and `initdb`.
    pub directory: PathBuf,
    /// Such as `15.13`.
    pub version: String,
}

/// A Redis (or Valkey) server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisBinary {
    /// The server's binary.
    pub server: PathBuf,
    /// Such as `7.0.15`.
    pub version: String,
}

/// PgBouncer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgBouncerBinary {
    /// Its binary.
    pub server: PathBuf,
    /// Such as `1.18.0`.
    pub version: String,
}

impl RedisBinary {
    /// The first number of its version.
    pub(crate) fn major(&self) -> u32 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default()
    }
}

/// What [`find_servers`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Both.
    All(Servers),
    /// At least one is missing.
    Missing {
        /// The missing ones, such as `postgres` or `redis-server`.
        what: Vec<&'static str>,
        /// The one line that installs them on this machine.
        install_line: String,
    },
}

/// Looks for both servers. A wrong `LOCAL_STACK_*` override is an error rather than "missing".
pub fn find_servers() -> Result<Found, Error> {
    let (postgres, redis) = (found(find_postgres())?, found(find_redis())?);
    let mut what = Vec::new();
    if postgres.is_none() {
        what.push("postgres");
    }
    if redis.is_none() {
        what.push("redis-server");
    }
    Ok(match (postgres, redis) {
        (Some(postgres), Some(redis)) => Found::All(Servers { postgres, redis }),
        _ => Found::Missing { install_line: install_line(&what), what },
    })
}

fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Finds Postgres: `LOCAL_STACK_POSTGRES_BIN_DIR`, else on `PATH`, else the newest of Debian's directories.
pub fn find_postgres() -> Result<PostgresBinaries, Error> {
    const OVERRIDE: &str = "LOCAL_STACK_POSTGRES_BIN_DIR";
    if let Some(directory) = std::env::var_os(OVERRIDE).map(PathBuf::from) {
        return match complete(&directory) {
            true => Ok(PostgresBinaries { version: version(&directory.join("postgres"))?, directory }),
            false => Err(Error::Setting {
                name: OVERRIDE.into(),
                reason: format!("`{}` holds no `postgres` and `initdb`", directory.display()),
            }),
        };
    }
    let mut candidates = debian_directories();
    candidates.extend(
        on_path("postgres").and_then(|binary| Some(binary.canonicalize().ok()?.parent()?.to_owned())),
    );
    candidates.extend(ELSEWHERE.map(PathBuf::from));
    match candidates.into_iter().find(|directory| complete(directory)) {
        Some(directory) => Ok(PostgresBinaries { version: version(&directory.join("postgres"))?, directory }),
        None => Err(Error::Missing {
            what: "Postgres (postgres, initdb)".into(),
            looked_in: format!("{OVERRIDE}, PATH, {DEBIAN}/*/bin"),
            install_line: install_line(&["postgres"]),
        }),
    }
}

/// Finds Redis: `LOCAL_STACK_REDIS_SERVER`, else `redis-server` or `valkey-server` on `PATH`.
pub fn find_redis() -> Result<RedisBinary, Error> {
    let names = ["redis-server", "valkey-server"];
    let server = program("LOCAL_STACK_REDIS_SERVER", &names, "Redis (redis-server)", "redis-server")?;
    Ok(RedisBinary { version: version(&server)?, server })
}

/// Finds PgBouncer, which only a stack with [`PostgresOptions::pgbouncer`](crate::PostgresOptions::pgbouncer) needs:
/// `LOCAL_STACK_PGBOUNCER`, else `pgbouncer` on `PATH`.
pub fn find_pgbouncer() -> Result<PgBouncerBinary, Error> {
    let server = program("LOCAL_STACK_PGBOUNCER", &["pgbouncer"], "PgBouncer (pgbouncer)", "pgbouncer")?;
    Ok(PgBouncerBinary { version: version(&server)?, server })
}

/// What a variable names, or the first of these names that is on `PATH`.
fn program(variable: &str, names: &[&str], what: &str, package: &str) -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os(variable).map(PathBuf::from) {
        return match is_program(&named) {
            true => Ok(named),
            false => Err(Error::Setting {
                name: variable.into(),
                reason: format!("`{}` is no program", named.display()),
            }),
        };
    }
    names.iter().find_map(on_path).ok_or_else(|| Error::Missing {
        what: what.into(),
        looked_in: format!("{variable}, PATH"),
        install_line: install_line(&[package]),
    })
}

/// A program by name on `PATH`, or in the system's directories that a user's `PATH` may lack.
pub(crate) fn on_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"].map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name.as_ref()))
        .find(|program| is_program(program))
}

// Newest major first, compared as numbers: 9.6 < 15.
fn debian_directories() -> Vec<PathBuf> {
    let entries = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut majors: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.split('.').next()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    majors.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    majors.into_iter().map(|(_, directory)| directory).collect()
}

fn complete(directory: &Path) -> bool {
    is_program(&directory.join("postgres")) && is_program(&directory.join("initdb"))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

// "postgres (PostgreSQL) 15.13 (Debian …)", "Redis server v=7.0.15 sha=…": the first word that starts as a number.
fn version(program: &Path) -> Result<String, Error> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|source| Error::Spawn { program: program.into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match first_version(&text) {
        Some(version) if output.status.success() => Ok(version),
        _ => Err(Error::Program {
            program: format!("{} --version", program.display()),
            status: output.status.to_string(),
            stderr: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
        }),
    }
}

fn first_version(text: &str) -> Option<String> {
    text.split_ascii_whitespace()
        .map(|word| word.trim_start_matches("v="))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_servers_print_them() {
        let postgres = "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)";
        assert_eq!(first_version(postgres).as_deref(), Some("15.13"));
        assert_eq!(first_version("PgBouncer 1.18.0\nlibevent 2.1.12-stable\n").as_deref(), Some("1.18.0"));
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64";
        assert_eq!(first_version(redis).as_deref(), Some("7.0.15"));
        assert_eq!(first_version("nothing here"), None);
    }
}
