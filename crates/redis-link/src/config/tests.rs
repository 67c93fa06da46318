//! Which settings are accepted, and that secrets stay secret.

use super::*;

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Config::default().validate(), Ok(()));
}

#[test]
fn every_problem_is_told() {
    let config = Config {
        name: String::new(),
        topology: Topology::Standalone {
            master: Endpoint::new("", 6379),
            replicas: vec![Endpoint::new("replica", 0)],
        },
        username: Some("app".to_owned()),
        namespace: "a b".to_owned(),
        tls: Some(TlsConfig { cert_file: Some("cert.pem".into()), ..TlsConfig::default() }),
        pool_size: 65,
        max_in_flight: 0,
        max_queued: 0,
        max_request: 0,
        connect_timeout: Duration::ZERO,
        probe_timeout: Duration::from_secs(3601),
        reconnect: BackoffConfig {
            base: Duration::ZERO,
            max: Duration::from_secs(2),
            ..BackoffConfig::default()
        },
        ..Config::default()
    };
    let problems = config.validate().unwrap_err();
    let settings: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
    assert_eq!(
        settings,
        [
            "name",
            "namespace",
            "topology",
            "topology",
            "username",
            "tls",
            "pool_size",
            "max_in_flight",
            "max_queued",
            "max_request",
            "connect_timeout",
            "probe_timeout",
            "reconnect",
            "reconnect",
        ]
    );
    let message = Error::Config(problems).to_string();
    assert!(message.contains("pool_size: must be 1 to 64") && message.contains("; "), "{message}");
}

#[test]
fn the_password_is_not_shown() {
    let config = Config { password: Some("00123 hunter2".into()), ..Config::default() };
    assert!(!format!("{config:?}").contains("hunter2"));
}
