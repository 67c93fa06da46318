//! Who is let in.

use axum::http::HeaderValue;

use super::*;

fn headers(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn the_token_alone_opens() {
    let token = Token::generate().unwrap();
    let access = Access::new(Some(&token));
    let right = format!("Bearer {}", token.expose());
    let who = access.admit(&headers(&[&right]), &Peer::Unix).unwrap();
    assert_eq!(who, format!("token:{}@unix", token.fingerprint()));
    assert!(access.admit(&headers(&[&right.to_lowercase()]), &Peer::Unix).is_ok());
    let wrong = format!("Bearer {}", Token::generate().unwrap().expose());
    let (right, wrong) = (right.as_str(), wrong.as_str());
    for refused in [&[][..], &[wrong], &["Basic eDp5"], &["Bearer"], &["Bearer "], &[right, right]] {
        assert_eq!(access.admit(&headers(refused), &Peer::Unknown).unwrap_err().status, 401, "{refused:?}");
    }
}

#[test]
fn without_a_token_nothing_opens() {
    let problem = Access::new(None).admit(&headers(&["Bearer x"]), &Peer::Unknown).unwrap_err();
    assert_eq!((problem.status, problem.code.as_str()), (403, "admin_closed"));
}
