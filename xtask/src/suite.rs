//! `cargo xtask test`: the whole suite on real servers. The README's test command.

use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::{engine, images, servers, workspace};

/// Every test binary shares one stack of servers; more threads than this queue in the servers, not in us.
const MOST_THREADS: usize = 4;

/// What `cargo xtask test` takes.
#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask test\n  cargo xtask test -p cache-manager -- single_flight\n  \
    cargo xtask test --require-containers\n  cargo xtask test --containers -p redis-link"
)]
pub(crate) struct Args {
    /// Also runs the short suite of servers in containers; without an engine that is an error. Images that are not here
    /// are built (see `images`).
    #[arg(long)]
    require_containers: bool,
    /// Runs the same suites with their servers in containers.
    #[arg(long)]
    containers: bool,
    /// Passed on to `cargo test`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Runs `cargo test` (over the default members unless `args` say otherwise) and gives back its exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    servers::require_for_tests(servers::Consent::of(&args.args))?;
    let mut cargo = workspace::cargo(["test", "--locked"]);
    if args.args.is_empty() {
        cargo.arg("--no-fail-fast");
    }
    if args.require_containers || args.containers {
        with_containers(&mut cargo, args.containers)?;
    }
    cargo.args(args.args.iter().filter(|arg| *arg != "--yes"));
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        cargo.env("RUST_TEST_THREADS", cores.clamp(2, MOST_THREADS).to_string());
    }
    let started = Instant::now();
    let status = workspace::run(cargo)?;
    eprintln!("cargo test: {status} after {:.1} s, building included", started.elapsed().as_secs_f64());
    Ok(workspace::code(status))
}

// One build and one run for both: the suite of containers is a test binary of local-stack that this feature adds.
fn with_containers(cargo: &mut Command, everywhere: bool) -> Result<()> {
    let version = engine::require()?;
    eprintln!("Docker {version} answers");
    cargo.args(["--features", "local-stack/containers"]);
    cargo.env("LOCAL_STACK_REQUIRE_CONTAINERS", "1").envs(images::variables()?);
    if everywhere {
        cargo.env("LOCAL_STACK_PROVIDER", "containers");
    }
    Ok(())
}
