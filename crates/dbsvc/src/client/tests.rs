//! Addresses, the file of `up`, and how answers become exit codes.

use serde_json::json;

use super::*;

fn instance() -> Instance {
    Instance { url: None, token_file: None, up: None, token: None, timeout: 5 }
}

#[test]
fn addresses_are_taken_apart() {
    for (url, authority, prefix) in [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", ""),
        ("http://[::1]:80/ops/", "[::1]:80", "/ops"),
        ("http://db.example", "db.example:80", ""),
    ] {
        assert!(matches!(Target::parse(url).unwrap(),
            Target::Tcp { authority: a, prefix: p } if a == authority && p == prefix));
    }
    assert!(
        matches!(Target::parse("unix:/run/x").unwrap(), Target::Unix(path) if path == Path::new("/run/x"))
    );
    for url in ["https://x", "ftp://x", "127.0.0.1:8000", "nonsense"] {
        assert_eq!(Target::parse(url).unwrap_err().exit, Exit::Usage, "{url}");
    }
}

#[test]
fn an_instance_must_be_named() {
    let failed = Client::find(&instance()).unwrap_err();
    assert_eq!(failed.exit, Exit::Usage);
    assert!(failed.error.to_string().contains("--up FILE"));
}

#[test]
fn the_file_of_up_names_address_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("up.json");
    let token = "a".repeat(64);
    let up =
        json!({"http": "http://127.0.0.1:1", "admin_token": token, "postgres": [], "redis": [], "pid": 1});
    std::fs::write(&file, up.to_string()).unwrap();
    let client = Client::find(&Instance { up: Some(file.clone()), ..instance() }).unwrap();
    assert!(client.has_token());
    assert!(!format!("{client:?}").contains(&token), "no secret in Debug");
    std::fs::write(&file, "{}").unwrap();
    let failed = Client::find(&Instance { up: Some(file), ..instance() }).unwrap_err();
    assert!(failed.error.to_string().contains("http"));
}

#[test]
fn a_problem_becomes_a_message_with_what_is_known() {
    let problem = json!({"type": "urn:x", "title": "Not Found", "status": 404, "code": "unknown_action",
        "detail": "there is no action `x`", "known": ["cache/get"]});
    let failed = Answer { status: 404, body: problem }.ok().unwrap_err();
    assert_eq!(failed.exit, Exit::Usage);
    assert_eq!(failed.error.to_string(), "there is no action `x` (unknown_action); known: cache/get");
    let odd = Answer { status: 502, body: json!("<html>") }.ok().unwrap_err();
    assert_eq!(odd.exit, Exit::Failure);
}

#[test]
fn names_that_would_change_the_path_are_refused() {
    assert!(segment("cache").is_ok());
    for name in ["", "a/b", "..", "a b", "a?x"] {
        assert!(segment(name).is_err(), "{name}");
    }
}
