//! The command line as types: every command, its help and its examples.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use ops_http::Listen;

mod operate;
mod pubsub;
pub(crate) use operate::{
    At, Confirm, DbCommand, FailoverCommand, For, OnOff, PoolCommand, ReplicasCommand, Switch, Work,
};
pub(crate) use pubsub::{
    DeadLettersCommand, GroupCommand, GroupName, LaneChoice, Letters, OutboxCommand, Posts, PubsubCommand,
};

const EXIT_CODES: &str = "\
Exit codes:
  0   fine
  1   done, with a warning or a finding
  2   failed (also: a second SIGTERM or Ctrl-C while draining)
  64  usage or settings
  69  a server cannot be reached

Results go to stdout, everything else to stderr. LOG_LEVEL sets what is logged.";

/// Serve, inspect and operate the data-access layer.
#[derive(Debug, Parser)]
#[command(name = "dbsvc", version, after_help = EXIT_CODES, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// Print results as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) instance: Instance,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the services and their HTTP face until SIGTERM or Ctrl-C
    #[command(after_help = "\
Examples:
  dbsvc serve
  dbsvc serve --listen 127.0.0.1:9000 --token-file /run/dbsvc/token
  dbsvc serve --listen unix:/run/dbsvc/http.sock --config /etc/dbsvc.toml --profile production

The first SIGTERM or Ctrl-C drains (for at most the grace period) and ends with 0, or with 1 if something had to be cut off;
the second one ends at once with 2.")]
    Serve(ServeArgs),
    /// Check, show or explain the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Bring the schema up to date
    #[command(after_help = "\
Examples:
  dbsvc migrate --plan        what would be run
  dbsvc migrate               run it
  dbsvc migrate --roles | psql -v ON_ERROR_STOP=1 …     make the owner role and the run-time role
  dbsvc migrate --roles --owner shop_owner --runtime shop | psql …

Migrations only go forward, and a second run finds nothing to do. They use the settings' Postgres primary.")]
    Migrate(MigrateArgs),
    /// Health of a running instance: exit 0 healthy, 1 degraded, 2 unhealthy
    #[command(after_help = "\
Examples:
  dbsvc health --url http://127.0.0.1:8000 --token-file /run/dbsvc/token
  dbsvc health --up up.json --json")]
    Health,
    /// Figures of a running instance
    #[command(after_help = "\
Examples:
  dbsvc stats --up up.json
  dbsvc stats cache --up up.json --json")]
    Stats {
        /// One component only: database, cache, locks, pubsub, health
        component: Option<String>,
    },
    /// Any action of a running instance's admin transport
    #[command(after_help = "\
Examples:
  dbsvc admin --up up.json                       list what there is
  dbsvc admin --up up.json health check
  dbsvc admin --up up.json cache get '{\"key\": \"user:1\"}'")]
    Admin {
        /// Component, for example cache
        #[arg(requires = "action")]
        component: Option<String>,
        /// Action, for example get
        action: Option<String>,
        /// Input as a JSON object
        input: Option<String>,
    },
    /// The cache of a running instance
    #[command(subcommand)]
    Cache(CacheCommand),
    /// The connection pool of a running instance, and what its servers do
    #[command(subcommand)]
    Pool(PoolCommand),
    /// The balancer of a running instance: which server gets reads
    #[command(subcommand)]
    Replicas(ReplicasCommand),
    /// The Postgres servers of the settings: who is at work, sizes, indexes, replication, maintenance
    #[command(subcommand)]
    Db(DbCommand),
    /// Promote a standby, point the others at it, go back: at the servers of the settings
    #[command(subcommand)]
    Failover(FailoverCommand),
    /// The Redis links of a running instance
    #[command(subcommand)]
    Redis(RedisCommand),
    /// The locks of a running instance
    #[command(subcommand)]
    Locks(LocksCommand),
    /// Messages of a running instance
    #[command(subcommand)]
    Pubsub(PubsubCommand),
    /// Print a completion script
    #[command(after_help = "Example: dbsvc completion bash > /etc/bash_completion.d/dbsvc")]
    Completion {
        /// The shell that it is for
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// A running instance, and how long to wait for it. Given before or after the command.
#[derive(Args, Debug)]
#[command(next_help_heading = "A running instance")]
pub(crate) struct Instance {
    /// Its address: http://HOST:PORT or unix:PATH
    #[arg(long, global = true, env = "DBSVC_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The file that holds its admin token; without it DBSVC_TOKEN is used. For `serve`: made (mode 0600) when it is not
    /// there; without it HTTP_ADMIN_TOKEN or DBSVC_TOKEN is used, and without any, a token is made in a private file,
    /// told at start and removed at the end
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The file written by `cargo xtask up --json FILE`; comes before --url
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) up: Option<PathBuf>,
    // Never a command-line argument, which every user of the machine could read.
    #[arg(skip = env_token())]
    pub(crate) token: Option<Secret>,
    /// Seconds to wait for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 35, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
}

/// `DBSVC_TOKEN`, unless it is empty.
pub(crate) fn env_token() -> Option<Secret> {
    std::env::var("DBSVC_TOKEN").ok().filter(|token| !token.is_empty()).map(Secret)
}

/// A text that `Debug` does not show.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where settings come from, besides the environment.
#[derive(Args, Debug)]
pub(crate) struct SettingsArgs {
    /// A TOML file with settings; the environment comes before it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A profile: development, production, high-traffic, memory-constrained, ultra-low-latency
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// mcp_server, high_availability, async_modern or admin; comes before DATABASE_SERVICES_MODE
    #[arg(long)]
    pub(crate) mode: Option<String>,
    /// HOST:PORT or unix:PATH; comes before HTTP_LISTEN. Port 0 takes a free one
    #[arg(long)]
    pub(crate) listen: Option<Listen>,
    /// Seconds that draining may take; comes before DATABASE_SERVICES_SHUTDOWN_GRACE
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) grace: Option<u64>,
    /// Drain when standard input ends, as on SIGTERM: for a program that starts this one and must not outlive it
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check all settings: every problem at once, each with its source and the mend
    #[command(after_help = "\
Examples:
  dbsvc config check
  dbsvc config check --config /etc/dbsvc.toml --profile production --json")]
    Check(SettingsArgs),
    /// Show the settings in effect, with where each comes from; secrets are hidden
    #[command(after_help = "Example: dbsvc config show --json")]
    Show(SettingsArgs),
    /// Explain one setting: what it does, its default, its aliases, its value now and where that comes from
    #[command(after_help = "Example: dbsvc config explain CACHE_L1_SIZE")]
    Explain {
        /// The setting's name, or one of its aliases
        key: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Show what would be run, and run nothing: exit 0 up to date, 1 something is pending
    #[arg(long, conflicts_with = "roles")]
    pub(crate) plan: bool,
    /// Print the SQL that makes the owner role and the run-time role, and do nothing
    #[arg(long)]
    pub(crate) roles: bool,
    /// The owner role's name; default: the schema's with `_owner`
    #[arg(long, value_name = "NAME", requires = "roles")]
    pub(crate) owner: Option<String>,
    /// The run-time role's name; default: the schema's with `_runtime`
    #[arg(long, value_name = "NAME", requires = "roles")]
    pub(crate) runtime: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Hits, sizes, times
    Stats,
    /// Look a key up in L1, L2, L3: exit 1 when it is in none
    #[command(after_help = "Example: dbsvc cache get user:1 --up up.json")]
    Get { key: String },
    /// Set a key
    #[command(after_help = "Example: dbsvc cache set user:1 '{\"name\": \"Ada\"}' --ttl 60 --up up.json")]
    Set {
        key: String,
        /// JSON; what is no JSON is taken as a string
        value: String,
        /// Seconds to live; default: the setting CACHE_TTL
        #[arg(long)]
        ttl: Option<u64>,
    },
    /// Make every process forget these keys
    #[command(after_help = "Example: dbsvc cache invalidate user:1 user:2 --up up.json")]
    Invalidate {
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Clear the cache
    Clear {
        /// Only this instance's memory
        #[arg(long)]
        l1: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RedisCommand {
    /// Masters, epochs, replicas, errors, certificates: exit 0 well, 1 with a warning, 2 not connected
    #[command(after_help = "\
Examples:
  dbsvc redis status --up up.json
  dbsvc redis status --up up.json --json | jq '.redis.masters[].endpoint'

A warning is a master or a replica that is missing, or a certificate that ends within 14 days.")]
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LocksCommand {
    /// Acquires by outcome, contention, hold times
    Stats,
}
