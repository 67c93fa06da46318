//! A database of its own for every test, cloned from a template that is prepared once per stack; and names that keep
//! tests apart in one Redis.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::pgwire::Row;
use crate::server::Server;
use crate::stack::Stack;

/// The template without preparation. It is never connected to, so cloning it waits for nobody.
const EMPTY: &str = "template0";
/// The name of the template that [`Stack::database`] clones, where there is SQL for it.
const DEFAULT: &str = "default";
/// How long a clone may take to arrive at the replicas.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Drops that may wait for the janitor; further ones are left to the end of the stack.
const PENDING_DROPS: usize = 256;

/// A database of one test. It is dropped in the background together with this handle, whoever is still connected;
/// it also keeps the stack alive.
#[must_use = "the database is dropped together with this handle"]
pub struct Database {
    stack: Stack,
    name: String,
    kept: bool,
}

impl Database {
    /// Its URL on the primary, as superuser.
    pub fn url(&self) -> String {
        self.primary().url_for(&self.name)
    }

    /// Its URL on a replica. [`Error::NoSuchPart`] if there is none of this number.
    pub fn replica_url(&self, replica: usize) -> Result<String, Error> {
        Ok(self.stack.try_postgres()?.replica(replica)?.url_for(&self.name))
    }

    /// Its URL on the primary with host and port replaced, for a proxy in front of the primary.
    pub fn url_via(&self, address: std::net::SocketAddr) -> String {
        via(&self.url(), address)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The primary that it is on.
    pub fn primary(&self) -> &Server {
        self.stack.postgres().primary()
    }

    /// The stack that it is on.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Runs SQL in it as superuser; the rows as text. Blocks.
    pub fn sql_blocking(&self, sql: &str) -> Result<Vec<Row>, Error> {
        self.primary().sql_blocking(&self.name, sql)
    }

    /// [`sql_blocking`](Self::sql_blocking) off the runtime's threads. Dropped, it still runs to its end.
    #[cfg(feature = "async")]
    pub async fn sql(&self, sql: &str) -> Result<Vec<Row>, Error> {
        self.primary().sql(&self.name, sql).await
    }

    /// Leaves the database to the end of the stack; its URL.
    pub fn keep(mut self) -> String {
        self.kept = true;
        self.url()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !self.kept {
            self.stack.inner.databases.drop_later(self.primary(), &self.name);
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({} on {:?})", self.name, self.primary())
    }
}

/// Replaces host and port of a URL, for a proxy in front of a server.
pub fn via(url: &str, address: std::net::SocketAddr) -> String {
    match crate::address::Address::parse("url", url) {
        Ok(mut parsed) => {
            parsed.host = address.ip().to_string();
            parsed.port = address.port();
            parsed.url()
        }
        // Not a URL of a server: nothing of it can be replaced.
        Err(_) => url.to_owned(),
    }
}

/// The templates of a stack, and the thread that drops databases.
pub(crate) struct Databases {
    default_sql: Option<String>,
    templates: Mutex<HashMap<String, Progress>>,
    changed: Condvar,
    janitor: OnceLock<SyncSender<(Server, String)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Preparing,
    Ready,
}

impl Databases {
    pub(crate) fn new(default_sql: Option<String>) -> Self {
        Self { default_sql, templates: Mutex::default(), changed: Condvar::new(), janitor: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Progress>> {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to prepare a template, or `None` if it is ready. Waits while somebody else prepares it.
    fn claim(&self, name: &str) -> Option<Claim<'_>> {
        let mut templates = self.lock();
        loop {
            match templates.get(name) {
                Some(Progress::Ready) => return None,
                Some(Progress::Preparing) => {
                    templates = self.changed.wait(templates).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    templates.insert(name.to_owned(), Progress::Preparing);
                    return Some(Claim { databases: self, name: name.to_owned() });
                }
            }
        }
    }

    fn drop_later(&self, primary: &Server, name: &str) {
        let janitor = self.janitor.get_or_init(|| {
            let (sender, receiver) = sync_channel::<(Server, String)>(PENDING_DROPS);
            let work = move || {
                for (primary, name) in receiver {
                    // A server that was killed meanwhile has no databases to drop.
                    let _ = primary
                        .sql_blocking("postgres", &format!("drop database if exists {name} with (force)"));
                }
            };
            // Without a thread the receiver is gone, and the databases are left to the end of the stack.
            let _ = std::thread::Builder::new().name("local-stack-janitor".into()).spawn(work);
            sender
        });
        let _ = janitor.try_send((primary.clone(), name.to_owned()));
    }
}

/// The right to prepare a template. Dropped without [`done`](Self::done), the next one may try.
struct Claim<'a> {
    databases: &'a Databases,
    name: String,
}

impl Claim<'_> {
    fn done(self) {
        self.databases.lock().insert(self.name.clone(), Progress::Ready);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut templates = self.databases.lock();
        if templates.get(&self.name) == Some(&Progress::Preparing) {
            templates.remove(&self.name);
        }
        self.databases.changed.notify_all();
    }
}

impl Stack {
    /// A fresh database: a clone of the template of [`template_sql`](crate::Builder::template_sql), empty without it.
    /// It has arrived at the replicas that run. Blocks, some fifty milliseconds.
    pub fn database_blocking(&self) -> Result<Database, Error> {
        match &self.inner.databases.default_sql {
            None => self.cloned(EMPTY),
            Some(sql) => self.database_from_blocking(DEFAULT, |primary, database| {
                primary.sql_blocking(database, sql).map(drop).map_err(|error| error.to_string())
            }),
        }
    }

    /// A fresh clone of a template that is prepared by a closure, once per stack and name: it is given the primary
    /// and the name of the database to fill. It must leave no connection open. Blocks.
    ///
    /// If the closure fails ([`Error::Template`]), the next call tries again.
    pub fn database_from_blocking<E: fmt::Display>(
        &self,
        template: &str,
        prepare: impl FnOnce(&Server, &str) -> Result<(), E>,
    ) -> Result<Database, Error> {
        let database = template_name(template);
        let primary = self.try_postgres()?.primary();
        if let Some(claim) = self.inner.databases.claim(&database) {
            begin_template(primary, &database)?;
            let prepared = prepare(primary, &database);
            prepared.map_err(|error| Error::Template { name: template.into(), reason: error.to_string() })?;
            finish_template(primary, &database)?;
            claim.done();
        }
        self.cloned(&database)
    }

    /// A name that no other test uses, for keys in a Redis that tests share: `t` with the process and a number.
    pub fn redis_namespace(&self) -> String {
        unique("t")
    }

    fn cloned(&self, template: &str) -> Result<Database, Error> {
        let postgres = self.try_postgres()?;
        let name = unique("test");
        postgres
            .primary()
            .sql_blocking("postgres", &format!("create database {name} template {template}"))?;
        let database = Database { stack: self.clone(), name, kept: false };
        postgres.wait_replicas_blocking(ARRIVAL)?;
        Ok(database)
    }
}

#[cfg(feature = "async")]
impl Stack {
    /// [`database_blocking`](Self::database_blocking) off the runtime's threads. Dropped, the clone is made and
    /// dropped in the background.
    pub async fn database(&self) -> Result<Database, Error> {
        let stack = self.clone();
        crate::unblock("database", move || stack.database_blocking()).await
    }

    /// A fresh clone of a template that is prepared by an async closure, once per stack and name: it is given the URL
    /// of the database to fill, by migrations for instance. Its connections must be closed when it returns.
    ///
    /// If the closure fails ([`Error::Template`]) or the future is dropped, the next call prepares it anew.
    pub async fn database_from<E: fmt::Display>(
        &self,
        template: &str,
        prepare: impl AsyncFnOnce(String) -> Result<(), E>,
    ) -> Result<Database, Error> {
        let database = template_name(template);
        let primary = self.try_postgres()?.primary().clone();
        loop {
            let stack = self.clone();
            let name = database.clone();
            // Waiting for somebody else's preparation blocks, so it is done elsewhere; claiming is then a moment.
            let free = self.inner.databases.try_claim(&name);
            match free {
                TryClaim::Ready => break,
                TryClaim::Busy => {
                    crate::unblock("database_from", move || {
                        stack.inner.databases.settled(&name);
                        Ok(())
                    })
                    .await?;
                }
                TryClaim::Ours(claim) => {
                    let (server, begun) = (primary.clone(), database.clone());
                    crate::unblock("database_from", move || begin_template(&server, &begun)).await?;
                    let prepared = prepare(primary.url_for(&database)).await;
                    prepared.map_err(|error| Error::Template {
                        name: template.into(),
                        reason: error.to_string(),
                    })?;
                    let (server, filled) = (primary.clone(), database.clone());
                    crate::unblock("database_from", move || finish_template(&server, &filled)).await?;
                    claim.done();
                    break;
                }
            }
        }
        let stack = self.clone();
        crate::unblock("database_from", move || stack.cloned(&database)).await
    }
}

#[cfg(feature = "async")]
enum TryClaim<'a> {
    Ready,
    Busy,
    Ours(Claim<'a>),
}

#[cfg(feature = "async")]
impl Databases {
    fn try_claim(&self, name: &str) -> TryClaim<'_> {
        let mut templates = self.lock();
        match templates.get(name) {
            Some(Progress::Ready) => TryClaim::Ready,
            Some(Progress::Preparing) => TryClaim::Busy,
            None => {
                templates.insert(name.to_owned(), Progress::Preparing);
                TryClaim::Ours(Claim { databases: self, name: name.to_owned() })
            }
        }
    }

    /// Waits until nobody prepares this template.
    fn settled(&self, name: &str) {
        let mut templates = self.lock();
        while templates.get(name) == Some(&Progress::Preparing) {
            templates = self.changed.wait(templates).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

// A leftover of a preparation that failed is replaced.
fn begin_template(primary: &Server, database: &str) -> Result<(), Error> {
    primary.sql_blocking("postgres", &format!("drop database if exists {database} with (force)"))?;
    primary.sql_blocking("postgres", &format!("create database {database} template {EMPTY}")).map(drop)
}

// Cloning needs a template that nobody is connected to: the door is closed, and who is still inside is sent home.
fn finish_template(primary: &Server, database: &str) -> Result<(), Error> {
    primary.sql_blocking("postgres", &format!("alter database {database} with allow_connections false"))?;
    let ended = format!(
        "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where datname = '{database}'"
    );
    primary.sql_blocking("postgres", &ended).map(drop)
}

// External servers are shared with other processes, so the name tells whose template it is.
fn template_name(template: &str) -> String {
    let mut name = format!("template_{}_", std::process::id());
    name.extend(
        template
            .chars()
            .take(30)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }),
    );
    name
}

fn unique(prefix: &str) -> String {
    use rand::Rng as _;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{number}_{:08x}", std::process::id(), rand::rng().random::<u32>())
}
