//! Who may see details and act: whoever presents the token. Every refusal is audited.
//!
//! Not yet: mTLS, tiers, a limit on attempts (a 256-bit token is not guessed).

use std::fmt;
use std::net::SocketAddr;

use axum::http::{HeaderMap, StatusCode, header};

use crate::problem::Problem;
use crate::token::{Token, TokenDigest};

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    Unix,
    /// Mounted in a host's router, which did not say.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The gate.
#[derive(Debug)]
pub(crate) struct Access {
    token: Option<TokenDigest>,
}

impl Access {
    pub(crate) fn new(token: Option<&Token>) -> Self {
        Self { token: token.map(Token::digest) }
    }

    /// Who asks, for the audit trail; or why they are refused.
    pub(crate) fn admit(&self, headers: &HeaderMap, peer: &Peer) -> Result<String, Problem> {
        let Some(token) = &self.token else {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "admin_closed",
                "this instance has no admin token, so details and admin are shut: start it with --token-file FILE",
            ));
        };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return Err(unauthorized("this needs `Authorization: Bearer TOKEN`, once"));
        };
        let presented =
            bearer(value.as_bytes()).ok_or_else(|| unauthorized("only bearer tokens are taken here"))?;
        if token.accepts(presented) {
            Ok(format!("token:{}@{peer}", token.fingerprint()))
        } else {
            Err(unauthorized("the token is not the one of this instance"))
        }
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests;
