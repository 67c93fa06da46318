//! `cargo xtask model`: the pool's core and shell under a scheduler that tries interleavings, and the proof that it
//! finds faults.
//!
//! The model is a package and workspace of its own (`tests/model` of the pool's crate), built in a target folder of
//! its own: what the scheduler needs reaches no other build. Then faults are planted, one at a time, in copies of the
//! two files, and each has to be found. Not here: any property; those are the model's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// The crate whose files are run.
const CRATE: &str = "crates/postgres-pool-manager";

/// What the model is made of, below its folder.
const MODEL: [&str; 6] =
    ["Cargo.toml", "Cargo.lock", "src/main.rs", "src/pool.rs", "src/properties.rs", "src/sync.rs"];

/// What `cargo xtask model` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Schedules for each property.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    schedules: u64,
    /// Where the choice of schedules begins; another one tries others.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leaves the planted faults out.
    #[arg(long)]
    no_plants: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { schedules: 10_000, seed: 1, no_plants: false }
    }
}

/// A fault: a text of one of the two files, and what stands there instead.
struct Plant {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const PLANTS: [Plant; 6] = [
    Plant {
        name: "looking for an idle connection and queueing are two critical sections",
        file: "shell.rs",
        from: "Take::Wait => core.enqueue(give).map_err(|_| core.counts().waiting),\n        };\n        drop(core);",
        to: "Take::Wait => {\n drop(core);\n keeper.shell().core.lock().enqueue(give).map_err(|_| 0)\n }\n };",
    },
    Plant {
        name: "a waiter that leaves stays in the queue",
        file: "shell.rs",
        from: "if !self.over {",
        to: "if self.over {",
    },
    Plant {
        name: "after a lost connection no other is opened",
        file: "shell.rs",
        from: "keeper.shell().core.lock().forfeit();\n        Self::open_wished(keeper);",
        to: "keeper.shell().core.lock().forfeit();",
    },
    Plant {
        name: "what comes back to a pool that was shrunk is kept",
        file: "core.rs",
        from: "if self.phase == Phase::Closed || self.total() > self.limits.max() {",
        to: "if self.phase == Phase::Closed {",
    },
    Plant {
        name: "who came last is served first",
        file: "core.rs",
        from: "&& let Some((_, waiter)) = self.waiters.pop_front()\n        {\n            self.acquired += 1;\n            return",
        to: "&& let Some((_, waiter)) = self.waiters.pop_back()\n        {\n            self.acquired += 1;\n            return",
    },
    Plant {
        name: "an attempt that is not wanted any more goes on being counted",
        file: "core.rs",
        from: "if !wanted {\n            self.connecting -= 1;\n        }",
        to: "",
    },
];

/// Runs the properties, then the plants; exit 1 when a property failed or a plant was not found.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let root = workspace::root().join(CRATE);
    workspace::run_ok(running(&root, args)?).context("a property does not hold")?;
    if args.no_plants {
        return Ok(0);
    }
    for plant in &PLANTS {
        let found = plant.found_by(&root, args).with_context(|| format!("planted: {}", plant.name))?;
        let by =
            found.with_context(|| format!("no property finds a fault that was planted: {}", plant.name))?;
        eprintln!("planted: {}; found by: {by}", plant.name);
    }
    Ok(0)
}

/// The model below this copy of the crate.
fn model(root: &Path, job: &str) -> Result<Command> {
    let mut cargo = workspace::cargo([job, "--locked", "--quiet", "--manifest-path"]);
    cargo.arg(root.join("tests/model/Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", workspace::target_dir()?.join("model"));
    Ok(cargo)
}

fn running(root: &Path, args: &Args) -> Result<Command> {
    let mut run = model(root, "run")?;
    run.args(["--", &args.schedules.to_string(), &args.seed.to_string()]);
    Ok(run)
}

impl Plant {
    /// The property that failed; `None`: all held.
    fn found_by(&self, root: &Path, args: &Args) -> Result<Option<String>> {
        let copy = tempfile::tempdir().context("cannot create a temporary folder")?;
        for file in MODEL
            .map(|file| format!("tests/model/{file}"))
            .iter()
            .map(String::as_str)
            .chain(["src/core.rs", "src/shell.rs"])
        {
            let to = copy.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap_or(copy.path()))?;
            std::fs::copy(root.join(file), to).with_context(|| format!("cannot copy {file}"))?;
        }
        let path = copy.path().join("src").join(self.file);
        let text = std::fs::read_to_string(&path)?;
        let times = text.matches(self.from).count();
        ensure!(times == 1, "{} has the text to be replaced {times} times, not once", self.file);
        std::fs::write(&path, text.replace(self.from, self.to))?;
        // What does not even compile was not found by any property.
        workspace::run_ok(model(copy.path(), "build")?)?;
        let output = running(copy.path(), args)?.output().context("cannot run the model")?;
        if output.status.success() {
            return Ok(None);
        }
        // It names each property before it tries it.
        let said = String::from_utf8_lossy(&output.stdout);
        let (name, _) = said.lines().last().and_then(|line| line.split_once(": ")).unwrap_or_default();
        Ok(Some(name.to_owned()))
    }
}
