//! Everything that can go wrong with Redis, named by what the caller can do about it. The driver's own error types
//! do not leave this crate.

use crate::{config::Problem, keys::InvalidName, tls::CertificateProblem, value::UnexpectedReply};
use std::time::Duration;

/// What a call on a link, a generation or a subscription can fail with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection now; nothing was sent.
    #[error("Redis has been unavailable for {since:?}: {cause}")]
    Unavailable {
        /// For how long.
        since: Duration,
        /// What the last attempt to connect, or the end of the last connection, said.
        cause: String,
    },
    /// The deadline or the command time-out passed.
    #[error("{operation} got no answer from Redis within {after:?}")]
    Timeout {
        /// The command, script or phase.
        operation: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// Whether the command may have reached the server, and so may have been or still be carried out.
        sent: bool,
    },
    /// The connection ended after the command may have been sent: it may have been carried out, or not.
    #[error("the connection ended before Redis answered {operation}: {cause}")]
    Unknown {
        /// The command or script.
        operation: &'static str,
        /// Why the connection ended.
        cause: String,
    },
    /// Redis lost or replaced its data since this generation began; nothing was done. Take the next generation.
    #[error("the data of Redis is no longer that of epoch {epoch}")]
    Epoch {
        /// The epoch of the generation that is over.
        epoch: u32,
    },
    /// The epoch could not be determined, so no generation could be opened.
    #[error("no epoch for this Redis server: {0}")]
    Epochs(String),
    /// Wrong or missing user name or password.
    #[error("Redis refused the credentials: {0}")]
    Auth(String),
    /// The Redis user may not do this.
    #[error("the Redis user lacks a right for {command}: {message}")]
    Acl {
        /// The command, or `a key`, `a channel`, as the server names it.
        command: String,
        /// The server's words.
        message: String,
    },
    /// TLS could not be agreed on, or one side expects TLS and the other does not.
    #[error("TLS with {endpoint} failed: {message}")]
    Tls {
        /// Host and port.
        endpoint: String,
        /// What the library said.
        message: String,
    },
    /// The server's certificate is not one that the settings accept.
    #[error("the certificate of {endpoint} {problem}")]
    Certificate {
        /// Host and port.
        endpoint: String,
        /// What is wrong with it.
        problem: CertificateProblem,
    },
    /// The credential provider does not answer, and never has.
    #[error("there are no credentials for Redis: {0}")]
    Credentials(String),
    /// The Sentinels that answer watch over no master of this name.
    #[error("the Sentinels know no master named {name} (asked: {asked})")]
    UnknownMaster {
        /// The name.
        name: String,
        /// Who was asked.
        asked: String,
    },
    /// What is named as a Sentinel is none.
    #[error("{endpoint} is no Sentinel")]
    NoSentinel {
        /// Host and port.
        endpoint: String,
    },
    /// Slots of the cluster are served by nobody.
    #[error("{count} slots of {cluster} are served by nobody, the first is {first}")]
    SlotsUncovered {
        /// Which cluster.
        cluster: String,
        /// How many of the 16384.
        count: usize,
        /// The lowest.
        first: u16,
    },
    /// The server is no part of a cluster, although the settings say so.
    #[error("{endpoint} is no node of a cluster; the topology is another one")]
    NoCluster {
        /// Host and port.
        endpoint: String,
    },
    /// Keys of one call, on a cluster, in more than one hash slot. Nothing was sent.
    #[error("the keys of {operation} are in different slots of the cluster")]
    CrossSlot {
        /// The command or script.
        operation: &'static str,
    },
    /// The server is not a master.
    #[error("{endpoint} is a {role}, not a master")]
    WrongRole {
        /// Host and port.
        endpoint: String,
        /// `slave` in Redis's words, or what `INFO` says.
        role: String,
    },
    /// The server's version is not supported.
    #[error("{endpoint} runs version {version}; at least {minimum} is needed")]
    TooOld {
        /// Host and port.
        endpoint: String,
        /// What it runs.
        version: String,
        /// What is needed.
        minimum: &'static str,
    },
    /// The server is too old for this, though not for everything else. Nothing was sent.
    #[error("{operation} needs Redis {minimum} or later; {endpoint} runs version {version}")]
    Unsupported {
        /// The command.
        operation: &'static str,
        /// Host and port.
        endpoint: String,
        /// What it runs.
        version: String,
        /// What is needed.
        minimum: &'static str,
    },
    /// The command's arguments are larger than [`Config::max_request`](crate::Config::max_request). Nothing was sent.
    #[error("{operation} is {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The command or script.
        operation: &'static str,
        /// Bytes of its arguments.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The reply is larger than [`Config::max_reply`](crate::Config::max_reply) and was thrown away. The command was
    /// carried out.
    #[error("the reply to {operation} is {size} bytes, more than the limit of {limit}")]
    ReplyTooLarge {
        /// The command or script.
        operation: &'static str,
        /// Bytes of the reply.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// More calls are under way than a connection's queue holds: nothing was sent, and the generation ends.
    #[error("too many commands are queued for Redis")]
    Overloaded,
    /// Redis answered with an error.
    #[error("Redis answered {operation} with: {message}")]
    Server {
        /// The command or script.
        operation: &'static str,
        /// The error's first word, for example `WRONGTYPE`, `OOM`, `BUSY`, `LOADING`.
        code: String,
        /// The whole message.
        message: String,
    },
    /// Redis answered something else than the command promises.
    #[error(transparent)]
    Reply(#[from] UnexpectedReply),
    /// A key, channel or name is outside the limits.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The settings contradict the rules; all that is wrong with them.
    #[error("the settings of the Redis link are wrong: {}", list(.0))]
    Config(Vec<Problem>),
    /// The link was shut down.
    #[error("the Redis link is shut down")]
    Shutdown,
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// Whether the same call may succeed if made again soon. It says nothing about whether that is safe:
    /// see [`outcome_unknown`](Self::outcome_unknown).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::Timeout { .. }
            | Self::Unknown { .. }
            | Self::Epoch { .. }
            | Self::Epochs(_)
            | Self::WrongRole { .. }
            | Self::Credentials(_)
            | Self::UnknownMaster { .. }
            | Self::SlotsUncovered { .. }
            | Self::Overloaded => true,
            Self::Server { code, .. } => {
                matches!(
                    code.as_str(),
                    "BUSY"
                        | "LOADING"
                        | "READONLY"
                        | "MASTERDOWN"
                        | "TRYAGAIN"
                        | "OOM"
                        | "MISCONF"
                        | "CLUSTERDOWN"
                        | "MOVED"
                        | "ASK"
                )
            }
            Self::Auth(_)
            | Self::Acl { .. }
            | Self::Tls { .. }
            | Self::Certificate { .. }
            | Self::NoCluster { .. }
            | Self::NoSentinel { .. }
            | Self::CrossSlot { .. }
            | Self::TooOld { .. }
            | Self::Unsupported { .. }
            | Self::TooLarge { .. }
            | Self::ReplyTooLarge { .. }
            | Self::Reply(_)
            | Self::Name(_)
            | Self::Config(_)
            | Self::Shutdown => false,
        }
    }

    /// Whether the command may have been carried out although the call failed. A caller that repeats it must know
    /// that it is idempotent.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Timeout { sent: true, .. })
    }

    /// What it says, without the time that the next error in line measures itself.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Unavailable { cause, .. } => cause.clone(),
            other => other.to_string(),
        }
    }

    /// Whether waiting will not mend it: settings, credentials, rights, version or role have to change.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::Auth(_)
                | Self::Acl { .. }
                | Self::Tls { .. }
                | Self::Certificate { .. }
                | Self::UnknownMaster { .. }
                | Self::SlotsUncovered { .. }
                | Self::NoCluster { .. }
                | Self::NoSentinel { .. }
                | Self::WrongRole { .. }
                | Self::TooOld { .. }
                | Self::Config(_)
        )
    }
}
