//! `cargo xtask demo` and `up`: builds the demo in release and becomes it, so that signals and the exit code are
//! the demo's own. Knows nothing of its arguments but where they say the servers come from.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{servers, workspace};

/// Builds the demo and replaces this process by `demo SUBCOMMAND ARGS`. Returns only on failure.
pub(crate) fn exec(subcommand: &str, args: &[OsString]) -> Result<u8> {
    if needs_servers(args) {
        servers::require(servers::Consent::of(args))?;
    }
    let binary = build()?;
    let mut demo = Command::new(&binary);
    demo.arg(subcommand).args(args);
    let error = demo.exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Builds the demo and `dbsvc`, which it starts from the folder beside it; gives back the demo's path.
pub(crate) fn build() -> Result<PathBuf> {
    workspace::run_ok(workspace::cargo(["build", "--locked", "--release", "-p", "demo", "-p", "dbsvc"]))?;
    Ok(workspace::target_dir()?.join("release").join("demo"))
}

/// Whether the demo starts servers of its own.
fn needs_servers(args: &[OsString]) -> bool {
    let external = args.windows(2).any(|pair| pair[0] == "--servers" && pair[1] == "external");
    !external && !args.iter().any(|arg| arg == "--servers=external")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    fn needs(line: &str) -> bool {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        super::needs_servers(&args)
    }

    #[test]
    fn servers_are_needed_unless_external() {
        assert!(needs(""));
        assert!(needs("--seconds 20 --chaos --servers native"));
        assert!(!needs("--seconds 20 --servers external"));
        assert!(!needs("--servers=external"));
    }
}
