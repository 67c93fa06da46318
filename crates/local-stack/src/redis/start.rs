//! Starting Redis servers: their settings, users and order. Not here: what is told to them afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Redis, cluster, sentinel};
use crate::address::Address;
use crate::authority::{Authority, Certificate};
use crate::directory::Directory;
use crate::error::Error;
use crate::find::RedisBinary;
use crate::launch::{Blueprint, launch, left, password};
use crate::options::{ClientCertificates, RedisOptions, TlsOptions};
use crate::port;
use crate::resp::{Access, At};
use crate::server::{Kind, Server};

/// The user of ours on every server: for commands, replication and Sentinels, whatever happens to the others.
pub(super) const OUR_USER: &str = "local-stack";
pub(super) const SETTINGS: &str = "redis.conf";

/// Starts the master, its replicas, and who watches them.
pub(crate) fn start(
    directory: &Directory,
    binary: &RedisBinary,
    options: &RedisOptions,
    authority: Option<&Authority>,
    until: Instant,
) -> Result<Redis, Error> {
    if options.sentinels > 0 && options.cluster_masters > 0 {
        let reason = "Sentinels do not watch clusters, which fail over by themselves; ask for one of the two";
        return Err(Error::Setting { name: "sentinels, cluster_masters".into(), reason: reason.into() });
    }
    let tls = options.tls.as_ref().zip(authority);
    let starter = Starter { directory, binary, options, tls, until, our_password: password() };
    if options.cluster_masters > 0 {
        return starter.cluster();
    }
    let master = starter.launch("redis-0", Role::Master)?;
    let replicas = (1..=options.replicas)
        .map(|index| starter.launch(&format!("redis-{index}"), Role::ReplicaOf(&master)))
        .collect::<Result<Vec<_>, Error>>()?;
    let mut redis = Redis::of(vec![master], replicas);
    redis.wait_replicas_blocking(starter.left())?;
    if options.sentinels > 0 {
        redis.sentinels = sentinel::start(&starter, redis.master())?;
        redis.wait_sentinels_blocking(starter.left())?;
    }
    Ok(redis)
}

pub(super) struct Starter<'a> {
    pub(super) directory: &'a Directory,
    pub(super) binary: &'a RedisBinary,
    pub(super) options: &'a RedisOptions,
    pub(super) tls: Option<(&'a TlsOptions, &'a Authority)>,
    pub(super) until: Instant,
    pub(super) our_password: String,
}

/// What a data server is started as.
#[derive(Debug, Clone, Copy)]
enum Role<'a> {
    Master,
    ReplicaOf(&'a Server),
    /// Of a cluster, which will tell it what it is.
    Node,
}

impl Starter<'_> {
    /// The time left, at least one round.
    pub(super) fn left(&self) -> Duration {
        left(self.until).max(Duration::from_secs(1))
    }

    fn cluster(&self) -> Result<Redis, Error> {
        let masters = self.options.cluster_masters;
        let nodes = (0..masters * (1 + self.options.replicas))
            .map(|index| self.launch(&format!("redis-{index}"), Role::Node))
            .collect::<Result<Vec<_>, Error>>()?;
        let replicas = nodes[masters..].to_vec();
        let mut redis = Redis::of(nodes[..masters].to_vec(), replicas);
        cluster::create(&mut redis, self.left())?;
        Ok(redis)
    }

    fn launch(&self, name: &str, role: Role<'_>) -> Result<Server, Error> {
        let home = self.directory.make(name)?;
        if let Some(acl) = &self.options.acl {
            self.directory.write(&home.join("users.acl"), &self.users(acl))?;
        }
        let tls = self.tls_settings(name)?;
        let server = launch(self.directory, name, Kind::Redis, self.until, |port| {
            let file = home.join(SETTINGS);
            let (port, bus) = match role {
                Role::Node => self.with_bus(port)?,
                Role::Master | Role::ReplicaOf(_) => (port, None),
            };
            self.directory.write(&file, &self.settings(port, bus, &home, role, &tls))?;
            let access = Access {
                at: At::Socket(socket(&home)),
                username: Some(OUR_USER.into()),
                password: Some(self.our_password.clone()),
            };
            let arguments = vec![file.to_string_lossy().into_owned()];
            Ok(self.blueprint(&home, arguments, self.options.password.as_deref(), port, access))
        })?;
        Ok(self.secured(server))
    }

    /// It is known from now on who made its certificate.
    pub(super) fn secured(&self, server: Server) -> Server {
        server.secured(self.tls.map(|(_, authority)| authority))
    }

    /// The lines about TLS of a server of this name, for which a certificate is made; none without TLS.
    pub(super) fn tls_settings(&self, name: &str) -> Result<Vec<String>, Error> {
        let Some((options, authority)) = self.tls else { return Ok(Vec::new()) };
        let pair = authority.renew_server(name, Certificate::Valid)?;
        let file = |name: &str, path: &Path| format!("{name} {}", quoted(&path.to_string_lossy()));
        let clients = match options.client_certificates {
            ClientCertificates::NotAsked => "no",
            ClientCertificates::Optional => "optional",
            ClientCertificates::Required => "yes",
        };
        Ok(vec![
            file("tls-cert-file", &pair.cert_file),
            file("tls-key-file", &pair.key_file),
            file("tls-ca-cert-file", &authority.ca_file()),
            format!("tls-auth-clients {clients}"),
            "tls-replication yes".into(),
            "tls-cluster yes".into(),
        ])
    }

    pub(super) fn blueprint(
        &self,
        home: &Path,
        arguments: Vec<String>,
        password: Option<&str>,
        port: u16,
        access: Access,
    ) -> Blueprint {
        Blueprint {
            program: self.binary.server.clone(),
            arguments,
            home: home.to_owned(),
            socket: socket(home),
            address: Address {
                scheme: if self.tls.is_some() { "rediss" } else { "redis" }.into(),
                user: None,
                password: password.map(str::to_owned),
                host: "127.0.0.1".into(),
                port,
                path: "0".into(),
                query: None,
            },
            redis: Some(access),
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
        format!("{}\n{default}{}\n", acl.trim_end(), self.our_user())
    }

    fn our_user(&self) -> String {
        format!("user {OUR_USER} on >{} ~* &* +@all", self.our_password)
    }

    /// A port for a cluster's node, and another one for what the nodes say to each other. Before 7.0 that is ten
    /// thousand above.
    fn with_bus(&self, port: u16) -> Result<(u16, Option<u16>), Error> {
        if self.binary.major() >= 7 {
            return Ok((port, Some(port::free_beside(port)?)));
        }
        Ok((port::free_with_one_above(10_000)?, None))
    }

    fn settings(&self, port: u16, bus: Option<u16>, home: &Path, role: Role<'_>, tls: &[String]) -> String {
        let mut lines = place(port, home, tls);
        lines.extend([
            // Snapshots are for disks that matter; the append-only file below is what survives a kill.
            "save \"\"".to_owned(),
            format!("appendonly {}", if self.options.persistent { "yes" } else { "no" }),
            "appendfsync no".into(),
            // The defaults wait five seconds for further replicas, and ten between pings.
            "repl-diskless-sync yes".into(),
            "repl-diskless-sync-delay 0".into(),
            "repl-ping-replica-period 1".into(),
            format!("masteruser {OUR_USER}"),
            format!("masterauth {}", self.our_password),
        ]);
        match (&self.options.acl, &self.options.password) {
            (Some(_), _) => lines.push("aclfile users.acl".into()),
            (None, password) => {
                lines.push(self.our_user());
                lines.extend(password.as_ref().map(|password| format!("requirepass {}", quoted(password))));
            }
        }
        match role {
            Role::Master => {}
            Role::ReplicaOf(master) => lines.push(format!("replicaof {} {}", master.host(), master.port())),
            Role::Node => {
                lines.extend([
                    "cluster-enabled yes".into(),
                    "cluster-config-file nodes.conf".into(),
                    "cluster-announce-ip 127.0.0.1".into(),
                    format!("cluster-node-timeout {}", self.options.cluster_node_timeout.as_millis()),
                ]);
                lines.extend(bus.map(|bus| format!("cluster-port {bus}")));
            }
        }
        lines.extend(self.options.config.iter().cloned());
        lines.join("\n") + "\n"
    }
}

/// Where a server listens and works. With TLS there is no port for anything else.
pub(super) fn place(port: u16, home: &Path, tls: &[String]) -> Vec<String> {
    let (plain, secure) = if tls.is_empty() { (port, None) } else { (0, Some(format!("tls-port {port}"))) };
    let mut lines = vec![
        "bind 127.0.0.1".to_owned(),
        format!("port {plain}"),
        format!("dir {}", quoted(&home.to_string_lossy())),
        format!("unixsocket {}", quoted(&socket(home).to_string_lossy())),
        "unixsocketperm 700".into(),
        "daemonize no".into(),
        "logfile \"\"".into(),
    ];
    lines.extend(secure);
    lines.extend_from_slice(tls);
    lines
}

pub(super) fn socket(home: &Path) -> std::path::PathBuf {
    home.join("redis.sock")
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
