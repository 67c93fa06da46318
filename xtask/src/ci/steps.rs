//! What each step of `ci` runs. Every step can be run by hand: the commands are printed.

use anyhow::{Result, bail};

use super::{Step, downstream};
use crate::{model, suite, tidy, workspace};

/// The version that `deny.toml` was written for.
const CARGO_DENY: &str = "0.20.2";

/// The crates whose backends are chosen at build time.
const SWAPPABLE: [&str; 3] = ["pubsub-manager", "distributed-lock-manager", "cache-manager"];

/// Every choice of backends: none, each, both.
const BACKENDS: [&str; 4] = ["", "redis", "postgres", "redis,postgres"];

/// Those of `local-stack`'s features that the other steps do not build: blocking code alone, without containers.
const BLOCKING: (&str, &str) = ("local-stack", "");

/// Runs one step to its end; the error says what failed.
pub(super) fn run(step: Step, advisories: bool) -> Result<()> {
    match step {
        Step::Fmt => workspace::run_ok(workspace::cargo(["fmt", "--all", "--check"])),
        Step::Tidy => match tidy::run()? {
            0 => Ok(()),
            _ => bail!("the layout has findings"),
        },
        // The peers and the container suite too: they are compiled nowhere else, and must not rot.
        Step::Clippy => {
            let clippy =
                "clippy --workspace --all-targets --features local-stack/containers --locked -- -D warnings";
            workspace::run_ok(workspace::cargo(clippy.split(' ')))
        }
        Step::Docs => {
            let mut docs = workspace::cargo("doc --workspace --no-deps --locked".split(' '));
            docs.env("RUSTDOCFLAGS", "-D warnings");
            workspace::run_ok(docs)
        }
        Step::Features => features(),
        Step::Downstream => downstream::run(),
        Step::Deny => deny(advisories),
        Step::Model => model::run(&model::Args::default()).map(drop),
        Step::Test => match suite::run(&suite::Args::default())? {
            0 => Ok(()),
            code => bail!("cargo test: exit code {code}"),
        },
        // Its comparison with the bars, not the comparison itself, which needs a release build and a quiet machine.
        Step::Peers => workspace::run_ok(workspace::cargo("test --locked -p peer-bench --bins".split(' '))),
    }
}

fn features() -> Result<()> {
    let swappable = SWAPPABLE.iter().flat_map(|package| BACKENDS.map(|backends| (*package, backends)));
    for (package, features) in swappable.chain([BLOCKING]) {
        // Clippy is a check too, and denies warnings in this crate alone: through RUSTFLAGS every dependency would be
        // compiled anew.
        let mut check = workspace::cargo("clippy --locked --quiet --no-default-features".split(' '));
        check.args(["--package", package]);
        if !features.is_empty() {
            check.args(["--features", features]);
        }
        check.args(["--", "-D", "warnings"]);
        workspace::run_ok(check)?;
    }
    Ok(())
}

fn deny(advisories: bool) -> Result<()> {
    let mut present = workspace::cargo(["deny", "--version"]);
    if !present.output().is_ok_and(|output| output.status.success()) {
        eprintln!("cargo-deny is missing: installing it into cargo's bin folder");
        // Unoptimised: it builds in a third of the time and runs for a second.
        let install = ["install", "--locked", "--debug", "cargo-deny", "--version", CARGO_DENY];
        workspace::run_ok(workspace::cargo(install))?;
    }
    let mut checks = vec!["--hide-inclusion-graph", "bans", "licenses", "sources"];
    if advisories {
        checks.push("advisories");
    }
    workspace::run_ok(workspace::cargo(["deny", "--locked", "check"].into_iter().chain(checks)))
}
