//! `cargo xtask bench`: builds `peer-bench` in release and becomes it.
//!
//! The peers are built here and nowhere else: they are no default members of the workspace.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{servers, workspace};

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this suite: cache, pool or pubsub.
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
    /// Writes rows and ratios as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shorter rounds: a first impression, not a figure to publish.
    #[arg(long)]
    quick: bool,
    /// Exit 1 when a bar is missed.
    #[arg(long)]
    strict: bool,
    /// Installs missing servers without asking.
    #[arg(long)]
    yes: bool,
}

/// Builds and becomes the benchmark. Returns only on failure.
pub(crate) fn run(args: &Args) -> Result<u8> {
    servers::require(servers::Consent::given(args.yes))?;
    workspace::run_ok(workspace::cargo(["build", "--locked", "--release", "-p", "peer-bench"]))?;
    let binary = workspace::target_dir()?.join("release").join("peer-bench");
    let mut bench = Command::new(&binary);
    if let Some(suite) = &args.suite {
        bench.arg("--suite").arg(suite);
    }
    if let Some(json) = &args.json {
        bench.arg("--json").arg(json);
    }
    for (given, flag) in [(args.quick, "--quick"), (args.strict, "--strict")] {
        if given {
            bench.arg(flag);
        }
    }
    Err(bench.exec()).with_context(|| format!("cannot start {}", binary.display()))
}
