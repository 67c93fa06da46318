//! What `Config::validate` refuses, and that it says why.

use super::*;

fn problems(config: &Config) -> String {
    config.validate().unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_problem_is_reported_at_once_with_its_setting() {
    let config = Config {
        size: 0,
        min_idle: 3,
        schema: "pg_own".into(),
        replicas: vec![
            ReplicaEndpoint::new("a", "postgres://h/d", -1),
            ReplicaEndpoint::new("a", "http://x", 1),
        ],
        ..Config::new("mysql://localhost/x")
    };
    let text = problems(&config);
    for expected in [
        "primary.url",
        "size:",
        "min_idle 3 is above size 0",
        "schema",
        "weight -1",
        "used twice",
        "replicas[1].url",
    ] {
        assert!(text.contains(expected), "{expected} not in\n{text}");
    }
}

#[test]
fn a_password_never_shows() {
    let config = Config::new("postgres://u:s3cret@h:99999/d");
    assert!(!problems(&config).contains("s3cret") && !format!("{config:?}").contains("s3cret"));
}

#[test]
fn the_defaults_with_an_address_are_valid() {
    assert_eq!(Config::new("postgres://u@h/d").validate(), Ok(()));
    assert!(problems(&Config::default()).contains("primary.url"));
}
