//! `dbsvc pubsub …` on the command line.

use clap::{Args, Subcommand, ValueEnum};

use super::Confirm;

#[derive(Debug, Subcommand)]
pub(crate) enum PubsubCommand {
    /// The bus, messages, gaps
    Stats,
    /// The channels that the instance publishes on
    Channels,
    /// The names and patterns that the instance is subscribed to: exit 1 when messages were missed or dropped
    Subscribers,
    /// Print messages as they come, until Ctrl-C; nothing is acknowledged or changed
    #[command(after_help = "\
Examples:
  dbsvc pubsub tail 'orders.>' --up up.json
  dbsvc pubsub tail orders.created --max 10 --for 60 --json | jq .value

A pattern's `*` is one part of a name, a last `>` the rest. Gaps are printed where messages were missed.")]
    Tail {
        /// A name, or a pattern
        pattern: String,
        /// End after so many messages: exit 0
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        max: Option<u64>,
        /// End after so many seconds: exit 0, or 1 if --max was not reached
        #[arg(long = "for", value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
        run_for: Option<u64>,
        /// Where the channel lives
        #[arg(long, value_enum, default_value_t = LaneChoice::Plain)]
        lane: LaneChoice,
    },
    /// Publish a message
    #[command(after_help = "Example: dbsvc pubsub publish orders.created '{\"id\": 7}' --up up.json")]
    Publish {
        channel: String,
        /// JSON; what is no JSON is taken as a string
        message: String,
        /// Where the channel lives
        #[arg(long, value_enum, default_value_t = TargetChoice::Plain)]
        lane: TargetChoice,
        /// How it is encoded; default: the instance's
        #[arg(long, value_enum)]
        codec: Option<CodecChoice>,
    },
    /// Durable channels: their groups, with lag, pending and dead letters: exit 1 when something is amiss
    #[command(after_help = "\
Amiss is a group with dead letters, with losses, paused, or without consumers while something waits for it.")]
    Groups {
        /// Only this channel
        channel: Option<String>,
    },
    /// Change a group of a durable channel, for the whole fleet
    #[command(subcommand)]
    Group(GroupCommand),
    /// Messages that a group could not handle
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Messages of committed transactions on their way to their channels
    #[command(subcommand)]
    Outbox(OutboxCommand),
}

/// A group of a durable channel.
#[derive(Args, Clone, Debug)]
pub(crate) struct GroupName {
    /// The durable channel
    pub(crate) channel: String,
    /// The group
    pub(crate) group: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Deliver nothing more to it, also after restarts, until `resume`
    Pause(GroupName),
    /// Deliver to it again
    Resume(GroupName),
    /// Deliver to it once more what is kept from a place on
    #[command(after_help = "\
Examples:
  dbsvc pubsub group replay orders billing --from earliest --up up.json
  dbsvc pubsub group replay orders billing --from \"$(date -d '1 hour ago' +%s)\" --up up.json

`--from now` skips what it has not got yet.")]
    Replay {
        #[command(flatten)]
        name: GroupName,
        /// earliest, now, a position (1732225000123-7), or seconds since 1970
        #[arg(long)]
        from: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Remove it with its dead letters, so that nothing is kept for it
    Delete {
        #[command(flatten)]
        name: GroupName,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Show them, oldest first: exit 1 when there are any
    List {
        /// Only of this durable channel
        channel: Option<String>,
        /// Only of this group
        group: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Only those after this id, of one group
        #[arg(long, value_name = "ID", requires = "group")]
        after: Option<String>,
    },
    /// Deliver them to their group again, counting anew
    #[command(after_help = "\
Examples:
  dbsvc pubsub dead-letters retry orders billing 1732225000123-7 --up up.json
  dbsvc pubsub dead-letters retry orders billing --all --up up.json")]
    Retry(Letters),
    /// Remove them for good
    Drop {
        #[command(flatten)]
        letters: Letters,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// Which dead letters.
#[derive(Args, Clone, Debug)]
pub(crate) struct Letters {
    #[command(flatten)]
    pub(crate) name: GroupName,
    /// Their ids, as `list` shows them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// All of the group
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// What waits, for how long, and behind which transaction: exit 1 when messages were put aside or something holds it up
    Status,
    /// Messages that their channel refuses for good: exit 1 when there are any
    Dead {
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Only those after this number
        #[arg(long, value_name = "ID")]
        after: Option<i64>,
    },
    /// Publish them again, behind what has been published since
    Retry(Posts),
    /// Remove them for good
    Drop {
        #[command(flatten)]
        posts: Posts,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// Which messages that were put aside.
#[derive(Args, Clone, Debug)]
pub(crate) struct Posts {
    /// Their numbers, as `dead` shows them
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<i64>,
    /// All
    #[arg(long)]
    pub(crate) all: bool,
}

/// The lanes, and the other kind of channel.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum TargetChoice {
    Plain,
    Sharded,
    Raw,
    Durable,
}

impl TargetChoice {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sharded => "sharded",
            Self::Raw => "raw",
            Self::Durable => "durable",
        }
    }
}

/// The lanes of `pubsub_manager::Lane`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LaneChoice {
    Plain,
    Sharded,
    Raw,
}

impl LaneChoice {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sharded => "sharded",
            Self::Raw => "raw",
        }
    }
}

/// The codecs of `pubsub_manager::Codec`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CodecChoice {
    MessagePack,
    Json,
    CloudEvents,
}

impl CodecChoice {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::MessagePack => "message_pack",
            Self::Json => "json",
            Self::CloudEvents => "cloud_events",
        }
    }
}
