//! Starting a Redis master with replicas.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::directory::Directory;
use crate::error::Error;
use crate::find::RedisBinary;
use crate::launch::{Blueprint, launch, password};
use crate::options::RedisOptions;
use crate::resp::{Access, At};
use crate::server::{Kind, Server};

/// The user that is added to an ACL file for our own use.
const OUR_USER: &str = "local-stack";

/// The Redis servers of a stack.
#[derive(Debug, Clone)]
pub struct Redis {
    master: Server,
    replicas: Vec<Server>,
}

impl Redis {
    pub(crate) fn of(master: Server, replicas: Vec<Server>) -> Self {
        Self { master, replicas }
    }

    /// The server that was started as master, whatever became of it since.
    pub fn master(&self) -> &Server {
        &self.master
    }

    /// The servers that were started as replicas.
    pub fn replicas(&self) -> &[Server] {
        &self.replicas
    }

    /// All of them, the master first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&self.master).chain(&self.replicas)
    }

    /// Waits until every replica that runs and is not paused is linked to its master and has all of its data.
    /// Blocks. [`Error::Waited`] names the replica that did not.
    pub fn wait_replicas_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        for replica in self.replicas.iter().filter(|replica| replica.is_running() && !replica.is_paused()) {
            loop {
                let info = replica.redis_command_blocking(&["INFO", "replication"])?.to_string();
                if field(&info, "role") == Some("master") {
                    break;
                }
                if field(&info, "master_link_status") == Some("up") {
                    let wanted = self.master.redis_command_blocking(&["INFO", "replication"])?.to_string();
                    let offset = |info: &str, name| field(info, name)?.parse::<u64>().ok();
                    // A chained replica follows another one; being linked is all that can be said of it.
                    if offset(&info, "slave_repl_offset") >= offset(&wanted, "master_repl_offset") {
                        break;
                    }
                }
                let waited = start.elapsed();
                if waited > within {
                    return Err(Error::Waited {
                        what: format!("{} is linked to its master", replica.name()),
                        waited,
                    });
                }
                crate::pause(Duration::from_millis(3));
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

/// Starts the master and its replicas.
pub(crate) fn start(
    directory: &Directory,
    binary: &RedisBinary,
    options: &RedisOptions,
    until: Instant,
) -> Result<Redis, Error> {
    let starter = Starter { directory, binary, options, until, our_password: password() };
    let master = starter.launch("redis-0", None)?;
    let replicas = (1..=options.replicas)
        .map(|index| starter.launch(&format!("redis-{index}"), Some(&master)))
        .collect::<Result<Vec<_>, Error>>()?;
    let redis = Redis::of(master, replicas);
    redis.wait_replicas_blocking(crate::launch::left(until).max(Duration::from_secs(1)))?;
    Ok(redis)
}

struct Starter<'a> {
    directory: &'a Directory,
    binary: &'a RedisBinary,
    options: &'a RedisOptions,
    until: Instant,
    our_password: String,
}

impl Starter<'_> {
    fn launch(&self, name: &str, master: Option<&Server>) -> Result<Server, Error> {
        let home = self.directory.make(name)?;
        if let Some(acl) = &self.options.acl {
            self.directory.write(&home.join("users.acl"), &self.users(acl))?;
        }
        launch(self.directory, name, Kind::Redis, self.until, |port| {
            let file = home.join("redis.conf");
            self.directory.write(&file, &self.settings(port, &home, master))?;
            let socket = home.join("redis.sock");
            Ok(Blueprint {
                program: self.binary.server.clone(),
                arguments: vec![file.to_string_lossy().into_owned()],
                home: home.clone(),
                socket: socket.clone(),
                address: Address {
                    scheme: "redis".into(),
                    user: None,
                    password: self.options.password.clone(),
                    host: "127.0.0.1".into(),
                    port,
                    path: "0".into(),
                    query: None,
                },
                redis: Some(self.access(At::Socket(socket))),
            })
        })
    }

    fn access(&self, at: At) -> Access {
        match &self.options.acl {
            Some(_) => {
                Access { at, username: Some(OUR_USER.into()), password: Some(self.our_password.clone()) }
            }
            None => Access { at, username: None, password: self.options.password.clone() },
        }
    }

    // An ACL file says all there is about users, so the password of the default user has to be said there too.
    fn users(&self, acl: &str) -> String {
        let default = match &self.options.password {
            Some(password) if !acl.lines().any(|line| line.starts_with("user default ")) => {
                format!("user default on >{password} ~* &* +@all\n")
            }
            _ => String::new(),
        };
        format!("{}\n{default}user {OUR_USER} on >{} ~* &* +@all\n", acl.trim_end(), self.our_password)
    }

    fn settings(&self, port: u16, home: &Path, master: Option<&Server>) -> String {
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {port}"),
            format!("dir {}", quoted(&home.to_string_lossy())),
            format!("unixsocket {}", quoted(&home.join("redis.sock").to_string_lossy())),
            "unixsocketperm 700".into(),
            "daemonize no".into(),
            "logfile \"\"".into(),
            // Snapshots are for disks that matter; the append-only file below is what survives a kill.
            "save \"\"".into(),
            format!("appendonly {}", if self.options.persistent { "yes" } else { "no" }),
            "appendfsync no".into(),
            // The defaults wait five seconds for further replicas, and ten between pings.
            "repl-diskless-sync yes".into(),
            "repl-diskless-sync-delay 0".into(),
            "repl-ping-replica-period 1".into(),
        ];
        match (&self.options.acl, &self.options.password) {
            (Some(_), _) => {
                lines.push("aclfile users.acl".into());
                lines.push(format!("masteruser {OUR_USER}"));
                lines.push(format!("masterauth {}", quoted(&self.our_password)));
            }
            (None, Some(password)) => {
                lines.push(format!("requirepass {}", quoted(password)));
                lines.push(format!("masterauth {}", quoted(password)));
            }
            (None, None) => {}
        }
        lines.extend(master.map(|master| format!("replicaof {} {}", master.host(), master.port())));
        lines.extend(self.options.config.iter().cloned());
        lines.join("\n") + "\n"
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A field of INFO's answer.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
