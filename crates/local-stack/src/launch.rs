//! The first start of one server: a free port, another one if it was taken meanwhile, and waiting until it answers.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::directory::Directory;
use crate::error::Error;
use crate::launcher::Job;
use crate::port;
use crate::process;
use crate::resp::Access;
use crate::server::{Kind, Ours, Server};

const PORTS: usize = 8;

/// How one server is run at a certain port; its configuration files are written already.
#[derive(Debug)]
pub(crate) struct Blueprint {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) home: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) address: Address,
    pub(crate) redis: Option<Access>,
}

/// Starts a server by the blueprint that `draw` makes for a port.
pub(crate) fn launch(
    directory: &Directory,
    name: &str,
    kind: Kind,
    until: Instant,
    draw: impl Fn(u16) -> Result<Blueprint, Error>,
) -> Result<Server, Error> {
    let log = directory.log(name);
    let mut port = port::free()?;
    for _ in 0..PORTS {
        let Blueprint { program, arguments, home, socket, address, redis } = draw(port)?;
        let account = directory.account();
        let launcher = directory.launcher().clone();
        let job = Job { program: &program, arguments: &arguments, home: &home, log: &log, account };
        let process = launcher.spawn(job)?;
        let ours = Ours {
            launcher,
            program,
            arguments,
            home,
            log: log.clone(),
            socket,
            account,
            process: Mutex::new(process),
            paused: AtomicBool::new(false),
        };
        let server = Server::ours(name, kind, address, redis, ours);
        match server.wait_ready_blocking(until.saturating_duration_since(Instant::now())) {
            Ok(()) => return Ok(server),
            Err(Error::NotRunning { server: name, status }) => {
                let tail = process::tail(&log);
                if !tail.contains("Address already in use") {
                    directory.keep_logs();
                    return Err(Error::DiedAtStart { server: name, status, log, tail });
                }
                port = port::free()?;
            }
            Err(other) => {
                directory.keep_logs();
                return Err(other);
            }
        }
    }
    Err(Error::PortTaken { port })
}

/// A password that is drawn at random: nobody else on the machine can use the servers.
pub(crate) fn password() -> String {
    use rand::Rng as _;
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from).collect()
}

/// The time left, at least one round.
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
