//! Wrong configurations, each with its exact message.

use std::time::Duration;

use super::super::{LoadOptions, Settings};
use super::{env, file};

#[track_caller]
fn refused(pairs: &[(&str, &str)], message: &str) {
    let told = env(pairs).expect_err("taken").to_string();
    assert_eq!(told, message);
}

#[test]
fn an_unknown_name_under_our_prefix() {
    refused(
        &[("UCM_WARMING_INTERVALL", "60")],
        "1 problem in the settings\n  UCM_WARMING_INTERVALL (environment variable UCM_WARMING_INTERVALL): is not a setting; \
         did you mean UCM_WARMING_INTERVAL? Correct or remove it, or list it in DATABASE_SERVICES_IGNORE if it belongs \
         to another program",
    );
}

#[test]
fn a_probe_that_is_stale_before_it_has_timed_out() {
    refused(
        &[("HEALTH_INTERVAL", "100ms"), ("HEALTH_TIMEOUT", "1s")],
        "1 problem in the settings\n  HEALTH_TIMEOUT (environment variable HEALTH_TIMEOUT): 1s is too long for \
         HEALTH_INTERVAL 100ms: a probe would count as failed before it has timed out; set it to at most 190ms, or raise \
         HEALTH_INTERVAL",
    );
    assert_eq!(env(&[("HEALTH_INTERVAL", "100ms")]).unwrap().probe_timeout(), Duration::from_millis(150));
    assert_eq!(env(&[]).unwrap().probe_timeout(), Duration::from_secs(2));
}

#[test]
fn bounds_of_the_components() {
    for (name, value, allowed) in [
        ("CACHE_DISCONNECTED_MAX_AGE", "0", "from 1ms to 1h"),
        ("CACHE_DISCONNECTED_MAX_AGE", "2h", "from 1ms to 1h"),
        ("CACHE_MAX_VALUE_SIZE", "1", "from 64 to 268435456 bytes"),
        ("REDIS_POOL_MIN_SIZE", "65", "from 1 to 64"),
        ("SECURITY_AGENT_ID", "a\u{1}b", "security refuses it"),
        ("REDIS_USERNAME", "somebody", "the Redis link refuses it (needs a password)"),
    ] {
        let told = env(&[("REDIS_HOST", "r"), (name, value)]).expect_err(name).to_string();
        assert!(told.contains(&format!("{name} (environment variable {name})")), "{told}");
        assert!(told.contains(allowed), "{told}");
    }
}

#[test]
fn the_coordination_servers_password_in_production() {
    for (url, said) in [
        ("rediss://locks.internal", "refused without Redis authentication"),
        ("rediss://:short@locks.internal", "a Redis password of 5 characters"),
        ("redis://:0123456789abcdef0123456789abcdef@locks.internal", "without TLS"),
    ] {
        let told = Settings::load(&LoadOptions::new().profile("production").env([
            ("DATABASE_URL", "postgres://app:secret@db.internal/app?sslmode=verify-full"),
            ("REDIS_URL", "rediss://:0123456789abcdef0123456789abcdef@cache.internal"),
            ("REDIS_COORDINATION_URL", url),
            ("REDIS_NAMESPACE", "app"),
        ]));
        let told = told.expect_err(url).to_string();
        assert!(told.starts_with("1 problem") && told.contains("REDIS_COORDINATION_URL"), "{told}");
        assert!(told.contains(said), "{told}");
    }
}

#[test]
fn a_wrong_type() {
    refused(
        &[("DB_POOL_SIZE", "ten")],
        "1 problem in the settings\n  DATABASE_POOL_SIZE (environment variable DB_POOL_SIZE): \"ten\" is not a whole number; \
         give a whole number from 1 to 10000",
    );
}

#[test]
fn a_value_out_of_range() {
    refused(
        &[("HEALTH_TIMEOUT", "1ms")],
        "1 problem in the settings\n  HEALTH_TIMEOUT (environment variable HEALTH_TIMEOUT): \"1ms\" is not in range; give a \
         time span from 10ms to 1d, such as 500ms, 5s, 2m, 1h or 1m30s; a bare number is seconds",
    );
}

#[test]
fn aliases_that_disagree() {
    refused(
        &[("CACHE_L1_SIZE", "1000"), ("UCM_L1_CACHE_SIZE", "2000")],
        "1 problem in the settings\n  CACHE_L1_SIZE (environment variable UCM_L1_CACHE_SIZE): CACHE_L1_SIZE says 1000 and \
         UCM_L1_CACHE_SIZE says 2000 disagree; keep one of CACHE_L1_SIZE and UCM_L1_CACHE_SIZE",
    );
}

#[test]
fn a_url_that_contradicts_a_single_setting() {
    refused(
        &[("DATABASE_URL", "postgres://u:p@db1/app"), ("DB_PRIMARY_HOST", "db2")],
        "1 problem in the settings\n  DATABASE_HOST (environment variable DATABASE_URL): DB_PRIMARY_HOST says \"db2\" and \
         DATABASE_URL says \"db1\" disagree; keep one of DB_PRIMARY_HOST and DATABASE_URL",
    );
}

#[test]
fn more_connections_than_the_fleet_may_have() {
    refused(
        &[("DATABASE_POOL_SIZE", "40")],
        "1 problem in the settings\n  DATABASE_MAX_CONNECTIONS (default): DATABASE_POOL_SIZE 40 + DATABASE_MAX_OVERFLOW 20 = \
         60 is more than the fleet's budget of 50; raise DATABASE_MAX_CONNECTIONS to at least 60, or lower the other two",
    );
}

#[test]
fn an_unreadable_secret_file() {
    refused(
        &[("REDIS_HOST", "r"), ("REDIS_PASSWORD_FILE", "/nowhere/secret")],
        "1 problem in the settings\n  REDIS_PASSWORD (environment variable REDIS_PASSWORD_FILE): the file \"/nowhere/secret\" \
         that REDIS_PASSWORD_FILE names cannot be read: No such file or directory (os error 2); write the secret into that \
         file and make it readable, or set REDIS_PASSWORD",
    );
}

#[test]
fn one_way_to_the_master_and_no_second() {
    refused(
        &[("REDIS_HOST", "r"), ("REDIS_SENTINELS", "s1:26379,s2:26379")],
        "1 problem in the settings\n  REDIS_SENTINELS (environment variable REDIS_SENTINELS): is set beside the address of \
         one server; remove REDIS_URL and REDIS_HOST; user and password go into REDIS_USERNAME and REDIS_PASSWORD",
    );
    refused(
        &[("REDIS_CLUSTER_NODES", "n1,n2:70000"), ("REDIS_DATABASE", "3"), ("REDIS_REPLICA_HOST", "r")],
        "3 problems in the settings\n  REDIS_DATABASE (environment variable REDIS_DATABASE): a cluster has database 0 and no \
         other; remove REDIS_DATABASE\n  REDIS_REPLICA_HOST (environment variable REDIS_REPLICA_HOST): Sentinels and clusters \
         tell the replicas themselves; remove REDIS_REPLICA_HOST\n  REDIS_CLUSTER_NODES (environment variable \
         REDIS_CLUSTER_NODES): \"n2:70000\" is no server; write host[:port],…",
    );
}

#[test]
fn a_url_of_another_scheme_is_not_shown() {
    refused(
        &[("DATABASE_URL", "mysql://root:hunter2@db/app")],
        "1 problem in the settings\n  DATABASE_URL (environment variable DATABASE_URL): is not a URL of a known scheme (its \
         text is not shown, it may hold a password); give a URL that begins with postgres://, postgresql://, \
         postgresql+asyncpg://, postgresql+psycopg://, postgresql+psycopg2://",
    );
}

#[test]
fn a_wrong_line_in_a_file() {
    let file = file("[database]\npool_size = 5\n\n[cache]\nl1_size = \"many\"\nl1_sise = 3\n");
    let path = file.path().display();
    let told = Settings::load(&LoadOptions::new().file(file.path())).expect_err("taken").to_string();
    assert_eq!(
        told,
        format!(
            "2 problems in the settings\n  CACHE_L1_SIZE (file {path}:5): \"many\" is not a whole number; give a whole number \
             from 1 to 100000000\n  cache.l1_sise (file {path}:6): is not a setting; did you mean CACHE_L1_SIZE? Correct or \
             remove it"
        )
    );
}

#[test]
fn production_is_refused_with_everything_that_is_missing_at_once() {
    let told = Settings::load(&LoadOptions::new().profile("production").env([
        ("DATABASE_USE_SSL", "false"),
        ("DATABASE_MAX_CONNECTIONS", "19"),
        ("DATABASE_POOL_SIZE", "5"),
        ("DATABASE_MAX_OVERFLOW", "5"),
        ("REDIS_URL", "redis://:short@cache"),
        ("REDIS_MAX_CONNECTIONS", "49"),
        ("REDIS_POOL_MAX_SIZE", "20"),
    ]))
    .expect_err("taken")
    .to_string();
    assert_eq!(
        told,
        "8 problems in the settings\n  \
         DATABASE_HOST (default): production does not guess where Postgres is; set DATABASE_URL or DATABASE_HOST\n  \
         DATABASE_PASSWORD (default): production is refused without a Postgres password; set DATABASE_PASSWORD or \
         DATABASE_PASSWORD_FILE\n  \
         DATABASE_SSL_MODE (default): production is refused without TLS to Postgres; set DATABASE_USE_SSL=true, or \
         DATABASE_SSL_MODE=verify-full with DATABASE_SSL_CA_PATH\n  \
         DATABASE_MAX_CONNECTIONS (environment variable DATABASE_MAX_CONNECTIONS): production is refused with fewer than 20 \
         database connections, not 19; set DATABASE_MAX_CONNECTIONS to at least 20\n  \
         REDIS_PASSWORD (environment variable REDIS_URL): production is refused with a Redis password of 5 characters; use \
         at least 32, for example from `openssl rand -base64 32`\n  \
         REDIS_NAMESPACE (default): production is refused without a namespace: services sharing a Redis would share keys; \
         set REDIS_NAMESPACE to the service's name\n  \
         REDIS_USE_SSL (environment variable REDIS_URL): production is refused without verified TLS to Redis; set \
         REDIS_USE_SSL=true (or rediss://) and REDIS_SSL_VERIFY_MODE=required (or ca)\n  \
         REDIS_MAX_CONNECTIONS (environment variable REDIS_MAX_CONNECTIONS): production is refused with fewer than 50 Redis \
         connections, not 49; set REDIS_MAX_CONNECTIONS to at least 50"
    );
}

#[test]
fn a_complete_production_is_taken() {
    let settings = Settings::load(&LoadOptions::new().profile("production,high-traffic").env([
        ("DATABASE_URL", "postgresql+asyncpg://app:secret@db.internal/app?sslmode=verify-full"),
        ("REDIS_URL", "rediss://:0123456789abcdef0123456789abcdef@cache.internal"),
        ("REDIS_NAMESPACE", "app"),
    ]))
    .unwrap();
    assert!(settings.is_production() && !settings.auto_migrate());
    assert_eq!(settings.cache_l1_size, Some(3_000));
    assert_eq!(settings.database_max_connections, 100);
    assert_eq!(settings.postgres_ssl_mode(), "verify-full");
}
