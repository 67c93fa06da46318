//! Starting a Postgres primary with streaming replicas.
//!
//! A replica starts from a copy of the primary's data directory taken before the primary's first start: such a copy
//! is a complete base backup, so `pg_basebackup` and its checkpoint are not needed and a replica costs what copying
//! forty megabytes costs. The data directory itself comes from a cache of `initdb`'s result.

mod synchronous;
mod tls;

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::authority::Authority;
use crate::directory::{self, Directory};
use crate::error::Error;
use crate::find::PostgresBinaries;
use crate::launch::{Blueprint, launch, left, password};
use crate::launcher::Job;
use crate::options::{Auth, PostgresOptions, TlsOptions};
use crate::server::{Kind, Server};

/// The Postgres servers of a stack.
#[derive(Debug, Clone)]
pub struct Postgres {
    primary: Server,
    replicas: Vec<Server>,
    pgbouncer: Option<Server>,
}

impl Postgres {
    pub(crate) fn of(primary: Server, replicas: Vec<Server>) -> Self {
        Self { primary, replicas, pgbouncer: None }
    }

    /// The server that was started as primary, whatever became of it since.
    pub fn primary(&self) -> &Server {
        &self.primary
    }

    /// The servers that were started as replicas.
    pub fn replicas(&self) -> &[Server] {
        &self.replicas
    }

    /// PgBouncer before the primary.
    ///
    /// # Panics
    /// If the stack was built without it.
    #[track_caller]
    pub fn pgbouncer(&self) -> &Server {
        match self.try_pgbouncer() {
            Ok(pgbouncer) => pgbouncer,
            Err(error) => panic!("{error}"),
        }
    }

    /// PgBouncer before the primary, or [`Error::NoSuchPart`].
    pub fn try_pgbouncer(&self) -> Result<&Server, Error> {
        self.pgbouncer.as_ref().ok_or_else(|| Error::NoSuchPart { part: "PgBouncer".into() })
    }

    pub(crate) fn behind(mut self, pgbouncer: Server) -> Self {
        self.pgbouncer = Some(pgbouncer);
        self
    }

    /// All that hold data, the primary first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    /// Waits until every replica that runs and is not paused has replayed what the primary has written so far.
    /// Blocks. [`Error::Waited`] names the replica that did not.
    pub fn wait_replicas_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let reachable: Vec<&Server> =
            self.replicas.iter().filter(|replica| replica.is_running() && !replica.is_paused()).collect();
        if reachable.is_empty() {
            return Ok(());
        }
        let rows = self.primary.sql_blocking("postgres", "select pg_current_wal_lsn()")?;
        let Some(target) = rows.into_iter().flatten().flatten().next() else { return Ok(()) };
        let question = format!(
            "select not pg_is_in_recovery() or coalesce(pg_last_wal_replay_lsn() >= '{target}'::pg_lsn, false)"
        );
        for replica in reachable {
            while replica.sql_blocking("postgres", &question)? != [[Some("t".to_owned())]] {
                let waited = start.elapsed();
                if waited > within {
                    return Err(Error::Waited {
                        what: format!("{} has replayed up to {target}", replica.name()),
                        waited,
                    });
                }
                crate::pause(Duration::from_millis(3));
            }
        }
        Ok(())
    }

    pub(crate) fn replica(&self, index: usize) -> Result<&Server, Error> {
        self.replicas
            .get(index)
            .ok_or_else(|| Error::NoSuchPart { part: format!("Postgres replica {index}") })
    }
}

#[cfg(feature = "async")]
impl Postgres {
    /// Promotes a replica and waits until it can be written; see [`Server::promote`]. Dropped, it still runs to its
    /// end.
    pub async fn promote(&self, replica: usize) -> Result<(), Error> {
        self.replica(replica)?.promote().await
    }

    /// [`wait_replicas_blocking`](Self::wait_replicas_blocking) off the runtime's threads.
    pub async fn wait_replicas(&self, within: Duration) -> Result<(), Error> {
        let postgres = self.clone();
        crate::unblock("wait_replicas", move || postgres.wait_replicas_blocking(within)).await
    }
}

/// Starts the primary and its replicas.
pub(crate) fn start(
    directory: &Directory,
    binaries: &PostgresBinaries,
    options: &PostgresOptions,
    authority: Option<&Authority>,
    until: Instant,
) -> Result<Postgres, Error> {
    if options.synchronous && options.replicas == 0 {
        let reason = "a commit can wait for replicas only; ask for one at least".into();
        return Err(Error::Setting { name: "synchronous".into(), reason });
    }
    let starter = Starter {
        directory,
        binaries,
        options,
        tls: options.tls.as_ref().zip(authority),
        until,
        password: match options.auth {
            Auth::Trust => options.password.clone(),
            Auth::Password | Auth::Scram => Some(options.password.clone().unwrap_or_else(password)),
        },
    };
    let home = starter.prepare()?;
    let homes = (1..=options.replicas)
        .map(|index| {
            let copy = directory.make(&format!("postgres-{index}"))?;
            directory.copy_tree(&home, &copy)?;
            Ok(copy)
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let primary = starter.launch("postgres-0", &home, None)?;
    if let Some(password) = &starter.password {
        let quoted = password.replace('\'', "''");
        // No replica is there yet that a synchronous commit could wait for.
        let sql = format!("set synchronous_commit = local; alter role postgres password '{quoted}'");
        let set = primary.sql_blocking("postgres", &sql);
        set.map_err(|error| error.without_request("alter role postgres password …"))?;
    }
    let replicas = std::thread::scope(|scope| {
        let (starter, primary) = (&starter, &primary);
        let starts: Vec<_> = homes
            .iter()
            .enumerate()
            .map(|(index, home)| {
                scope.spawn(move || starter.launch(&format!("postgres-{}", index + 1), home, Some(primary)))
            })
            .collect();
        starts.into_iter().map(joined).collect::<Result<Vec<_>, Error>>()
    })?;
    let postgres = Postgres::of(primary, replicas);
    // The password, too, has to have arrived before anyone logs in at a replica.
    postgres.wait_replicas_blocking(left(until).max(Duration::from_secs(1)))?;
    if options.synchronous {
        postgres.wait_synchronous_blocking(left(until).max(Duration::from_secs(1)))?;
    }
    Ok(postgres)
}

/// Takes a thread's result; a panic there is a panic here.
pub(crate) fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Where a replica finds its primary: the trusted socket of our own, TCP and password otherwise.
pub(crate) fn conninfo(primary: &Server, name: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let (host, password) = match primary.socket().and_then(Path::parent) {
        Some(directory) => (directory.to_string_lossy().into_owned(), None),
        None => (primary.host().to_owned(), primary.password()),
    };
    let password = password.map(|password| format!(" password={}", quoted(password))).unwrap_or_default();
    let user = quoted(primary.user().unwrap_or("postgres"));
    format!(
        "host={} port={} user={user}{password} application_name={}",
        quoted(&host),
        primary.port(),
        quoted(name)
    )
}

struct Starter<'a> {
    directory: &'a Directory,
    binaries: &'a PostgresBinaries,
    options: &'a PostgresOptions,
    tls: Option<(&'a TlsOptions, &'a Authority)>,
    until: Instant,
    password: Option<String>,
}

impl Starter<'_> {
    /// The primary's data directory, copied from the cache or made by `initdb` (and then put into the cache).
    fn prepare(&self) -> Result<PathBuf, Error> {
        let home = self.directory.make("postgres-0")?;
        let cached = if self.options.own_identity { None } else { directory::cache() };
        let cached = cached.map(|cache| cache.join(self.fingerprint()));
        if let Some(cached) = cached.as_ref().filter(|cached| cached.join("global/pg_control").is_file()) {
            self.directory.copy_tree(cached, &home)?;
            return Ok(home);
        }
        self.initdb(&home)?;
        if let Some(cached) = cached {
            // A cache that cannot be written costs a second at the next start, nothing else.
            let _ = publish(&home, cached);
        }
        Ok(home)
    }

    // The version alone would not tell two builds apart that lay out their files differently.
    fn fingerprint(&self) -> String {
        let mut hash = DefaultHasher::new();
        let binary = self.binaries.directory.join("postgres");
        binary.hash(&mut hash);
        if let Ok(data) = fs::metadata(&binary) {
            (data.len(), data.modified().ok()).hash(&mut hash);
        }
        format!("postgres-{}-{:016x}", self.binaries.version, hash.finish())
    }

    fn initdb(&self, home: &Path) -> Result<(), Error> {
        let initdb = self.binaries.directory.join("initdb");
        let log = self.directory.log("initdb");
        let arguments =
            ["-D", ".", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"];
        let arguments = arguments.map(str::to_owned);
        let account = self.directory.account();
        self.directory.launcher().run(Job {
            program: &initdb,
            arguments: &arguments,
            home,
            log: &log,
            account,
        })
    }

    fn launch(&self, name: &str, home: &Path, primary: Option<&Server>) -> Result<Server, Error> {
        self.directory.write(&home.join("pg_hba.conf"), &self.access_rules())?;
        let base = home.join("postgresql.conf");
        let shipped = fs::read_to_string(&base).map_err(Error::file("read", &base))?;
        if primary.is_some() {
            self.directory.write(&home.join("standby.signal"), "")?;
        }
        let tls = self.tls_settings(name)?;
        let server = launch(self.directory, name, Kind::Postgres, self.until, |port| {
            let follows = primary.map(|primary| conninfo(primary, name));
            let mut more = tls.clone();
            if primary.is_none() {
                more.extend(self.synchronous_settings());
            }
            let settings = self.settings(port, home, follows, &more);
            self.directory.write(&base, &format!("{shipped}\n{settings}"))?;
            Ok(Blueprint {
                program: self.binaries.directory.join("postgres"),
                arguments: vec!["-D".into(), home.to_string_lossy().into_owned()],
                home: home.to_owned(),
                socket: home.join(format!(".s.PGSQL.{port}")),
                address: Address {
                    scheme: "postgres".into(),
                    user: Some("postgres".into()),
                    password: self.password.clone(),
                    host: "127.0.0.1".into(),
                    port,
                    path: "postgres".into(),
                    query: self.url_query(),
                },
                redis: None,
            })
        })?;
        Ok(server.secured(self.tls.map(|(_, authority)| authority)))
    }

    fn access_rules(&self) -> String {
        let method = self.options.auth.method();
        let (host, certificate) = self.host_rule();
        format!(
            "local all,replication all trust\n\
             {host} all,replication all 127.0.0.1/32 {method}{certificate}\n"
        )
    }

    fn settings(
        &self,
        port: u16,
        home: &Path,
        follows: Option<String>,
        more: &[(&'static str, String)],
    ) -> String {
        let home = home.to_string_lossy();
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", "127.0.0.1".into()),
            ("port", port.to_string()),
            ("unix_socket_directories", format!("\"{home}\"")),
            ("unix_socket_permissions", "0700".into()),
            ("max_connections", self.options.max_connections.to_string()),
            // Enough for a replica that is paused for a while; slots would keep everything.
            ("wal_keep_size", "256MB".into()),
            // How soon a replica looks again for a primary that was away; 5 s is for real networks.
            ("wal_retrieve_retry_interval", "100ms".into()),
            // Below the data directory, so that it goes away with it; the default leaves files in /dev/shm at a kill.
            ("dynamic_shared_memory_type", "mmap".into()),
            ("logging_collector", "off".into()),
            ("log_destination", "stderr".into()),
            ("log_line_prefix", "%m [%p] %q%a ".into()),
            ("timezone", "UTC".into()),
            ("log_timezone", "UTC".into()),
        ];
        if !self.options.durable {
            // The default lets a gigabyte of log pile up, which may be memory here.
            let quick = [("fsync", "off"), ("full_page_writes", "off"), ("max_wal_size", "512MB")];
            settings.extend(quick.map(|(name, value)| (name, value.to_owned())));
        }
        settings.extend_from_slice(more);
        settings.extend(follows.map(|target| ("primary_conninfo", target)));
        settings.extend(self.options.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let line = |(name, value): &(&str, String)| {
            format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
        };
        settings.iter().map(line).collect()
    }
}

/// Puts a copy into the cache: under a name of its own, then renamed, so that another process sees all of it or
/// nothing. If one was faster, its copy stays.
fn publish(home: &Path, cached: PathBuf) -> Result<(), Error> {
    const UNFINISHED: &str = "unfinished-";
    let Some(cache) = cached.parent() else { return Ok(()) };
    for entry in fs::read_dir(cache).map_err(Error::file("read", cache))?.flatten() {
        let old = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(60 * 60)));
        if old && entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(cache);
    let unfinished = unfinished.map_err(Error::file("create a directory in", cache))?;
    let copy = unfinished.path().join("data");
    directory::copy_tree(home, &copy, None)?;
    // Unlike our servers' data the cache outlives a crash of the machine, which must not leave half of it. Nobody
    // waits for the disk: if we end first, the next start does all this again.
    let finish = move || {
        if is_on_disk(&copy) {
            let _ = fs::rename(&copy, &cached);
        }
        drop(unfinished);
    };
    let _ = std::thread::Builder::new().name("local-stack-cache".into()).spawn(finish);
    Ok(())
}

#[cfg(target_os = "linux")]
fn is_on_disk(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| rustix::fs::syncfs(file).is_ok())
}

// Where there are no servers of our own there is nothing to cache.
#[cfg(not(target_os = "linux"))]
fn is_on_disk(_path: &Path) -> bool {
    false
}
