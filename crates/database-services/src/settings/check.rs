//! What no single value can say: bounds between settings, contradictions, what production refuses.

use secrecy::ExposeSecret;

use super::problem::{Problem, Source};
use super::value::{Parsed, format_duration};
use super::{Settings, table, url_parts};

/// Collects problems; each is booked on the setting that is to be changed.
struct Report<'a> {
    settings: &'a Settings,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    fn problem(&mut self, key: &str, message: impl Into<String>, mend: impl Into<String>) {
        let setting = table::TABLE.iter().find(|d| d.key == key).map_or(key, |d| d.name).to_owned();
        // One that could not be read at all has its problem already.
        if self.problems.iter().any(|p| p.setting == setting) {
            return;
        }
        let source = self.settings.source(key);
        self.problems.push(Problem { setting, source, message: message.into(), mend: mend.into() });
    }

    fn given(&self, key: &str) -> bool {
        self.settings.source(key) != Source::Default
    }
}

pub(super) fn all(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut report = Report { settings, problems };
    postgres(&mut report);
    redis(&mut report);
    service(&mut report);
    health(&mut report);
    if settings.is_production() {
        production(&mut report);
    }
    // What the components themselves say, so that nobody hears of it at the start only. A part whose settings have a
    // problem already would only repeat it in other words.
    let group = |name: &str| table::TABLE.iter().find(|d| d.name == name).map(|d| d.group);
    let known: Vec<_> = problems.iter().filter_map(|p| group(&p.setting)).collect();
    let said = crate::configs::problems(settings.manager_mode(), settings);
    problems.extend(said.into_iter().filter(|p| group(&p.setting).is_none_or(|g| !known.contains(&g))));
}

fn postgres(report: &mut Report<'_>) {
    let s = report.settings;
    let sum = s.database_pool_size.saturating_add(s.database_max_overflow);
    if sum > s.database_max_connections {
        report.problem(
            "database_max_connections",
            format!(
                "DATABASE_POOL_SIZE {} + DATABASE_MAX_OVERFLOW {} = {sum} is more than the fleet's budget of {}",
                s.database_pool_size, s.database_max_overflow, s.database_max_connections
            ),
            format!("raise DATABASE_MAX_CONNECTIONS to at least {sum}, or lower the other two"),
        );
    }
    if s.database_min_idle > s.database_pool_size {
        report.problem(
            "database_min_idle",
            format!("{} is more than DATABASE_POOL_SIZE {}", s.database_min_idle, s.database_pool_size),
            "lower it",
        );
    }
    let mode = s.database_ssl_mode.as_deref();
    match (s.database_use_ssl, mode) {
        (Some(true), Some("disable" | "prefer"))
        | (Some(false), Some("require" | "verify-ca" | "verify-full")) => {
            report.problem(
                "database_ssl_mode",
                format!(
                    "says {} and DATABASE_USE_SSL says {}",
                    mode.unwrap_or_default(),
                    s.database_use_ssl.unwrap_or_default()
                ),
                "keep one of DATABASE_SSL_MODE (or the URL's sslmode) and DATABASE_USE_SSL",
            );
        }
        _ => {}
    }
    pair(report, "database_ssl_cert_path", "database_ssl_key_path");
    match &s.database_direct_url {
        None if s.database_pgbouncer => report.problem(
            "database_direct_url",
            "is missing, and DATABASE_PGBOUNCER is on: migrations and LISTEN need Postgres itself",
            "set DATABASE_DIRECT_URL to the primary, or DATABASE_PGBOUNCER=false",
        ),
        None => {}
        Some(url) => {
            if let Err(why) = url_parts::parse("database_url", url.expose_secret()) {
                report.problem("database_direct_url", why.message, why.mend);
            }
        }
    }
    let schema_ok = !s.database_schema.is_empty()
        && s.database_schema.len() <= 63
        && s.database_schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !s.database_schema.starts_with(|c: char| c.is_ascii_digit());
    if !schema_ok || s.database_schema.starts_with("pg_") {
        report.problem(
            "database_schema",
            format!("{:?} is not a plain schema name", s.database_schema),
            "use lower-case letters, digits and _, at most 63, not beginning with a digit or pg_",
        );
    }
    for item in s.database_replicas.iter().chain(&s.database_replica_host) {
        if super::hosts::parse(item, 5432).is_err() {
            let key = if s.database_replicas.contains(item) {
                "database_replicas"
            } else {
                "database_replica_host"
            };
            report.problem(
                key,
                format!("{item:?} is not a replica"),
                "write host[:port][*weight], weight 1 to 1000",
            );
        }
    }
}

fn redis(report: &mut Report<'_>) {
    let s = report.settings;
    if !s.has_redis() {
        for key in ["redis_password", "redis_replica_host", "redis_coordination_url"] {
            if report.given(key) {
                report.problem(
                    key,
                    "is set, but nothing says where Redis is",
                    "set REDIS_URL, REDIS_HOST, REDIS_SENTINELS or REDIS_CLUSTER_NODES, or remove it",
                );
            }
        }
        return;
    }
    redis_topology(report);
    if s.redis_require_auth && s.redis_password.is_none() {
        report.problem(
            "redis_password",
            "is missing, and REDIS_REQUIRE_AUTH is on",
            "set REDIS_PASSWORD or REDIS_PASSWORD_FILE",
        );
    }
    if s.redis_pool_min_size > s.redis_pool_max_size || s.redis_pool_max_size > s.redis_max_connections {
        report.problem(
            "redis_pool_max_size",
            format!(
                "REDIS_POOL_MIN_SIZE {} <= REDIS_POOL_MAX_SIZE {} <= REDIS_MAX_CONNECTIONS {} does not hold",
                s.redis_pool_min_size, s.redis_pool_max_size, s.redis_max_connections
            ),
            "put them in this order",
        );
    }
    pair(report, "redis_ssl_cert_path", "redis_ssl_key_path");
    for item in &s.redis_replica_host {
        if !matches!(super::hosts::parse(item, 6379), Ok(host) if host.weight == 1) {
            report.problem("redis_replica_host", format!("{item:?} is not a replica"), "write host[:port]");
        }
    }
    if let Some(url) = &s.redis_coordination_url
        && let Err(why) = url_parts::parse("redis_url", url.expose_secret())
    {
        report.problem("redis_coordination_url", why.message, why.mend);
    }
    if let Some(ns) = &s.redis_namespace
        && (ns.len() > 64 || !ns.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)))
    {
        report.problem(
            "redis_namespace",
            format!("{ns:?} is not a namespace"),
            "use letters, digits, - _ and ., at most 64",
        );
    }
}

/// One server, Sentinels or a cluster, and what belongs to each.
fn redis_topology(report: &mut Report<'_>) {
    let s = report.settings;
    let (sentinels, cluster) = (!s.redis_sentinels.is_empty(), !s.redis_cluster_nodes.is_empty());
    if sentinels && cluster {
        let mend = "remove REDIS_SENTINELS or REDIS_CLUSTER_NODES";
        report.problem(
            "redis_cluster_nodes",
            "a master is either under Sentinels or part of a cluster",
            mend,
        );
    }
    if s.redis_host.is_some() && (sentinels || cluster) {
        let key = if sentinels { "redis_sentinels" } else { "redis_cluster_nodes" };
        let mend =
            "remove REDIS_URL and REDIS_HOST; user and password go into REDIS_USERNAME and REDIS_PASSWORD";
        report.problem(key, "is set beside the address of one server", mend);
    }
    if s.redis_use_ssl && s.redis_ssl_verify_mode == "ca" && s.redis_ssl_ca_path.is_none() {
        let mend = "set REDIS_SSL_CA_PATH to an authority of your own";
        let what = "without the host name, every certificate that the system trusts would do";
        report.problem("redis_ssl_verify_mode", what, mend);
    }
    if (sentinels || cluster) && !s.redis_replica_host.is_empty() {
        let mend = "remove REDIS_REPLICA_HOST";
        report.problem("redis_replica_host", "Sentinels and clusters tell the replicas themselves", mend);
    }
    if cluster && s.redis_database != 0 {
        report.problem("redis_database", "a cluster has database 0 and no other", "remove REDIS_DATABASE");
    }
    if s.redis_sentinel_username.is_some() && s.redis_sentinel_password.is_none() {
        let mend = "set REDIS_SENTINEL_PASSWORD";
        report.problem("redis_sentinel_username", "needs a password", mend);
    }
    for (key, hosts, port) in [
        ("redis_sentinels", &s.redis_sentinels, 26_379),
        ("redis_cluster_nodes", &s.redis_cluster_nodes, 6379),
    ] {
        for item in hosts {
            if !matches!(super::hosts::parse(item, port), Ok(host) if host.weight == 1) {
                report.problem(key, format!("{item:?} is no server"), "write host[:port],…");
            }
        }
    }
}

fn service(report: &mut Report<'_>) {
    let s = report.settings;
    if s.http_listen.parse::<std::net::SocketAddr>().is_err() {
        let good = s.http_listen.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains([':', '/', ' ']) && port.parse::<u16>().is_ok()
        });
        if !good {
            report.problem(
                "http_listen",
                format!("{:?} is not an address", s.http_listen),
                "write host:port, such as 127.0.0.1:8000 or [::1]:8000",
            );
        }
    }
    if s.maintenance_mode {
        report.problem(
            "maintenance_mode",
            "maintenance mode is not supported yet",
            "remove MAINTENANCE_MODE",
        );
    }
}

/// An answer older than three intervals counts as failed, so a slow probe must be over before: one interval, with its
/// jitter of a tenth, plus the time-out.
fn health(report: &mut Report<'_>) {
    let (interval, timeout) = (report.settings.health_interval, report.settings.probe_timeout());
    let most = interval * 19 / 10;
    if timeout > most {
        report.problem(
            "health_timeout",
            format!(
                "{} is too long for HEALTH_INTERVAL {}: a probe would count as failed before it has timed out",
                format_duration(timeout),
                format_duration(interval)
            ),
            format!("set it to at most {}, or raise HEALTH_INTERVAL", format_duration(most)),
        );
    }
}

/// What production is refused without.
fn production(report: &mut Report<'_>) {
    let s = report.settings;
    let socket = s.database_host.starts_with('/');
    if !report.given("database_host") {
        report.problem(
            "database_host",
            "production does not guess where Postgres is",
            "set DATABASE_URL or DATABASE_HOST",
        );
    }
    if s.database_password.is_none() && s.database_ssl_cert_path.is_none() {
        report.problem(
            "database_password",
            "production is refused without a Postgres password",
            "set DATABASE_PASSWORD or DATABASE_PASSWORD_FILE",
        );
    }
    if !socket && !matches!(s.postgres_ssl_mode(), "require" | "verify-ca" | "verify-full") {
        report.problem(
            "database_ssl_mode",
            "production is refused without TLS to Postgres",
            "set DATABASE_USE_SSL=true, or DATABASE_SSL_MODE=verify-full with DATABASE_SSL_CA_PATH",
        );
    }
    let direct =
        s.database_direct_url.as_ref().map(|url| url_parts::parse("database_url", url.expose_secret()));
    if let Some(Ok(parts)) = direct {
        let part = |wanted: &str| parts.iter().find(|(key, text)| *key == wanted && !text.is_empty());
        let plain =
            part("database_ssl_mode").is_some_and(|(_, mode)| matches!(mode.as_str(), "disable" | "prefer"));
        if plain && !part("database_host").is_some_and(|(_, host)| host.starts_with('/')) {
            let mend = "write sslmode=verify-full, or nothing, for DATABASE_SSL_MODE";
            report.problem("database_direct_url", "production is refused without TLS to Postgres", mend);
        }
    }
    if s.database_max_connections < 20 {
        report.problem(
            "database_max_connections",
            format!(
                "production is refused with fewer than 20 database connections, not {}",
                s.database_max_connections
            ),
            "set DATABASE_MAX_CONNECTIONS to at least 20",
        );
    }
    if s.has_redis() {
        production_redis(report);
    }
}

fn production_redis(report: &mut Report<'_>) {
    let s = report.settings;
    let length = s.redis_password.as_ref().map(|p| p.expose_secret().chars().count());
    redis_password(
        report,
        "redis_password",
        length,
        "set REDIS_PASSWORD or REDIS_PASSWORD_FILE (at least 32 characters)",
    );
    if !s.redis_use_ssl || s.redis_ssl_verify_mode == "none" {
        let key = if s.redis_use_ssl { "redis_ssl_verify_mode" } else { "redis_use_ssl" };
        report.problem(
            key,
            "production is refused without verified TLS to Redis",
            "set REDIS_USE_SSL=true (or rediss://) and REDIS_SSL_VERIFY_MODE=required (or ca)",
        );
    }
    if s.redis_namespace.is_none() {
        report.problem(
            "redis_namespace",
            "production is refused without a namespace: services sharing a Redis would share keys",
            "set REDIS_NAMESPACE to the service's name",
        );
    }
    if s.redis_max_connections < 50 {
        report.problem(
            "redis_max_connections",
            format!(
                "production is refused with fewer than 50 Redis connections, not {}",
                s.redis_max_connections
            ),
            "set REDIS_MAX_CONNECTIONS to at least 50",
        );
    }
    let Some(url) = s.redis_coordination_url.as_ref().map(ExposeSecret::expose_secret) else { return };
    if !url.starts_with("rediss://") {
        report.problem(
            "redis_coordination_url",
            "production is refused without TLS to Redis",
            "write rediss://",
        );
    }
    if let Ok(parts) = url_parts::parse("redis_url", url) {
        let password = parts.iter().find(|(key, text)| *key == "redis_password" && !text.is_empty());
        let length = password.map(|(_, text)| text.chars().count());
        redis_password(
            report,
            "redis_coordination_url",
            length,
            "write rediss://user:password@host (at least 32 characters)",
        );
    }
}

/// The one rule for the password of either server.
fn redis_password(report: &mut Report<'_>, key: &str, length: Option<usize>, mend: &str) {
    match length {
        None => report.problem(key, "production is refused without Redis authentication", mend),
        Some(length) if length < 32 => report.problem(
            key,
            format!("production is refused with a Redis password of {length} characters"),
            "use at least 32, for example from `openssl rand -base64 32`",
        ),
        Some(_) => {}
    }
}

fn pair(report: &mut Report<'_>, cert: &str, key: &str) {
    let (with, without) = match (report.settings.value(cert), report.settings.value(key)) {
        (Some(Parsed::Text(_)), None) => (cert, key),
        (None, Some(Parsed::Text(_))) => (key, cert),
        _ => return,
    };
    report.problem(with, format!("is set without {}", without.to_ascii_uppercase()), "set both or neither");
}
