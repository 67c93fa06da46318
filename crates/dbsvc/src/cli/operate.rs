//! The commands that look at Postgres and act on it: `pool`, `replicas`, `db`, `failover`.

use clap::{Args, Subcommand, ValueEnum};

use super::SettingsArgs;

/// What cannot be taken back is asked about on a terminal; without one it has to be said beforehand.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Confirm {
    /// Do not ask; needed where nobody can be asked
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// Sessions of this application, user and database
    #[default]
    Own,
    /// All in the database
    Database,
    /// All at the server
    Server,
}

impl Scope {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Database => "database",
            Self::Server => "server",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Connections, utilization, waiting callers
    Stats,
    /// Change the pool's size at run time
    #[command(after_help = "Example: dbsvc pool resize 20 --overflow 10 --up up.json")]
    Resize {
        size: u32,
        /// Connections beyond the size under load; default: as it is
        #[arg(long)]
        overflow: Option<u32>,
    },
    /// Sessions at a server of the pool, running ones first
    #[command(after_help = "\
Examples:
  dbsvc pool sessions --up up.json
  dbsvc pool sessions --scope database --limit 20 --json --up up.json")]
    Sessions {
        /// Whose sessions
        #[arg(long, value_enum, default_value_t)]
        scope: Scope,
        /// The server, as `dbsvc replicas list` names it; default: the primary
        #[arg(long)]
        server: Option<String>,
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
    },
    /// End a session, or all that are slow or idle for long
    #[command(after_help = "\
Examples:
  dbsvc pool kill 4711@1700000000000000 --yes --up up.json
  dbsvc pool kill --slow 5 --up up.json                 cancel our own statements that run for more than 5 s
  dbsvc pool kill --idle 300 --dry-run --up up.json     which sessions are idle for more than 5 min

A session is named as `dbsvc pool sessions` shows it, number and start: a number alone may be given to another.
Exit codes: 0 done, 1 nothing was there to end or some may not be ended, 2 failed.")]
    #[command(group = clap::ArgGroup::new("which").required(true).args(["session", "slow", "idle"]))]
    Kill {
        /// PID@START
        session: Option<String>,
        /// Statements that run for more seconds than this; default 5
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", value_parser = seconds)]
        slow: Option<f64>,
        /// Sessions idle for more seconds than this, in a transaction or not; default 300
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300", value_parser = seconds)]
        idle: Option<f64>,
        /// Whose sessions
        #[arg(long, value_enum, default_value_t, conflicts_with = "session")]
        scope: Scope,
        /// End the sessions of slow statements instead of cancelling the statements
        #[arg(long, conflicts_with_all = ["session", "idle"])]
        terminate: bool,
        /// Only show which
        #[arg(long, conflicts_with = "session")]
        dry_run: bool,
        /// The server; default: the primary
        #[arg(long)]
        server: Option<String>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Cancel the statement that a session runs
    #[command(after_help = "Example: dbsvc pool cancel 4711@1700000000000000 --up up.json")]
    Cancel {
        /// PID@START, as `dbsvc pool sessions` shows it
        session: String,
        /// The server; default: the primary
        #[arg(long)]
        server: Option<String>,
    },
    /// The statements with the longest mean duration
    #[command(after_help = "Example: dbsvc pool slow --limit 5 --up up.json")]
    Slow {
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// The server; default: the primary
        #[arg(long)]
        server: Option<String>,
    },
    /// A statement's plan and what to do about it: exit 1 when there is advice
    #[command(after_help = "\
Examples:
  dbsvc pool explain 'SELECT * FROM orders WHERE customer_id = $1' --up up.json
  dbsvc pool explain --analyze 'SELECT count(*) FROM orders' --up up.json

Nothing is run without --analyze; with it, only what does nothing but read, in a transaction that is rolled back.")]
    Explain {
        sql: String,
        /// Run it, for real row counts and times
        #[arg(long)]
        analyze: bool,
        /// Longest run, seconds; default 5
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        run_for: Option<f64>,
        /// The server; default: the primary
        #[arg(long)]
        server: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicasCommand {
    /// Every server as the balancer sees it: exit 1 when a replica does not serve
    #[command(after_help = "Example: dbsvc replicas list --up up.json")]
    List,
    /// Add a replica; it serves after its first good probe
    #[command(after_help = "\
Example: dbsvc replicas add db3.internal:5432 --weight 2 --up up.json

User, password and TLS are the settings' own. Until the instance restarts; for good, add it to DATABASE_REPLICAS.")]
    Add {
        /// HOST or HOST:PORT
        replica: String,
        #[arg(long, allow_negative_numbers = true)]
        weight: Option<i32>,
    },
    /// Give a replica no more reads; sessions in use are not disturbed
    #[command(after_help = "\
Examples:
  dbsvc replicas drain db2.internal:5432 --up up.json
  dbsvc replicas drain db2.internal:5432 --undo --up up.json")]
    Drain {
        replica: String,
        /// Give it reads again
        #[arg(long)]
        undo: bool,
    },
    /// Forget a replica
    #[command(after_help = "Example: dbsvc replicas remove db2.internal:5432 --yes --up up.json")]
    Remove {
        replica: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Change a replica's share of the reads; 0: none
    #[command(after_help = "Example: dbsvc replicas weight db2.internal:5432 3 --up up.json")]
    Weight {
        replica: String,
        #[arg(allow_negative_numbers = true)]
        weight: i32,
    },
    /// Send all reads to the primary (on), or let them go to replicas again (off)
    #[command(after_help = "Example: dbsvc replicas force-primary on --up up.json")]
    ForcePrimary { state: OnOff },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

/// Where a `db` command looks.
#[derive(Args, Debug)]
pub(crate) struct At {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// The server, HOST:PORT as in the settings; default: the primary
    #[arg(long)]
    pub(crate) server: Option<String>,
    /// Rows of a list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) limit: u64,
}

/// What maintenance works on, and for how long at most.
#[derive(Args, Debug)]
#[group(id = "what", multiple = false, args = ["table", "schema"])]
pub(crate) struct Work {
    /// TABLE or SCHEMA.TABLE, with double quotes where SQL wants them
    pub(crate) table: Option<String>,
    /// All tables of this schema
    #[arg(long)]
    pub(crate) schema: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct For {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Longest run of all of it; the server stops, too
    #[arg(long, value_name = "SECONDS", default_value_t = 4 * 3600, value_parser = clap::value_parser!(u64).range(1..=30 * 24 * 3600))]
    pub(crate) run_for: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// All sessions in the database, and transactions open for more than a minute (exit 1 when there are)
    #[command(after_help = "Example: dbsvc db activity --server db2.internal:5432 --json")]
    Activity(At),
    /// Indexes by use, unused first: exit 1 when one may go
    #[command(after_help = "Example: dbsvc db indexes --limit 20")]
    Indexes(At),
    /// Databases and the largest tables
    #[command(after_help = "Example: dbsvc db sizes")]
    Sizes(At),
    /// Who follows whom, how far behind, slots, and how fast the log grows: exit 1 when something is amiss
    #[command(after_help = "Example: dbsvc db replication --json")]
    Replication(At),
    /// Remove dead rows
    #[command(after_help = "\
Examples:
  dbsvc db vacuum public.orders
  dbsvc db vacuum --schema public --run-for 7200
  dbsvc db vacuum --state                          how well the server's own vacuum keeps up

Exit codes: 0 done, 1 some tables were left out, 2 failed.")]
    Vacuum {
        #[command(flatten)]
        work: Work,
        /// Show dead rows and ages instead, and do nothing
        #[arg(long, conflicts_with_all = ["table", "schema", "full"])]
        state: bool,
        /// Write the table anew and give the space back; nobody can even read it meanwhile
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        limits: For,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Count anew what the planner goes by
    #[command(after_help = "Example: dbsvc db analyze --schema public")]
    Analyze {
        #[command(flatten)]
        work: Work,
        #[command(flatten)]
        limits: For,
    },
    /// Build indexes anew, without keeping writers waiting
    #[command(after_help = "Example: dbsvc db reindex public.orders")]
    Reindex {
        #[command(flatten)]
        work: Work,
        /// Quicker, and writers wait meanwhile
        #[arg(long)]
        blocking: bool,
        #[command(flatten)]
        limits: For,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Switch {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Longest wait for all of it, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) wait: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FailoverCommand {
    /// Who is primary, who follows whom, who is how far: exit 1 when one does not answer, 2 without exactly one primary
    #[command(after_help = "Example: dbsvc failover status --json")]
    Status(Switch),
    /// Make a standby the primary and wait until it can be written
    #[command(after_help = "\
Examples:
  dbsvc failover promote                                  the standby that has received most
  dbsvc failover promote --server db2.internal:5432 --yes

Refused while a primary answers, when another standby has received more, or when the servers are not of one system.
--force overrules this: two primaries that take writes are two histories, one of which is lost.
Exit codes: 0 done, 1 done and log that others had is lost, 2 refused or failed, 64 usage.")]
    Promote {
        /// The standby, HOST:PORT as in the settings
        #[arg(long)]
        server: Option<String>,
        /// Overrule what stands against it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        limits: Switch,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Point the other standbys at the primary and wait until they stream from it
    #[command(after_help = "\
Example: dbsvc failover repoint --address 10.0.0.2:5432

Exit codes: 0 all follow, 1 some were left out (no answer, no standby), 2 one does not follow.")]
    Repoint {
        /// The primary that is meant, HOST:PORT as in the settings; refused if another one is
        #[arg(long)]
        server: Option<String>,
        /// Its address for the standbys, HOST or HOST:PORT; default: as in the settings
        #[arg(long)]
        address: Option<String>,
        #[command(flatten)]
        limits: Switch,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Back to the primary of the settings, once it follows again and has caught up
    #[command(after_help = "\
Example: dbsvc failover back

Refused, with all that is missing, unless it is a standby that streams from the present primary.")]
    Back {
        /// Its address for the other standbys, HOST or HOST:PORT; default: as in the settings
        #[arg(long)]
        address: Option<String>,
        #[command(flatten)]
        limits: Switch,
        #[command(flatten)]
        confirm: Confirm,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    let parsed = text.parse::<f64>().ok().filter(|seconds| (0.0..=1e9).contains(seconds));
    parsed.ok_or_else(|| "give seconds, 0 or more".to_owned())
}
