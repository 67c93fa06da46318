//! The Redis servers of a stack: who is there, and whether the replicas have what their masters have. Not here: how
//! they are started (`start`), who watches them (`sentinel`), what makes them a cluster (`cluster`, `slots`), and who may
//! use them (`users`).

mod cluster;
pub(crate) mod sentinel;
mod slots;
mod start;
mod users;

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::server::Server;

pub use slots::SlotMove;
pub(crate) use start::start;

/// The Redis servers of a stack: a master, or the masters of a cluster; their replicas; Sentinels.
#[derive(Debug, Clone)]
pub struct Redis {
    /// One at least.
    masters: Vec<Server>,
    /// The first of each master, then the second of each.
    replicas: Vec<Server>,
    sentinels: Vec<Server>,
    /// Of a cluster's nodes, in the order of [`servers`](Self::servers).
    ids: Vec<String>,
}

impl Redis {
    pub(crate) fn of(masters: Vec<Server>, replicas: Vec<Server>) -> Self {
        Self { masters, replicas, sentinels: Vec::new(), ids: Vec::new() }
    }

    /// The server that was started as master (of a cluster: as its first), whatever became of it since.
    pub fn master(&self) -> &Server {
        &self.masters[0]
    }

    /// The servers that were started as masters: several of a cluster, else one.
    pub fn masters(&self) -> &[Server] {
        &self.masters
    }

    /// The servers that were started as replicas.
    pub fn replicas(&self) -> &[Server] {
        &self.replicas
    }

    /// The (first) server that was started as replica of this one.
    pub fn replica_of(&self, master: &Server) -> Option<&Server> {
        let index = self.masters.iter().position(|one| one.port() == master.port())?;
        self.replicas.get(index)
    }

    /// All that hold data, masters first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.masters.iter().chain(&self.replicas)
    }

    /// The Sentinels.
    pub fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// Waits until every replica that runs and is not paused is linked to its master and has all of its data.
    /// Blocks. [`Error::Waited`] names the replica that did not.
    pub fn wait_replicas_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        for server in self.servers().filter(|server| answers(server)) {
            loop {
                let info = replication(server)?;
                if field(&info, "role") == Some("master") {
                    break;
                }
                if field(&info, "master_link_status") == Some("up") {
                    let port = field(&info, "master_port").and_then(|port| port.parse().ok());
                    let master = self.servers().find(|other| Some(other.port()) == port);
                    let wanted = replication(master.unwrap_or(self.master()))?;
                    let offset = |info: &str, name| field(info, name)?.parse::<u64>().ok();
                    if offset(&info, "slave_repl_offset") >= offset(&wanted, "master_repl_offset") {
                        break;
                    }
                }
                patience(start, within, || format!("{} is linked to its master", server.name()))?;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "async")]
impl Redis {
    /// [`wait_replicas_blocking`](Self::wait_replicas_blocking) off the runtime's threads.
    pub async fn wait_replicas(&self, within: Duration) -> Result<(), Error> {
        let redis = self.clone();
        crate::unblock("wait_replicas", move || redis.wait_replicas_blocking(within)).await
    }
}

fn replication(server: &Server) -> Result<String, Error> {
    text(server, &["INFO", "replication"])
}

/// Whether it makes sense to ask this server anything: a paused one would keep us waiting.
fn answers(server: &Server) -> bool {
    server.is_running() && !server.is_paused()
}

/// Lets a moment pass, or says what did not come true in time.
fn patience(start: Instant, within: Duration, what: impl FnOnce() -> String) -> Result<(), Error> {
    let waited = start.elapsed();
    if waited > within {
        return Err(Error::Waited { what: what(), waited });
    }
    crate::pause(Duration::from_millis(5));
    Ok(())
}

/// A command's answer as text.
fn text(server: &Server, words: &[&str]) -> Result<String, Error> {
    Ok(server.redis_command_blocking(words)?.to_string())
}

/// A field of INFO's answer.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
