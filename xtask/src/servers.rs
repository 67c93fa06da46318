//! Postgres and Redis on this machine: found, or installed after saying so.
//!
//! Starts nothing; `local-stack` starts servers, in the programs that need them.

use std::ffi::OsString;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::Result;
use local_stack::{Error, Found, find_pgbouncer, find_servers, install_pgbouncer, install_servers};

/// Whether an installation may go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// `--yes`, or nobody at the terminal to ask.
    Given,
    /// Somebody can be asked.
    Ask,
}

impl Consent {
    /// By a flag.
    pub(crate) fn given(yes: bool) -> Self {
        if yes || !std::io::stdin().is_terminal() { Self::Given } else { Self::Ask }
    }

    /// By `--yes` among arguments that are passed on.
    pub(crate) fn of(args: &[OsString]) -> Self {
        Self::given(args.iter().any(|arg| arg == "--yes"))
    }
}

/// The servers, or the engine for their containers, are missing; carries what to do.
#[derive(Debug)]
pub(crate) struct Missing {
    message: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Missing {}

/// The error for what is missing; [`Missing`] has an exit code of its own.
pub(crate) fn missing(message: String) -> anyhow::Error {
    anyhow::Error::new(Missing { message })
}

/// Makes sure that both servers are installed: finds them, or installs them where that is possible. Otherwise an
/// error [`Missing`] with the line that installs them.
pub(crate) fn require(consent: Consent) -> Result<()> {
    let (what, install_line) = match find_servers() {
        Ok(Found::All(_)) => return Ok(()),
        Ok(Found::Missing { what, install_line }) => (what.join(" and "), install_line),
        Err(error) => return Err(missing(error.to_string())),
    };
    agreed(consent, &what, &install_line)?;
    let installed = install_servers(|sentence| eprintln!("{sentence}"));
    installed.map(|_| ()).map_err(|error| missing(error.to_string()))
}

/// As [`require`], with PgBouncer, which only tests need.
pub(crate) fn require_for_tests(consent: Consent) -> Result<()> {
    require(consent)?;
    match find_pgbouncer() {
        Ok(_) => return Ok(()),
        Err(Error::Missing { what, install_line, .. }) => agreed(consent, &what, &install_line)?,
        Err(error) => return Err(missing(error.to_string())),
    }
    let installed = install_pgbouncer(|sentence| eprintln!("{sentence}"));
    installed.map(|_| ()).map_err(|error| missing(error.to_string()))
}

fn agreed(consent: Consent, what: &str, install_line: &str) -> Result<()> {
    if consent == Consent::Ask && !asked(what)? {
        return Err(missing(format!("{what} not found on this machine; install with: {install_line}")));
    }
    Ok(())
}

fn asked(what: &str) -> Result<bool> {
    eprint!("{what} not found on this machine. Install now? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
