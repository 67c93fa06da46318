//! What can go wrong, each variant naming the thing and the mend. Not here: deciding whether to retry a start
//! on another port, which the starters do by themselves.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that this crate can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server's binary was found neither on `PATH` nor where the distribution keeps it.
    #[error("{what} not found (looked in {looked_in}); install it: {install_line}")]
    Missing {
        /// The binary, or the binaries.
        what: String,
        /// The places that were looked at.
        looked_in: String,
        /// The one line that installs it.
        install_line: String,
    },
    /// Installing the servers failed, or is not possible on this machine.
    #[error("the servers cannot be installed from here: {reason}; run: {install_line}")]
    Install {
        /// Why.
        reason: String,
        /// The one line to run.
        install_line: String,
    },
    /// A fault or a restart was asked of a server that this process did not start.
    #[error(
        "{operation} of {server} refused: it is an external server, not ours to stop; use the native provider or containers"
    )]
    NotOurs {
        /// What was asked.
        operation: &'static str,
        /// The server's name.
        server: String,
    },
    /// No container engine of this machine answers.
    #[error(
        "no container engine to use: {reason}; start one (sudo systemctl start docker, or sudo dockerd), or set \
         LOCAL_STACK_PROVIDER=native"
    )]
    NoEngine {
        /// Why.
        reason: String,
    },
    /// An image is neither here nor to be had.
    #[error(
        "image {image} is not on this machine and could not be pulled: {reason}; run: docker pull {image}, or name one \
         that is here by {variable} (in this workspace `cargo xtask images` builds some)"
    )]
    NoImage {
        /// The image.
        image: String,
        /// The variable that names another one.
        variable: &'static str,
        /// Why it could not be pulled.
        reason: String,
    },
    /// A container could not be started.
    #[error("{program} could not be run in a container of {image}: {reason}")]
    Container {
        /// The program.
        program: String,
        /// The image.
        image: String,
        /// What the engine said.
        reason: String,
    },
    /// A server's process does not run (killed, or never restarted).
    #[error("{server} does not run ({status}); restart it first")]
    NotRunning {
        /// The server's name.
        server: String,
        /// How it ended.
        status: String,
    },
    /// A server ended while it was being started.
    #[error("{server} ended at start ({status}); its log is kept at {}:\n{tail}", log.display())]
    DiedAtStart {
        /// The server's name.
        server: String,
        /// Its exit status.
        status: String,
        /// Where the log is kept.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A server did not become ready in time.
    #[error("{server} was not ready after {waited:?}: {last}; its log is kept at {}:\n{tail}", log.display())]
    NotReady {
        /// The server's name.
        server: String,
        /// How long it was waited for.
        waited: Duration,
        /// What the last probe said.
        last: String,
        /// Where the log is kept.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// The port of a restarted server was taken by somebody else, or no free port was found.
    #[error(
        "port {port} on 127.0.0.1 is taken by another program; stop it (ss -ltnp 'sport = :{port}') and try again"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// A file or directory could not be made, read or written.
    #[error("{action} {}: {source}{}", path.display(), mend(source))]
    File {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program could not be run.
    #[error("{} could not be run: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{program} failed ({status}): {stderr}")]
    Program {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// We are root and no unprivileged user can be found to run the servers.
    #[error(
        "Postgres refuses to run as root and no user of {tried} exists; create one: useradd --system postgres"
    )]
    NoAccount {
        /// The user names that were tried.
        tried: String,
    },
    /// The directory for the servers' data cannot be used.
    #[error("{} cannot hold the servers' data: {reason}; set LOCAL_STACK_DIR to a directory that can", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A setting of the environment or of the builder makes no sense.
    #[error("{name}: {reason}")]
    Setting {
        /// The variable or the option.
        name: String,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made: {reason}")]
    Certificate {
        /// Why.
        reason: String,
    },
    /// The stack was built without this part.
    #[error("this stack has no {part}; ask for it in Stack::builder()")]
    NoSuchPart {
        /// "Postgres", "Redis" or a replica by number.
        part: String,
    },
    /// The server refused a statement or a command.
    #[error("{server} answered {message} to {request}")]
    Refused {
        /// The server's name.
        server: String,
        /// The statement or command, shortened.
        request: String,
        /// Its answer.
        message: String,
    },
    /// Talking to a server failed.
    #[error("no answer from {server} to {request}: {source}")]
    Unreachable {
        /// The server's name.
        server: String,
        /// What was asked, shortened.
        request: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The closure that prepares a template database failed.
    #[error("template database {name} could not be prepared: {reason}")]
    Template {
        /// The template's name.
        name: String,
        /// What the closure said.
        reason: String,
    },
    /// The servers that should know which one is master do not agree, or none of them answers.
    #[error("no master is agreed on: {said}")]
    NoMaster {
        /// What each of them said.
        said: String,
    },
    /// A condition did not come true in time.
    #[error("{what}: not so after {waited:?}")]
    Waited {
        /// The condition's description.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The background thread of a call ended early (its runtime was shut down).
    #[error("{operation} was abandoned: its runtime shut down")]
    Abandoned {
        /// What was asked.
        operation: &'static str,
    },
}

impl Error {
    /// Whether the same call may succeed later with nothing changed by a person.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotReady { .. }
            | Self::Unreachable { .. }
            | Self::NoMaster { .. }
            | Self::Waited { .. }
            | Self::PortTaken { .. } => true,
            Self::Missing { .. }
            | Self::Install { .. }
            | Self::NotOurs { .. }
            | Self::NoEngine { .. }
            | Self::NoImage { .. }
            | Self::Container { .. }
            | Self::NotRunning { .. }
            | Self::DiedAtStart { .. }
            | Self::File { .. }
            | Self::Spawn { .. }
            | Self::Program { .. }
            | Self::NoAccount { .. }
            | Self::Directory { .. }
            | Self::Setting { .. }
            | Self::Certificate { .. }
            | Self::NoSuchPart { .. }
            | Self::Refused { .. }
            | Self::Template { .. }
            | Self::Abandoned { .. } => false,
        }
    }

    /// The same with another text for the statement, which held a secret.
    pub(crate) fn without_request(mut self, text: &str) -> Self {
        if let Self::Refused { request, .. } | Self::Unreachable { request, .. } = &mut self {
            *request = text.into();
        }
        self
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn mend(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or set LOCAL_STACK_DIR to a directory on a larger disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set LOCAL_STACK_DIR to a directory that may be written"
        }
        _ => "",
    }
}
