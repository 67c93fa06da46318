//! Settings of the manager and of a region, with their defaults and limits. Not here: reading the environment
//! (the composition root does that).

use std::fmt;
use std::time::Duration;

/// Longest time to live: a year. Longer ones are refused rather than overflow silently.
pub const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);
/// Longest key in bytes; one less for a key that begins with `%` or `}`, which the names in Redis escape.
pub const MAX_KEY: usize = 1024;
/// Most regions in one process.
pub const MAX_REGIONS: usize = 1024;

/// Settings of a [`CacheManager`](crate::CacheManager).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Entries that L1 holds over all regions. Default 1000 (the mode overrides it).
    pub l1_entries: usize,
    /// An entry's default time to live. Default 30 min.
    pub ttl: Duration,
    /// Longest stay of an entry in L2, whatever its time to live. Default 5 min.
    pub l2_ttl: Duration,
    /// Time to live of a known absence. Default 30 s: short, since nothing invalidates a row that appears elsewhere.
    pub negative_ttl: Duration,
    /// How long after its expiry an entry may still be served when loading fails or is slow. Default 5 min.
    pub stale_for: Duration,
    /// Whether L3 is used where Postgres is given. Default true.
    pub l3_enabled: bool,
    /// Most L3 fills a second; more are dropped and counted. Default 200.
    pub l3_writes_per_s: u32,
    /// L3 is consulted and filled only where a load costs more than this many L3 reads. Default 5.
    pub l3_admission: f64,
    /// A load slower than this answers with the stale value, if there is one, and goes on. Default 500 ms.
    pub soft_timeout: Duration,
    /// A load slower than this fails. Default 10 s.
    pub hard_timeout: Duration,
    /// After a failed load its error is handed out for this long before the next load. Default 200 ms.
    pub failure_backoff: Duration,
    /// The fleet-wide right to load a key ends this long after its holder died; a live holder renews it.
    /// Default 2 s: the longest that others wait for a process that was killed while loading.
    pub load_lease: Duration,
    /// Longest wait for one answer of L2 on a read. Default 250 ms: far above what a healthy Redis needs, so that a busy
    /// machine does not lose its L2 just then.
    pub l2_timeout: Duration,
    /// Longest wait for one answer of L3 on a read or fill. Default 1 s.
    pub l3_timeout: Duration,
    /// Longest wait for each step of an invalidation. Default 2 s.
    pub invalidate_timeout: Duration,
    /// L1 entries are served at most this long after they were last known to be current. Default 5 s.
    pub disconnected_max_age: Duration,
    /// Largest encoded value in bytes. Default 1 MiB.
    pub max_value: usize,
    /// Fences kept; when there are more, whole regions are fenced instead. Default 65,536.
    pub max_fences: usize,
    /// Invalidations waiting for delivery, one a key; when there are more, whole regions wait. Default 10,000.
    pub max_pending: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            l1_entries: 1000,
            ttl: Duration::from_secs(1800),
            l2_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(30),
            stale_for: Duration::from_secs(300),
            l3_enabled: true,
            l3_writes_per_s: 200,
            l3_admission: 5.0,
            soft_timeout: Duration::from_millis(500),
            hard_timeout: Duration::from_secs(10),
            failure_backoff: Duration::from_millis(200),
            load_lease: Duration::from_secs(2),
            l2_timeout: Duration::from_millis(250),
            l3_timeout: Duration::from_secs(1),
            invalidate_timeout: Duration::from_secs(2),
            disconnected_max_age: Duration::from_secs(5),
            max_value: 1 << 20,
            max_fences: 65_536,
            max_pending: 10_000,
        }
    }
}

/// One thing wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field.
    pub setting: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

impl Config {
    /// Checks everything and reports all problems at once.
    ///
    /// # Errors
    /// Every field that is outside its limits, or contradicts another.
    pub fn validate(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, setting: &'static str, message: &str| {
            if !ok {
                problems.push(Problem { setting, message: message.to_owned() });
            }
        };
        check((1..=100_000_000).contains(&self.l1_entries), "l1_entries", "1 to 100,000,000 entries");
        for (setting, value) in
            [("ttl", self.ttl), ("l2_ttl", self.l2_ttl), ("negative_ttl", self.negative_ttl)]
        {
            check(!value.is_zero() && value <= MAX_TTL, setting, "more than zero and at most a year");
        }
        check(self.stale_for <= MAX_TTL, "stale_for", "at most a year");
        check(self.l3_admission.is_finite() && self.l3_admission >= 0.0, "l3_admission", "zero or more");
        let times = [
            ("soft_timeout", self.soft_timeout),
            ("hard_timeout", self.hard_timeout),
            ("load_lease", self.load_lease),
            ("l2_timeout", self.l2_timeout),
            ("l3_timeout", self.l3_timeout),
            ("invalidate_timeout", self.invalidate_timeout),
            ("disconnected_max_age", self.disconnected_max_age),
        ];
        for (setting, value) in times {
            check(value >= Duration::from_millis(1), setting, "at least 1 ms");
            check(value <= Duration::from_secs(3600), setting, "at most an hour");
        }
        check(self.soft_timeout <= self.hard_timeout, "soft_timeout", "at most the hard time-out");
        check(
            self.load_lease >= Duration::from_millis(100),
            "load_lease",
            "at least 100 ms, to be renewed in",
        );
        check(self.failure_backoff <= self.hard_timeout, "failure_backoff", "at most the hard time-out");
        check((64..=1 << 28).contains(&self.max_value), "max_value", "64 bytes to 256 MiB");
        check(self.max_fences >= 64, "max_fences", "at least 64");
        check(self.max_pending >= 64, "max_pending", "at least 64");
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// How values of a region are encoded in L2 and L3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// MessagePack with field names, so that fields may be added and moved. The default.
    #[default]
    MessagePack,
    /// JSON, readable by others.
    Json,
}

/// Settings of one region; `None` takes the manager's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegionOptions {
    /// Time to live of entries.
    pub ttl: Option<Duration>,
    /// Time to live of a known absence.
    pub negative_ttl: Option<Duration>,
    /// How long after expiry an entry may be served when loading fails or is slow.
    pub stale_for: Option<Duration>,
    /// Soft time-out of loads.
    pub soft_timeout: Option<Duration>,
    /// Hard time-out of loads.
    pub hard_timeout: Option<Duration>,
    /// Encoding in L2 and L3.
    pub codec: Codec,
    /// Number that a change of the value's meaning raises: entries of another one are misses. Default 0.
    pub schema_version: u32,
    /// Whether entries stay out of L1 (large values that are read rarely). Default false.
    pub skip_l1: bool,
    /// Whether L2 is left alone. Must be the same in every process. Default false.
    pub skip_l2: bool,
    /// Whether L3 is left alone. Must be the same in every process. Default false.
    pub skip_l3: bool,
}
