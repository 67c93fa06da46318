//! The command line of the demo. `cargo xtask demo` and `cargo xtask up` pass their arguments on unchanged.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The main job of database-services as a program: real servers, real service processes, one verdict.
#[derive(Debug, Parser)]
#[command(name = "demo", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the whole data-access layer under load and prints what it measured.
    #[command(after_help = "Examples:\n  cargo xtask demo --seconds 20 --json demo.json\n  \
        cargo xtask demo --chaos\n  cargo xtask demo --servers containers\n  cargo xtask demo --trace accesses.bin\n\n\
        Exit codes: 0 every check held, 1 a check did not hold, 2 the run could not be finished, \
        64 usage, 69 servers missing or unreachable, 130 interrupted.")]
    Run(RunArgs),
    /// Keeps the servers and `dbsvc serve` running until Ctrl-C.
    #[command(after_help = "Examples:\n  cargo xtask up --json up.json\n  dbsvc --up up.json health\n\n\
        Exit codes: 0 after Ctrl-C, 2 could not start, 69 servers missing or unreachable, \
        130 interrupted before it was up.")]
    Up(UpArgs),
    /// One service process; started by `run`, which talks to it over its standard input and output.
    #[command(hide = true)]
    Service,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Measured time in seconds, shared by the four measured runs. Warm-up comes on top.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    pub(crate) seconds: u64,
    /// Writes the report as JSON to this file, whole or not at all.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where the servers come from.
    #[arg(long, value_enum, default_value_t = Servers::Native)]
    pub(crate) servers: Servers,
    /// Keys from a recorded trace instead of Zipf 0.99: one key a line, or big-endian u32.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Kills Redis, brings it back empty, then kills the Postgres replica, while the load runs.
    #[arg(long)]
    pub(crate) chaos: bool,
    /// Service processes, each with a memory cache of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub(crate) processes: u16,
    /// Concurrent readers through the cache, over all processes.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=4096))]
    pub(crate) tasks: u16,
    /// Installs missing servers without asking. (xtask has asked already when it starts this program.)
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Sends a light load through the running instance, so that its metrics have something to show.
    #[arg(long)]
    pub(crate) demo_load: bool,
    /// Writes the addresses and the admin token as JSON (mode 0600) once all is up.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Installs missing servers without asking.
    #[arg(long)]
    pub(crate) yes: bool,
}

impl Command {
    /// What clap cannot say: found before anything is started.
    pub(crate) fn check(&self) -> Result<(), String> {
        let json = match self {
            Self::Run(args) if args.chaos && args.servers == Servers::External => {
                return Err(
                    "--chaos kills servers, and external ones are not ours to kill; use --servers native or containers"
                        .into(),
                );
            }
            Self::Run(args) => &args.json,
            Self::Up(args) => &args.json,
            Self::Service => return Ok(()),
        };
        let folder =
            json.as_deref().and_then(std::path::Path::parent).filter(|path| !path.as_os_str().is_empty());
        match folder {
            Some(folder) if !folder.is_dir() => {
                Err(format!("--json: there is no folder {}", folder.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Where the demo's servers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Servers {
    /// Started by the demo from installed binaries, private, gone afterwards.
    Native,
    /// Started by the demo from images, by the container engine of this machine; otherwise as native ones. Images by
    /// `LOCAL_STACK_POSTGRES_IMAGE` and `LOCAL_STACK_REDIS_IMAGE`. Needs the build that `cargo xtask demo` makes for it.
    Containers,
    /// Already running; addresses from `LOCAL_STACK_POSTGRES_URL` and `LOCAL_STACK_REDIS_URL`, replicas from
    /// `LOCAL_STACK_POSTGRES_REPLICA_URLS` and `LOCAL_STACK_REDIS_REPLICA_URLS`. Schemas `demo` and `demo_services` of
    /// that database are made anew; keys in Redis begin with `demo-` and expire.
    External,
}

impl Servers {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Containers => "containers",
            Self::External => "external",
        }
    }
}
