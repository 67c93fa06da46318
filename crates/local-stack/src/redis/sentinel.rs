//! Sentinels: who watches a master, asked through their Unix sockets like any other server. Their clients' side is not
//! here: a client asks them over TCP, as in production.

use std::path::Path;
use std::time::{Duration, Instant};

use super::start::{OUR_USER, SETTINGS, Starter, place, quoted, socket};
use super::{Redis, answers, patience};
use crate::error::Error;
use crate::launch::launch;
use crate::options::START_TIMEOUT;
use crate::resp::{Access, At, Reply};
use crate::server::{Kind, Server};

/// What a Sentinel was told first; its settings' file it rewrites itself.
pub(crate) const FIRST: &str = "sentinel.first.conf";
/// Twice this passes before a failed attempt is repeated; in production it is minutes.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Sentinels look for news every ten seconds, tell each other every two, and after half a minute trust a clock again
/// that jumped (theirs does after a pause). Only since 7.0 can they be told otherwise, and only while they run.
const HASTE: [&str; 8] =
    ["SENTINEL", "DEBUG", "info-period", "1000", "publish-period", "200", "tilt-period", "2000"];

impl Redis {
    /// The name that the Sentinels know the master by.
    pub const MASTER_NAME: &str = "main";

    /// The server that the Sentinels name as master now: the majority of those that answer. Blocks.
    ///
    /// [`Error::NoMaster`] if there is none, [`Error::NoSuchPart`] in a stack without Sentinels.
    pub fn sentinel_master_blocking(&self) -> Result<Server, Error> {
        self.first_sentinel()?;
        let named: Vec<(&str, Result<u16, String>)> = self
            .sentinels
            .iter()
            .filter(|sentinel| answers(sentinel))
            .map(|sentinel| (sentinel.name(), master_port(sentinel)))
            .collect();
        for server in self.servers() {
            let votes = named.iter().filter(|(_, port)| *port == Ok(server.port())).count();
            if votes * 2 > named.len() {
                return Ok(server.clone());
            }
        }
        let said = |(name, said): &(&str, Result<u16, String>)| match said {
            Ok(port) => format!("{name} says port {port}"),
            Err(error) => format!("{name}: {error}"),
        };
        let said = named.iter().map(said).collect::<Vec<_>>().join(", ");
        let said = if said.is_empty() { "no Sentinel runs".into() } else { said };
        Err(Error::NoMaster { said })
    }

    /// Lets the Sentinels make a replica master although nothing is wrong (`SENTINEL FAILOVER`), waits until most of
    /// them name it and it is one, and returns it. Blocks.
    pub fn failover_blocking(&self) -> Result<Server, Error> {
        let start = Instant::now();
        let before = self.sentinel_master_blocking()?;
        self.first_sentinel()?.redis_command_blocking(&["SENTINEL", "FAILOVER", Self::MASTER_NAME])?;
        loop {
            // None agreed on is what the moment between the two looks like.
            match self.sentinel_master_blocking() {
                Ok(now) if now.port() != before.port() && is_master(&now) => return Ok(now),
                Ok(_) | Err(Error::NoMaster { .. }) => {}
                Err(other) => return Err(other),
            }
            patience(start, START_TIMEOUT, || format!("another master than {}", before.name()))?;
        }
    }

    /// Waits until every Sentinel that runs sees the master, every replica that runs, and the other Sentinels that run,
    /// and finds that they suffice for a failover. Blocks. [`Error::Waited`] names the Sentinel that does not.
    pub fn wait_sentinels_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let others = self.sentinels.iter().filter(|sentinel| answers(sentinel)).count().saturating_sub(1);
        let replicas = self.servers().filter(|server| answers(server)).count().saturating_sub(1);
        for sentinel in self.sentinels.iter().filter(|sentinel| answers(sentinel)) {
            while !sees(sentinel, replicas, others)? {
                patience(start, within, || {
                    format!("{} sees the master, {replicas} replicas, {others} Sentinels", sentinel.name())
                })?;
            }
        }
        Ok(())
    }

    fn first_sentinel(&self) -> Result<&Server, Error> {
        if self.sentinels.is_empty() {
            return Err(Error::NoSuchPart { part: "Sentinel".into() });
        }
        let answering = self.sentinels.iter().find(|sentinel| answers(sentinel));
        answering.ok_or_else(|| Error::NoMaster { said: "no Sentinel runs".into() })
    }
}

#[cfg(feature = "async")]
impl Redis {
    /// [`sentinel_master_blocking`](Self::sentinel_master_blocking) off the runtime's threads.
    pub async fn sentinel_master(&self) -> Result<Server, Error> {
        let redis = self.clone();
        crate::unblock("sentinel_master", move || redis.sentinel_master_blocking()).await
    }

    /// [`failover_blocking`](Self::failover_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn failover(&self) -> Result<Server, Error> {
        let redis = self.clone();
        crate::unblock("failover", move || redis.failover_blocking()).await
    }

    /// [`wait_sentinels_blocking`](Self::wait_sentinels_blocking) off the runtime's threads.
    pub async fn wait_sentinels(&self, within: Duration) -> Result<(), Error> {
        let redis = self.clone();
        crate::unblock("wait_sentinels", move || redis.wait_sentinels_blocking(within)).await
    }
}

fn master_port(sentinel: &Server) -> Result<u16, String> {
    let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Redis::MASTER_NAME];
    let answer = sentinel.redis_command_blocking(&question).map_err(|error| error.to_string())?;
    let port = answer.items().get(1).and_then(Reply::as_text).and_then(|port| port.parse().ok());
    port.ok_or_else(|| format!("knows no {}", Redis::MASTER_NAME))
}

fn is_master(server: &Server) -> bool {
    let role = server.redis_command_blocking(&["ROLE"]);
    role.is_ok_and(|role| role.items().first().and_then(Reply::as_text) == Some("master"))
}

/// Healthy, that is: a mere word about them is not enough for a failover.
fn sees(sentinel: &Server, replicas: usize, others: usize) -> Result<bool, Error> {
    let healthy = |what, flag| -> Result<usize, Error> {
        let list = sentinel.redis_command_blocking(&["SENTINEL", what, Redis::MASTER_NAME])?;
        Ok(list.items().iter().filter(|one| one.named("flags") == Some(flag)).count())
    };
    let master = sentinel.redis_command_blocking(&["SENTINEL", "MASTER", Redis::MASTER_NAME])?;
    if master.named("flags") != Some("master")
        || healthy("REPLICAS", "slave")? < replicas
        || healthy("SENTINELS", "sentinel")? < others
    {
        return Ok(false);
    }
    match sentinel.redis_command_blocking(&["SENTINEL", "CKQUORUM", Redis::MASTER_NAME]) {
        Ok(_) => Ok(true),
        Err(Error::Refused { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Starts the Sentinels of a master.
pub(super) fn start(starter: &Starter<'_>, master: &Server) -> Result<Vec<Server>, Error> {
    let one = |index| {
        let name = format!("sentinel-{index}");
        let home = starter.directory.make(&name)?;
        let tls = starter.tls_settings(&name)?;
        let sentinel = launch(starter.directory, &name, Kind::Sentinel, starter.until, |port| {
            let text = settings(starter, port, &home, master, &tls);
            let file = home.join(SETTINGS);
            starter.directory.write(&file, &text)?;
            starter.directory.write(&home.join(FIRST), &text)?;
            let password = starter.options.sentinel_password.as_deref();
            let access = Access {
                at: At::Socket(socket(&home)),
                username: None,
                password: password.map(str::to_owned),
            };
            let arguments = vec![file.to_string_lossy().into_owned(), "--sentinel".into()];
            Ok(starter.blueprint(&home, arguments, password, port, access))
        })?;
        hasten(&sentinel).map(|()| starter.secured(sentinel))
    };
    (0..starter.options.sentinels).map(one).collect()
}

fn settings(starter: &Starter<'_>, port: u16, home: &Path, master: &Server, tls: &[String]) -> String {
    let (options, name) = (starter.options, Redis::MASTER_NAME);
    let mut lines = place(port, home, tls);
    lines.extend(
        options.sentinel_password.as_ref().map(|password| format!("requirepass {}", quoted(password))),
    );
    lines.extend([
        format!("sentinel monitor {name} {} {} {}", master.host(), master.port(), options.sentinels / 2 + 1),
        format!("sentinel down-after-milliseconds {name} {}", options.sentinel_down_after.as_millis()),
        format!("sentinel failover-timeout {name} {}", FAILOVER_TIMEOUT.as_millis()),
        format!("sentinel parallel-syncs {name} {}", options.replicas.max(1)),
        format!("sentinel auth-user {name} {OUR_USER}"),
        format!("sentinel auth-pass {name} {}", starter.our_password),
    ]);
    lines.join("\n") + "\n"
}

/// Makes it as quick as it can be made; after every start, for it forgets.
pub(crate) fn hasten(sentinel: &Server) -> Result<(), Error> {
    match sentinel.redis_command_blocking(&HASTE) {
        // Before 7.0.
        Ok(_) | Err(Error::Refused { .. }) => Ok(()),
        Err(other) => Err(other),
    }
}

/// Brings back what it was told first. Copied into the file that is there, whose owner stays the servers' user.
pub(crate) fn forget(home: &Path) -> Result<(), Error> {
    let file = home.join(SETTINGS);
    std::fs::copy(home.join(FIRST), &file).map(drop).map_err(Error::file("write", file))
}
