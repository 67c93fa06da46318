//! What error replies mean.

use super::*;

#[test]
fn a_missing_right_names_what_is_missing() {
    for (message, expected) in [
        ("NOPERM User app has no permissions to run the 'info' command", "info"),
        ("NOPERM this user has no permissions to run the 'eval' command or its subcommand", "eval"),
        ("NOPERM No permissions to access a key", "a key"),
        ("NOPERM this user has no permissions to access one of the keys used as arguments", "a key"),
        ("NOPERM No permissions to access a channel", "a channel"),
        (
            "ERR ACL failure in script: User app has no permissions to run the 'info' command script: x",
            "info",
        ),
    ] {
        let error = reply_error("GET", message);
        assert!(matches!(&error, Error::Acl { command, .. } if command == expected), "{error:?}");
    }
}

#[test]
fn other_errors_keep_their_code() {
    assert!(matches!(reply_error("GET", "WRONGPASS invalid"), Error::Auth(_)));
    let error = reply_error("INCR", "WRONGTYPE Operation against a key");
    assert!(matches!(&error, Error::Server { operation: "INCR", code, .. } if code == "WRONGTYPE"));
    assert!(!error.is_retryable());
    assert!(reply_error("SET", "OOM command not allowed").is_retryable());
    assert!(matches!(reply_error("SET", ""), Error::Server { code, .. } if code.is_empty()));
}

#[test]
fn what_was_not_sent_is_not_unknown() {
    assert!(!Failure::NotSent("x".to_owned()).into_error("GET").outcome_unknown());
    assert!(Failure::Lost("x".to_owned()).into_error("GET").outcome_unknown());
    assert!(matches!(Failure::Full.into_error("GET"), Error::Overloaded));
    let closed = FredError::new(ErrorKind::Unknown, "channel closed");
    assert!(matches!(failure(&closed), Failure::Lost(_)));
    assert!(matches!(failure(&FredError::new(ErrorKind::Canceled, "Canceled.")), Failure::NotSent(_)));
}

#[tokio::test]
async fn an_exchange_is_small_to_hold() {
    let wire = Wire::new(Client::default(), None, 1);
    let size = size_of_val(&wire.exchange("GET", Vec::new()));
    assert!(size <= 256, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_waited_for_and_a_silent_one_is_not() {
    let wire = Wire::new(Client::default(), None, 1);
    let limit = Duration::from_secs(1);
    let silent = wire.answered_within(limit, std::future::pending::<()>()).await;
    assert_eq!(silent, None);
    let busy = wire.clone();
    let others = tokio::spawn(async move {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            busy.mark_alive();
        }
    });
    let answer = wire.answered_within(limit, tokio::time::sleep(Duration::from_secs(10))).await;
    assert_eq!(answer, Some(()));
    others.abort();
}
