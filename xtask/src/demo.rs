//! `cargo xtask demo` and `up`: builds the demo in release and becomes it, so that signals and the exit code are
//! the demo's own. Knows nothing of its arguments but where they say the servers come from.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{engine, images, servers, workspace};

/// Where the demo's servers come from, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Native,
    Containers,
    External,
}

/// Builds the demo and replaces this process by `demo SUBCOMMAND ARGS`. Returns only on failure.
pub(crate) fn exec(subcommand: &str, args: &[OsString]) -> Result<u8> {
    let source = Source::of(args);
    let variables = match source {
        Source::Native => {
            servers::require(servers::Consent::of(args))?;
            Vec::new()
        }
        Source::Containers => {
            engine::require()?;
            images::variables()?
        }
        Source::External => Vec::new(),
    };
    let binary = build(source)?;
    let mut demo = Command::new(&binary);
    demo.arg(subcommand).args(args).envs(variables);
    let error = demo.exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Builds the demo and `dbsvc`, which it starts from the folder beside it; gives back the demo's path.
pub(crate) fn build(source: Source) -> Result<PathBuf> {
    let mut build = workspace::cargo(["build", "--locked", "--release", "-p", "demo", "-p", "dbsvc"]);
    if source == Source::Containers {
        build.args(["--features", "demo/containers"]);
    }
    workspace::run_ok(build)?;
    Ok(workspace::target_dir()?.join("release").join("demo"))
}

impl Source {
    fn of(args: &[OsString]) -> Self {
        let given = |name: &str| {
            let joined = format!("--servers={name}");
            args.windows(2).any(|pair| pair[0] == "--servers" && pair[1] == name)
                || args.iter().any(|arg| *arg == *joined)
        };
        if given("external") {
            Self::External
        } else if given("containers") {
            Self::Containers
        } else {
            Self::Native
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::Source;

    fn source(line: &str) -> Source {
        Source::of(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn servers_are_native_unless_said_otherwise() {
        assert_eq!(source(""), Source::Native);
        assert_eq!(source("--seconds 20 --chaos --servers native"), Source::Native);
        assert_eq!(source("--servers containers --chaos"), Source::Containers);
        assert_eq!(source("--seconds 20 --servers external"), Source::External);
        assert_eq!(source("--servers=external"), Source::External);
    }
}
