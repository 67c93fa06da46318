//! Exit codes, and the one error type that carries one: what went wrong, and the mend, in a sentence each.

use std::fmt;
use std::process::ExitCode;

/// How a command ended. The numbers are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All well.
    Fine = 0,
    /// Done, with a warning or a finding.
    Warning = 1,
    /// The command, or what it checked, failed.
    Failure = 2,
    /// Usage or settings: change the command line, the environment or the file.
    Usage = 64,
    /// A server (ours, Postgres, Redis) cannot be reached.
    Unreachable = 69,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
    /// What `--json` prints on stdout besides; most failures have nothing more to say than their message.
    pub(crate) report: Option<serde_json::Value>,
}

pub(crate) type Outcome = Result<Exit, Failed>;

impl Failed {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, anyhow::anyhow!("{message}"))
    }

    pub(crate) fn unreachable(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unreachable, anyhow::anyhow!("{message}"))
    }

    pub(crate) fn failure(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failure, anyhow::anyhow!("{message}"))
    }

    pub(crate) fn new(exit: Exit, error: anyhow::Error) -> Self {
        Self { exit, error, report: None }
    }

    pub(crate) fn with_report(mut self, report: serde_json::Value) -> Self {
        self.report = Some(report);
        self
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, error)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failure, error.into())
    }
}
