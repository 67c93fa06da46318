//! `cargo xtask test`: the whole suite on real servers. The README's test command.

use std::ffi::OsString;

use anyhow::Result;

use crate::{servers, workspace};

/// Every test binary shares one stack of servers; more threads than this queue in the servers, not in us.
const MOST_THREADS: usize = 4;

/// Runs `cargo test` (over the default members unless `args` say otherwise) and gives back its exit code.
pub(crate) fn run(args: &[OsString]) -> Result<u8> {
    servers::require(servers::Consent::of(args))?;
    let mut cargo = workspace::cargo(["test", "--locked"]);
    if args.is_empty() {
        cargo.arg("--no-fail-fast");
    }
    cargo.args(args.iter().filter(|arg| *arg != "--yes"));
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        cargo.env("RUST_TEST_THREADS", cores.clamp(2, MOST_THREADS).to_string());
    }
    Ok(workspace::code(workspace::run(cargo)?))
}
