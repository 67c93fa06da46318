//! Names: aliases, prefixes, strangers, suggestions, documentation.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::value::Parsed;
use super::super::{PREFIX, Settings, TABLE, Values, explain, layer, reference};
use super::env;

#[test]
fn the_table_is_sound() {
    let mut seen = BTreeSet::new();
    for d in TABLE {
        for name in d.names() {
            assert!(seen.insert(name), "{name} twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
        assert!(seen.insert(d.key), "{} twice", d.key);
        assert!(!d.doc.is_empty() && d.doc.ends_with('.'), "{}", d.name);
        if let Some(default) = d.default {
            let parsed = layer::read(&d.kind, &default.into()).unwrap_or_else(|e| panic!("{}: {e}", d.name));
            assert!(!Values::misfits(&parsed, d.key), "{} does not fit its type", d.name);
        }
    }
}

#[test]
fn every_alias_and_the_prefixed_name_set_the_same() {
    for (pairs, pool) in [
        ([("DATABASE_POOL_SIZE", "7")], 7),
        ([("DB_POOL_SIZE", "8")], 8),
        ([("DATABASE_SERVICES_DATABASE_POOL_SIZE", "9")], 9),
        ([("DATABASE_SERVICES_DB_POOL_SIZE", "11")], 11),
    ] {
        assert_eq!(env(&pairs).unwrap().database_pool_size, pool);
    }
    for host in ["DATABASE_HOST", "DB_PRIMARY_HOST", "DB_HOST"] {
        assert_eq!(env(&[(host, "h")]).unwrap().database_host, "h");
    }
    let old = env(&[("UCM_CACHE_TTL_SECONDS", "1800"), ("CACHE_TTL", "30m")]).unwrap();
    assert_eq!(old.cache_ttl, Duration::from_secs(1_800), "the same said in two ways is no contradiction");
}

#[test]
fn strangers_are_left_alone_and_told() {
    let settings = env(&[
        ("DATABASE_CLEANER_ALLOW_REMOTE", "1"),
        ("REDIS_TLS_URL", "rediss://elsewhere"),
        ("PATH", "/bin"),
        ("REDISCLI_AUTH", "x"),
    ])
    .unwrap();
    let told: Vec<_> = settings.notes().iter().map(|note| note.setting.as_str()).collect();
    assert_eq!(told, ["DATABASE_CLEANER_ALLOW_REMOTE", "REDIS_TLS_URL"]);
}

#[test]
fn a_slip_under_a_shared_prefix_is_told_with_what_was_meant() {
    let settings = env(&[("DATABASE_POOL_SIZ", "5"), ("REDIS_HOSTS", "a,b")]).unwrap();
    let told: Vec<_> =
        settings.notes().iter().map(|note| (note.setting.as_str(), note.message.as_str())).collect();
    assert_eq!(
        told,
        [
            (
                "DATABASE_POOL_SIZ",
                "is not a setting of this service and is left alone; did you mean DATABASE_POOL_SIZE?"
            ),
            ("REDIS_HOSTS", "is not a setting of this service and is left alone; did you mean REDIS_HOST?"),
        ]
    );
}

#[test]
fn service_links_of_kubernetes_are_not_ours() {
    let settings = env(&[
        ("REDIS_PORT", "tcp://10.3.2.1:6379"),
        ("REDIS_SERVICE_HOST", "10.3.2.1"),
        ("REDIS_SERVICE_PORT_CLIENT", "6379"),
        ("REDIS_PORT_6379_TCP", "tcp://10.3.2.1:6379"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.3.2.1"),
        ("DATABASE_SERVICES_SERVICE_HOST", "10.3.2.2"),
        ("DATABASE_SERVICES_PORT", "tcp://10.3.2.2:8000"),
        ("DATABASE_SERVICES_PORT_8000_TCP_PROTO", "tcp"),
    ])
    .unwrap();
    assert_eq!(settings.redis_port, 6379);
    assert_eq!(settings.redis_host, None);
    assert!(settings.notes().is_empty(), "{:?}", settings.notes());
}

#[test]
fn a_stranger_can_be_excluded_by_name() {
    assert!(env(&[("UCM_OF_OTHERS", "a")]).is_err());
    let ignore = ("DATABASE_SERVICES_IGNORE", "OTHER, UCM_OF_OTHERS, REDIS_HOST");
    let settings = env(&[("UCM_OF_OTHERS", "a"), ("REDIS_HOST", "theirs"), ignore]).unwrap();
    assert_eq!((settings.redis_host.as_deref(), settings.notes().len()), (None, 0));
}

#[test]
fn what_has_no_effect_yet_is_told() {
    let settings = env(&[("UCM_ENABLE_WARMING", "true"), ("REDIS_RETRY_ON_TIMEOUT", "false")]).unwrap();
    let told: Vec<_> =
        settings.notes().iter().map(|note| (note.setting.as_str(), note.message.as_str())).collect();
    assert_eq!(told, [("UCM_ENABLE_WARMING", "has no effect: cache warming is not in this version yet")]);
    let bounds = env(&[("REDIS_MAX_CONNECTIONS", "90"), ("REDIS_POOL_MAX_SIZE", "60")]).unwrap();
    let told: Vec<_> = bounds.notes().iter().map(|note| note.setting.as_str()).collect();
    assert_eq!(told, ["REDIS_MAX_CONNECTIONS", "REDIS_POOL_MAX_SIZE"]);
    assert!(bounds.notes()[0].message.contains("REDIS_POOL_MIN_SIZE"), "{:?}", bounds.notes());
}

#[test]
fn debug_sets_the_log_filter_unless_it_is_set() {
    assert_eq!(env(&[("DEBUG", "true")]).unwrap().log_filter(), "debug");
    assert_eq!(env(&[("DEBUG", "true"), ("LOG_LEVEL", "warn")]).unwrap().log_filter(), "warn");
    assert_eq!(env(&[]).unwrap().log_filter(), "info");
}

#[test]
fn explain_knows_every_name_and_suggests() {
    for d in TABLE {
        for name in d.names() {
            assert_eq!(explain(name).unwrap().name, d.name);
            assert_eq!(explain(&format!("{PREFIX}{name}")).unwrap().name, d.name);
        }
        assert_eq!(explain(d.key).unwrap().name, d.name);
    }
    assert_eq!(explain("REDIS_PASSWORD_FILE").unwrap().name, "REDIS_PASSWORD");
    assert_eq!(explain("redis_pasword").unwrap_err().nearest, "REDIS_PASSWORD");
    let text = explain("db_pool_size").unwrap().to_string();
    assert_eq!(
        text,
        "DATABASE_POOL_SIZE: Connections of this instance that stay open.\n  accepts  a whole number from 1 to 10000\n  \
         default  10\n  in TOML  database_pool_size\n  aliases  DATABASE_SERVICES_DATABASE_POOL_SIZE, DB_POOL_SIZE\n  since    0.1.0"
    );
    let reference = reference();
    assert!(TABLE.iter().all(|d| reference.contains(&format!("`{}`", d.name))));
}

#[test]
fn show_tells_every_setting_and_its_source() {
    let settings = env(&[("DB_POOL_SIZE", "7")]).unwrap();
    let shown = settings.show();
    assert_eq!(shown.len(), TABLE.len());
    let json = serde_json::to_value(shown.iter().find(|s| s.name == "DATABASE_POOL_SIZE")).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"name": "DATABASE_POOL_SIZE", "value": 7, "group": "postgres",
            "source": {"kind": "env", "name": "DB_POOL_SIZE"}})
    );
}

#[test]
fn changed_names_what_differs() {
    let one = env(&[("DATABASE_PASSWORD", "a"), ("CACHE_TTL", "60")]).unwrap();
    let other = env(&[("DATABASE_PASSWORD", "b"), ("CACHE_TTL", "1m")]).unwrap();
    let changed: Vec<_> = one.changed(&other).into_iter().map(|(name, _)| name).collect();
    assert_eq!(changed, ["DATABASE_PASSWORD"]);
    assert!(Settings::changed(&one, &one).is_empty());
}

#[test]
fn a_secret_is_never_parsed_as_anything_else() {
    let kind = &TABLE.iter().find(|d| d.key == "redis_password").unwrap().kind;
    assert!(matches!(layer::read(kind, &" 007 ".into()), Ok(Parsed::Secret(_))));
}
