//! Tokens and their files.

use super::*;

#[test]
fn a_generated_token_is_256_bits_and_never_shows_in_debug() {
    let token = Token::generate().unwrap();
    assert_eq!(token.expose().len(), 64);
    assert!(!format!("{token:?}").contains(token.expose()));
    assert_ne!(token, Token::generate().unwrap());
}

#[test]
fn only_the_token_itself_is_accepted() {
    let token = Token::generate().unwrap();
    let digest = token.digest();
    assert!(digest.accepts(token.expose().as_bytes()));
    assert!(!digest.accepts(&token.expose().as_bytes()[..63]));
    assert!(!digest.accepts(b""));
}

#[test]
fn a_token_file_is_made_once_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let made = Token::read_or_create(&path).unwrap();
    assert_eq!(made, Token::read_or_create(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left behind");
}

#[test]
fn starters_that_race_agree_on_one_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let made: Vec<Token> = std::thread::scope(|scope| {
        let starters: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Token::read_or_create(&path).unwrap())).collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect()
    });
    assert!(made.iter().all(|token| *token == made[0]));
}

#[test]
fn bad_tokens_and_exposed_files_are_refused_with_the_mend() {
    assert!(Token::parse("short").unwrap_err().to_string().contains("openssl rand"));
    assert!(Token::parse(&"x".repeat(600)).is_err());
    assert!(Token::parse(&format!("{} {}", "x".repeat(20), "y".repeat(20))).is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "x".repeat(64)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Token::read(&path).unwrap_err().to_string().contains("chmod 600"));
}

#[test]
fn a_directory_that_is_missing_is_an_error_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/token");
    assert!(matches!(Token::read_or_create(&path), Err(TokenError::File { operation: "writing", .. })));
}
