//! Addresses as text, and taking them.

use super::*;

#[test]
fn addresses_survive_their_text() {
    for text in ["127.0.0.1:8000", "[::1]:80", "localhost:0", "unix:/run/x.sock"] {
        assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
    }
    for text in ["", "8000", ":8000", "::1:80", "host:port", "http://x:80", "unix:", "h:70000"] {
        assert!(text.parse::<Listen>().is_err(), "{text}");
    }
}

#[test]
fn a_taken_port_is_named_with_the_mend() {
    let (_held, taken) = Listen::Tcp("127.0.0.1:0".into()).bind().unwrap();
    let message = taken.bind().unwrap_err().to_string();
    assert!(message.contains(&taken.to_string()) && message.contains("HTTP_LISTEN"), "{message}");
}

#[test]
fn a_socket_is_private_kept_from_others_and_replaced_when_its_server_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listen = Listen::Unix(path.clone());
    let (held, _) = listen.bind().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(listen.bind(), Err(BindError::Taken { .. })));
    drop(held);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap()); // a server that died without cleaning up
    let (_held, _) = listen.bind().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_in_the_way_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(Listen::Unix(path.clone()).bind(), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}
