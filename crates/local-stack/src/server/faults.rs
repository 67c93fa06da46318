//! What can be done to a server: kill, pause, resume, restart, promote, follow.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Kind, Ours, Server};
use crate::error::Error;
use crate::options::START_TIMEOUT;
use crate::port;
use crate::postgres;
use crate::redis::sentinel;

/// How long a restarted server is given to end in an orderly way before it is killed.
const ORDERLY: Duration = Duration::from_secs(5);
/// How long a port may be held by what is left of connections before somebody else must have it.
const PORT_IS_FREED: Duration = Duration::from_secs(2);

/// What a Redis server that starts empty still has: what it is, not what it held.
const KEPT: [&str; 4] = ["redis.conf", "users.acl", "nodes.conf", sentinel::FIRST];

impl Server {
    /// Kills it with all its processes (SIGKILL), and waits until none runs. Nothing to do if it does not run.
    pub fn kill(&self) -> Result<(), Error> {
        let ours = self.ours_for("kill")?;
        ours.paused.store(false, Ordering::SeqCst);
        ours.process().kill_tree();
        Ok(())
    }

    /// Stops all its processes (SIGSTOP): connections stay open, new ones are accepted by the kernel, no answer comes.
    pub fn pause(&self) -> Result<(), Error> {
        let ours = self.ours_for("pause")?;
        if !ours.process().stop_tree() {
            return Err(self.not_running(ours));
        }
        ours.paused.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Lets a paused server run on.
    pub fn resume(&self) -> Result<(), Error> {
        let ours = self.ours_for("resume")?;
        ours.paused.store(false, Ordering::SeqCst);
        if ours.process().continue_tree() { Ok(()) } else { Err(self.not_running(ours)) }
    }

    /// Starts it again at the same port with the same data, whether it runs (it is then stopped in an orderly way),
    /// is paused or was killed, and waits until it answers. Blocks.
    pub fn restart_blocking(&self) -> Result<(), Error> {
        let ours = self.ours_for("restart")?;
        self.stop(ours);
        self.start_again(ours)
    }

    /// Kills a Redis server and starts it with no data. Blocks. A replica then copies its master's again; a node of a
    /// cluster is still the same node. A Sentinel starts with what it was told first, as another one to the rest.
    pub fn restart_empty_blocking(&self) -> Result<(), Error> {
        let ours = self.ours_for("restart_empty")?;
        if !matches!(self.kind(), Kind::Redis | Kind::Sentinel) {
            return Err(Error::NoSuchPart { part: format!("empty restart of {}", self.name()) });
        }
        ours.process().kill_tree();
        for entry in fs::read_dir(&ours.home).map_err(Error::file("read", &ours.home))?.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            } else if !name.to_str().is_some_and(|name| KEPT.contains(&name)) {
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            }
        }
        if self.kind() == Kind::Sentinel {
            sentinel::forget(&ours.home)?;
        }
        self.start_again(ours)
    }

    /// Makes a replica a server of its own and waits until it can be written: `pg_promote`, `REPLICAOF NO ONE`.
    /// Blocks. The former primary is left as it is.
    pub fn promote_blocking(&self) -> Result<(), Error> {
        match self.kind() {
            Kind::Sentinel | Kind::PgBouncer => Err(self.no_such_part("promotion")),
            Kind::Redis => self.redis_command_blocking(&["REPLICAOF", "NO", "ONE"]).map(drop),
            Kind::Postgres => {
                if self.in_recovery()? {
                    self.sql_blocking("postgres", "select pg_promote(true, 60)")?;
                }
                let start = Instant::now();
                while self.in_recovery()? {
                    if start.elapsed() > START_TIMEOUT {
                        let what = format!("{} promoted", self.name());
                        return Err(Error::Waited { what, waited: start.elapsed() });
                    }
                    crate::pause(Duration::from_millis(5));
                }
                Ok(())
            }
        }
    }

    /// Makes it a replica of another server: `REPLICAOF`, or a new `primary_conninfo` for a Postgres standby. Blocks,
    /// but does not wait for the data.
    ///
    /// Not yet: turning a former Postgres primary into a standby (`pg_rewind`); that answers [`Error::Refused`].
    pub fn follow_blocking(&self, primary: &Self) -> Result<(), Error> {
        match self.kind() {
            Kind::Sentinel | Kind::PgBouncer => Err(self.no_such_part("replication")),
            Kind::Redis => {
                // Of another stack, it has other users than ours.
                if let Some(access) = &primary.inner.redis {
                    let (user, password) = (access.username.as_deref(), access.password.as_deref());
                    self.redis_command_blocking(&["CONFIG", "SET", "masteruser", user.unwrap_or_default()])?;
                    self.redis_command_blocking(&[
                        "CONFIG",
                        "SET",
                        "masterauth",
                        password.unwrap_or_default(),
                    ])?;
                }
                let port = primary.port().to_string();
                self.redis_command_blocking(&["REPLICAOF", primary.host(), &port]).map(drop)
            }
            Kind::Postgres if !self.in_recovery()? => Err(Error::Refused {
                server: self.name().into(),
                request: "follow".into(),
                message: "it is no standby, and rewinding a former primary is not supported yet".into(),
            }),
            Kind::Postgres => {
                let target = postgres::conninfo(primary, self.name()).replace('\'', "''");
                // ALTER SYSTEM runs in no transaction, so it comes in a query of its own.
                self.sql_blocking("postgres", &format!("alter system set primary_conninfo = '{target}'"))?;
                self.sql_blocking("postgres", "select pg_reload_conf()").map(drop)
            }
        }
    }

    fn in_recovery(&self) -> Result<bool, Error> {
        let rows = self.sql_blocking("postgres", "select pg_is_in_recovery()")?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref()) == Some("t"))
    }

    fn stop(&self, ours: &Ours) {
        let process = ours.process();
        process.continue_tree();
        ours.paused.store(false, Ordering::SeqCst);
        let orderly = match self.kind() {
            Kind::Postgres => Signal::INT, // "fast": sessions end, no waiting for them
            Kind::Redis | Kind::Sentinel => Signal::TERM,
            Kind::PgBouncer => Signal::QUIT, // at once; the others wait for clients, in one version or another
        };
        if process.signal(orderly) && !process.wait_ended(ORDERLY) {
            process.kill_tree();
        }
    }

    fn start_again(&self, ours: &Ours) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let process = ours.spawn_again()?;
            *ours.lock() = process;
            match self.wait_ready_blocking(START_TIMEOUT) {
                // A connection of the killed server may hold the port for a moment.
                Err(Error::NotRunning { status, .. }) => {
                    if !port::is_free(self.port()) {
                        if start.elapsed() > PORT_IS_FREED {
                            return Err(Error::PortTaken { port: self.port() });
                        }
                        crate::pause(Duration::from_millis(20));
                        continue;
                    }
                    let (server, log, tail) = (self.name().to_owned(), ours.log.clone(), ours.tail());
                    return Err(Error::DiedAtStart { server, status, log, tail });
                }
                Err(other) => return Err(other),
                Ok(()) => break,
            }
        }
        if self.kind() == Kind::Sentinel {
            sentinel::hasten(self)?;
        }
        Ok(())
    }

    fn ours_for(&self, operation: &'static str) -> Result<&Ours, Error> {
        self.inner.ours.as_ref().ok_or_else(|| Error::NotOurs { operation, server: self.name().into() })
    }

    fn not_running(&self, ours: &Ours) -> Error {
        let status = ours.process().exit_status().unwrap_or_default();
        Error::NotRunning { server: self.name().into(), status }
    }
}

#[cfg(feature = "async")]
impl Server {
    /// [`restart_blocking`](Self::restart_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn restart(&self) -> Result<(), Error> {
        let server = self.clone();
        crate::unblock("restart", move || server.restart_blocking()).await
    }

    /// [`restart_empty_blocking`](Self::restart_empty_blocking) off the runtime's threads. Dropped, it still runs to
    /// its end.
    pub async fn restart_empty(&self) -> Result<(), Error> {
        let server = self.clone();
        crate::unblock("restart_empty", move || server.restart_empty_blocking()).await
    }

    /// [`promote_blocking`](Self::promote_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn promote(&self) -> Result<(), Error> {
        let server = self.clone();
        crate::unblock("promote", move || server.promote_blocking()).await
    }

    /// [`follow_blocking`](Self::follow_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn follow(&self, primary: &Self) -> Result<(), Error> {
        let (server, primary) = (self.clone(), primary.clone());
        crate::unblock("follow", move || server.follow_blocking(&primary)).await
    }
}
