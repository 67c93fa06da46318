//! Layers: what wins over what, and from where.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::super::{LoadOptions, Problem, Settings, Source, profile_names};
use super::{env, file};
use crate::ManagerMode;

#[test]
fn defaults_below_file_below_profile_below_environment() {
    let file = file("database_pool_size = 3\n[cache]\nttl = 60\nl1_size = 10\n[redis]\nhost = 'from-file'\n");
    let options = LoadOptions::new().file(file.path()).profile("high-traffic").env([("CACHE_L1_SIZE", "77")]);
    let settings = Settings::load(&options).unwrap();
    assert_eq!(settings.database_max_connections, 100, "profile over default");
    assert_eq!(settings.database_pool_size, 20, "profile over file");
    assert_eq!(settings.cache_ttl, Duration::from_secs(900), "profile over file");
    assert_eq!(settings.cache_l1_size, Some(77), "environment over profile");
    assert_eq!(settings.redis_host.as_deref(), Some("from-file"), "file over default");
    assert_eq!(settings.redis_port, 6379, "default");
    assert_eq!(settings.source("cache_l1_size"), Source::Env { name: "CACHE_L1_SIZE".into() });
    assert_eq!(settings.source("cache_ttl"), Source::Profile { name: "high-traffic".into() });
    assert!(
        matches!(settings.source("redis_host"), Source::File { line: 6, key, .. } if key == "redis.host")
    );
    assert_eq!(settings.source("redis_port"), Source::Default);
}

#[test]
fn the_environment_names_file_and_profiles() {
    let file = file("redis_namespace = 'mine'");
    let settings = env(&[
        ("DATABASE_SERVICES_FILE", file.path().to_str().unwrap()),
        ("DATABASE_SERVICES_PROFILE", "memory-constrained,ultra_low_latency"),
    ])
    .unwrap();
    assert_eq!(settings.redis_namespace.as_deref(), Some("mine"));
    assert_eq!(settings.database_max_connections, 25);
    assert_eq!(settings.cache_l1_size, Some(5_000), "the later profile wins");
    assert!(settings.startup_warming);
    let told = env(&[("DATABASE_SERVICES_PROFILE", "prod")]).unwrap_err().to_string();
    assert!(told.contains("there is no profile \"prod\"; use one of development, production"), "{told}");
}

#[test]
fn every_profile_loads() {
    assert_eq!(profile_names().count(), 5);
    for name in profile_names().filter(|name| *name != "production") {
        Settings::load(&LoadOptions::new().profile(name)).unwrap();
    }
    let high = Settings::load(&LoadOptions::new().profile("high-traffic")).unwrap();
    assert_eq!((high.cache_l1_size, high.redis_max_connections), (Some(3_000), 200));
    assert_eq!((high.warming_interval, high.warming_threshold), (Some(Duration::from_secs(60)), Some(0.5)));
    let low = Settings::load(&LoadOptions::new().profile("memory-constrained")).unwrap();
    assert_eq!((low.database_pool_size, low.database_max_overflow, low.redis_max_connections), (10, 10, 50));
    assert_eq!((low.cache_ttl, low.warming_batch_size), (Duration::from_secs(3_600), Some(25)));
}

#[test]
fn a_url_stands_for_its_parts() {
    let settings =
        env(&[("DATABASE_URL", "postgresql+asyncpg://us%40er:p%2Fw@[::1]:5433/app%20db?sslmode=require")])
            .unwrap();
    assert_eq!((settings.database_host.as_str(), settings.database_port), ("::1", 5433));
    assert_eq!((settings.database_user.as_str(), settings.database_name.as_str()), ("us@er", "app db"));
    assert_eq!(settings.database_password.as_ref().unwrap().expose_secret(), "p/w");
    assert_eq!(settings.postgres_ssl_mode(), "require");
    let settings = env(&[("REDIS_URL", "rediss://who:pw@cache:6380/3")]).unwrap();
    assert_eq!((settings.redis_host.as_deref(), settings.redis_port), (Some("cache"), 6380));
    assert_eq!((settings.redis_username.as_deref(), settings.redis_database), (Some("who"), 3));
    assert!(settings.redis_use_ssl);
    let socket = env(&[("DATABASE_URL", "postgres:///app?host=/run/postgresql&user=me")]).unwrap();
    assert_eq!((socket.database_host.as_str(), socket.database_user.as_str()), ("/run/postgresql", "me"));
}

#[test]
fn a_url_in_a_higher_layer_replaces_the_whole_server() {
    let file = file("[database]\nhost = 'old'\nport = 6000\npassword = 'old'\nuser = 'me'\n");
    let options = LoadOptions::new().file(file.path()).env([("DATABASE_URL", "postgres://new/app")]);
    let settings = Settings::load(&options).unwrap();
    assert_eq!((settings.database_host.as_str(), settings.database_port), ("new", 5432));
    assert_eq!(settings.database_user, "postgres");
    assert!(settings.database_password.is_none(), "the old server's password must not go to the new one");
    let options = LoadOptions::new().file(file.path()).env([("DATABASE_HOST", "other")]);
    let settings = Settings::load(&options).unwrap();
    assert_eq!((settings.database_host.as_str(), settings.database_port), ("other", 6000));
}

#[test]
fn a_url_and_settings_that_add_to_it_agree() {
    let settings =
        env(&[("DATABASE_URL", "postgres://db/app"), ("DATABASE_PASSWORD", "pw"), ("DB_HOST", "db")])
            .unwrap();
    assert_eq!(settings.database_password.as_ref().unwrap().expose_secret(), "pw");
}

#[test]
fn urls_that_cannot_be_honoured_are_refused() {
    for (name, url, part) in [
        ("DATABASE_URL", "postgres://db/app?target_session_attrs=any", "target_session_attrs"),
        ("REDIS_URL", "redis://r?protocol=3", "protocol"),
        ("DATABASE_URL", "postgres://u:%zz@db/app", "percent"),
        ("DATABASE_URL", "postgres://u:p@db:port/app", "port"),
        ("REDIS_URL", "redis://r/first", "whole number"),
    ] {
        let told = env(&[(name, url)]).expect_err(url).to_string();
        assert!(told.contains(part), "{url}: {told}");
    }
}

#[test]
fn empty_is_unset() {
    let settings =
        env(&[("REDIS_HOST", ""), ("DATABASE_PORT", ""), ("DATABASE_PASSWORD", ""), ("LOG_LEVEL", "")])
            .unwrap();
    assert_eq!((settings.redis_host.as_deref(), settings.database_port), (None, 5432));
    assert!(settings.database_password.is_none());
    assert_eq!(settings.log_level, "info");
}

#[test]
fn every_problem_is_told_at_once() {
    let errors = env(&[
        ("DATABASE_PORT", "0"),
        ("CACHE_TTL", "soon"),
        ("UCM_ENABLE_WARMING", "perhaps"),
        ("HTTP_LISTEN", "8000"),
        ("DATABASE_REPLICAS", "a,b*0"),
        ("REDIS_POOL_MAX_SIZE", "3"),
        ("REDIS_HOST", "r"),
        ("DATABASE_MIN_IDLE", "11"),
        ("DATABASE_USE_SSL", "false"),
        ("DATABASE_SSL_MODE", "verify-full"),
        ("DATABASE_SCHEMA", "My-Schema"),
    ])
    .unwrap_err();
    let names: Vec<_> = errors.problems.iter().map(|p| p.setting.as_str()).collect();
    assert_eq!(
        names,
        [
            "HTTP_LISTEN",
            "DATABASE_PORT",
            "DATABASE_SSL_MODE",
            "DATABASE_MIN_IDLE",
            "DATABASE_REPLICAS",
            "DATABASE_SCHEMA",
            "REDIS_POOL_MAX_SIZE",
            "CACHE_TTL",
            "UCM_ENABLE_WARMING"
        ]
    );
}

#[test]
fn files_are_read_with_their_own_types() {
    let file = file(
        "database_replicas = ['a:1*2', 'b']\ncache_l3_enabled = false\nhealth_interval = 2.5\nredis_port = 0x1000\n[warming]\nthreshold = 1\n",
    );
    let settings = Settings::load(&LoadOptions::new().file(file.path())).unwrap();
    assert_eq!(settings.database_replicas, ["a:1*2", "b"]);
    assert_eq!((settings.cache_l3_enabled, settings.redis_port), (false, 4096));
    assert_eq!(settings.health_interval, Duration::from_millis(2_500));
    assert_eq!(settings.warming_threshold, Some(1.0));
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let told = Settings::load(&LoadOptions::new().file("/nowhere/s.toml")).unwrap_err().to_string();
    assert!(told.contains("file /nowhere/s.toml): the settings file cannot be read"), "{told}");
    let broken = file("a = 1\nb = = 2\n");
    let told = Settings::load(&LoadOptions::new().file(broken.path())).unwrap_err().to_string();
    assert!(told.contains(":2): is not TOML"), "{told}");
    let number = file("database_password = 123\n");
    let told = Settings::load(&LoadOptions::new().file(number.path())).unwrap_err().to_string();
    assert!(told.contains("write it in quotes") && !told.contains("123;"), "{told}");
}

#[test]
fn modes_are_those_of_the_table() {
    let told: Vec<_> = ManagerMode::ALL
        .iter()
        .map(|m| {
            (
                m.name(),
                m.l1_entries(),
                m.warming().map(|w| w.interval.as_secs()),
                m.response_target().as_millis(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("mcp_server", 2_000, Some(120), 200),
            ("high_availability", 2_500, Some(60), 100),
            ("async_modern", 1_000, Some(300), 500),
            ("admin", 500, None, 1_000)
        ]
    );
    assert_eq!(ManagerMode::default(), ManagerMode::AsyncModern);
    assert_eq!(
        env(&[("DATABASE_SERVICES_MODE", "high-availability")]).unwrap().manager_mode(),
        ManagerMode::HighAvailability
    );
    assert!("fast".parse::<ManagerMode>().is_err());
}

#[test]
fn overrides_need_not_agree_with_the_environment_below_them() {
    let below = [
        ("DATABASE_URL", "postgres://u:p@db1:5433/app"),
        ("UCM_L1_CACHE_SIZE", "100"),
        ("REDIS_HOST", "r1"),
        ("CACHE_TTL", "60"),
    ];
    let over =
        [("DATABASE_HOST", "db2"), ("CACHE_L1_SIZE", "200"), ("REDIS_URL", "redis://r2"), ("cache.ttl", "")];
    let settings = Settings::load(&LoadOptions::new().env(below).over(over)).unwrap();
    assert_eq!((settings.database_host.as_str(), settings.database_port), ("db2", 5433));
    assert_eq!((settings.cache_l1_size, settings.redis_host.as_deref()), (Some(200), Some("r2")));
    assert_eq!(settings.cache_ttl, Duration::from_secs(60), "empty is unset: what is below stands");
    assert_eq!(settings.source("cache_l1_size").to_string(), "override CACHE_L1_SIZE");
    for wrong in ["CACHE_L1_SIZ", "PATH", "REDIS_HOSTS"] {
        let told = Settings::load(&LoadOptions::new().over([(wrong, "1")])).expect_err(wrong).to_string();
        assert!(told.contains(&format!("{wrong} (override {wrong}): is not a setting")), "{told}");
    }
    let disagree = LoadOptions::new().over([("CACHE_L1_SIZE", "1"), ("UCM_L1_CACHE_SIZE", "2")]);
    assert!(Settings::load(&disagree).is_err(), "two overrides for one thing must agree");
}

#[test]
fn a_programs_own_check_is_reported_with_the_rest() {
    fn own(settings: &Settings) -> Vec<Problem> {
        let problem = |setting: &str| Problem {
            setting: setting.to_owned(),
            source: settings.source("log_level"),
            message: "no".to_owned(),
            mend: "mend".to_owned(),
        };
        vec![problem("DATABASE_PORT"), problem("LOG_LEVEL")]
    }
    let options = LoadOptions::new().env([("DATABASE_PORT", "x")]).check_also(own);
    let told = Settings::load(&options).unwrap_err();
    let named: Vec<_> = told.problems.iter().map(|p| (p.setting.as_str(), p.message.as_str())).collect();
    assert_eq!(named, [("LOG_LEVEL", "no"), ("DATABASE_PORT", "\"x\" is not a whole number")]);
}
