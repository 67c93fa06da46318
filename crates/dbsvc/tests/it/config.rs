//! Settings: ten and more wrong configurations, each named with its mend; and what is shown.

use serde_json::Value;

use crate::support::{Env, run};

/// Environment, further arguments, the setting that is named, words of the message or the mend.
type Wrong<'w> = (Env<'w>, &'w [&'w str], &'w str, &'w str);

#[tokio::test]
async fn wrong_configurations_are_refused_with_setting_source_and_mend() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let broken = at("broken.toml", "database_port = [\n");
    let unknown = at("unknown.toml", "database_pool_sise = 3\n");
    let cases: &[Wrong<'_>] = &[
        (&[("DATABASE_SERVICES_POOL_SIZ", "3")], &[], "DATABASE_SERVICES_POOL_SIZ", "did you mean"),
        (&[("UCM_WARMING_INTERVALL", "3")], &[], "UCM_WARMING_INTERVALL", "UCM_WARMING_INTERVAL"),
        (&[("DATABASE_PORT", "many")], &[], "DATABASE_PORT", "many"),
        (&[("CACHE_TTL", "fast")], &[], "CACHE_TTL", "fast"),
        (&[("DATABASE_HOST", "a"), ("DB_HOST", "b")], &[], "DATABASE_HOST", "DB_HOST"),
        (
            &[
                ("DATABASE_POOL_SIZE", "40"),
                ("DATABASE_MAX_OVERFLOW", "20"),
                ("DATABASE_MAX_CONNECTIONS", "50"),
            ],
            &[],
            "DATABASE_MAX_CONNECTIONS",
            "60",
        ),
        (
            &[("REDIS_HOST", "localhost"), ("REDIS_REQUIRE_AUTH", "true")],
            &[],
            "REDIS_PASSWORD",
            "REDIS_REQUIRE_AUTH",
        ),
        (&[("REDIS_PASSWORD_FILE", "/nonexistent/secret")], &[], "REDIS_PASSWORD", "/nonexistent/secret"),
        (&[("DATABASE_URL", "mysql://localhost/x")], &[], "DATABASE_URL", "postgres"),
        (&[("DATABASE_SERVICES_ENVIRONMENT", "production")], &[], "DATABASE_PASSWORD", "production"),
        (&[], &["--profile", "turbo"], "PROFILE", "turbo"),
        (&[], &["--config", "/nonexistent/settings.toml"], "FILE", "/nonexistent/settings.toml"),
        (&[], &["--config", &broken], "broken.toml", "TOML"),
        (&[], &["--config", &unknown], "database_pool_sise", "DATABASE_POOL_SIZE"),
        (
            &[("REDIS_HOST", "r"), ("REDIS_SENTINELS", "a:26379")],
            &[],
            "REDIS_SENTINELS",
            "beside the address",
        ),
        (&[("LOG_LEVEL", "loud")], &[], "LOG_LEVEL", "no such level"),
        (&[("HTTP_LISTEN", "nowhere")], &[], "HTTP_LISTEN", "127.0.0.1:8000"),
        (&[("HTTP_ADMIN_TOKEN", "short")], &[], "HTTP_ADMIN_TOKEN", "shorter than 32"),
        (&[("CACHE_DISCONNECTED_MAX_AGE", "0")], &[], "CACHE_DISCONNECTED_MAX_AGE", "from 1ms to 1h"),
        (&[("CACHE_DISCONNECTED_MAX_AGE", "2h")], &[], "CACHE_DISCONNECTED_MAX_AGE", "from 1ms to 1h"),
        (&[("CACHE_MAX_VALUE_SIZE", "1")], &[], "CACHE_MAX_VALUE_SIZE", "from 64"),
        (&[("HEALTH_READINESS", "nope")], &[], "HEALTH_READINESS", "database, redis, cache, locks, pubsub"),
        (
            &[("HEALTH_INTERVAL", "100ms"), ("HEALTH_TIMEOUT", "1s")],
            &[],
            "HEALTH_TIMEOUT",
            "HEALTH_INTERVAL 100ms",
        ),
    ];
    for (env, more, setting, said) in cases {
        for command in [&["config", "check"][..], &["serve"], &["migrate"]] {
            let args: Vec<&str> = command.iter().chain(*more).copied().collect();
            let wrong = run(env, &args).await;
            assert_eq!((wrong.exit, wrong.out.as_str()), (64, ""), "{env:?} {args:?}: {wrong:?}");
            assert!(
                wrong.err.contains(setting) && wrong.err.contains(said),
                "{env:?} {args:?}: {}",
                wrong.err
            );
        }
        let args: Vec<&str> = ["config", "check", "--json"].iter().chain(*more).copied().collect();
        let json = run(env, &args).await.json();
        let problem = &json["problems"][0];
        for member in ["setting", "source", "message", "mend"] {
            assert!(!problem[member].as_str().unwrap().is_empty(), "{env:?}: {json}");
        }
    }
}

#[tokio::test]
async fn all_problems_come_at_once() {
    let env = [("DATABASE_PORT", "x"), ("REDIS_PORT", "y"), ("UCM_NOTHING", "z"), ("HTTP_ADMIN_TOKEN", "w")];
    let json = run(&env, &["config", "check", "--json"]).await.json();
    assert_eq!(json["problems"].as_array().unwrap().len(), 4, "{json}");
}

#[tokio::test]
async fn good_settings_are_fine_and_one_without_effect_is_a_finding() {
    let fine = run(&[("DATABASE_HOST", "db.example")], &["config", "check"]).await;
    assert_eq!((fine.exit, fine.err.as_str()), (0, ""), "{fine:?}");
    let finding = run(&[("LOG_FILE", "/tmp/x")], &["config", "check", "--json"]).await;
    assert_eq!((finding.exit, finding.json()["status"].as_str()), (1, Some("warning")), "{finding:?}");
    assert_eq!(finding.json()["notes"][0]["setting"], "LOG_FILE");
    // Under a prefix that others use too, a slip may be theirs: told, and no finding.
    let slip = run(&[("REDIS_HOSTS", "a,b")], &["config", "check"]).await;
    assert_eq!(slip.exit, 0, "{slip:?}");
    assert!(slip.out.contains("did you mean REDIS_HOST?"), "{slip:?}");
}

#[tokio::test]
async fn odd_passwords_survive_and_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    for (n, password) in ["00123", "true", "[a]", "\"x\"", "a#b"].iter().enumerate() {
        let planted = format!("{password}-planted-secret-{n}");
        let file = directory.path().join("secret");
        std::fs::write(&file, &planted).unwrap();
        let file = file.display().to_string();
        let env = [
            ("DATABASE_PASSWORD", planted.as_str()),
            ("REDIS_PASSWORD_FILE", file.as_str()),
            ("REDIS_HOST", "r"),
        ];
        for args in [
            &["config", "show"][..],
            &["config", "show", "--json"],
            &["config", "explain", "DATABASE_PASSWORD"],
        ] {
            let shown = run(&env, args).await;
            assert_eq!(shown.exit, 0, "{shown:?}");
            assert!(!shown.out.contains("planted") && !shown.err.contains("planted"), "{shown:?}");
            assert!(shown.out.contains("***"), "{shown:?}");
        }
    }
}

#[tokio::test]
async fn a_setting_is_explained_under_any_of_its_names() {
    for name in ["CACHE_L1_SIZE", "UCM_L1_CACHE_SIZE", "cache_l1_size", "DATABASE_SERVICES_CACHE_L1_SIZE"] {
        let explained =
            run(&[("UCM_L1_CACHE_SIZE", "77")], &["config", "explain", name, "--json"]).await.json();
        assert_eq!(explained["name"], "CACHE_L1_SIZE");
        assert_eq!(explained["value"], Value::from(77), "{explained}");
        assert!(explained["source"].as_str().unwrap().contains("UCM_L1_CACHE_SIZE"), "{explained}");
    }
    let unknown = run(&[], &["config", "explain", "CACHE_L1_SIZ"]).await;
    assert_eq!(unknown.exit, 64);
    assert!(unknown.err.contains("CACHE_L1_SIZE"), "{unknown:?}");
    // With settings that do not load it still says what the setting means.
    let explained = run(&[("DATABASE_PORT", "x")], &["config", "explain", "DATABASE_PORT"]).await;
    assert_eq!(explained.exit, 0, "{explained:?}");
    assert!(explained.err.contains("config check"), "{explained:?}");
}
