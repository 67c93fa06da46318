//! Free ports on 127.0.0.1. A port that looked free may be taken before the server binds it; whoever starts the
//! server then asks for another one.

use std::net::{Ipv4Addr, TcpListener};

use rand::Rng as _;

use crate::error::Error;

/// Below the range that systems take outgoing connections' ports from (32768 on Linux, 49152 elsewhere), so that a
/// server which is down does not lose its port to a passing connection before it is restarted.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A port that nobody listens on right now.
pub(crate) fn free() -> Result<u16, Error> {
    let mut random = rand::rng();
    let mut port = RANGE.start;
    for _ in 0..200 {
        port = random.random_range(RANGE);
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(Error::PortTaken { port })
}

/// Whether a server could listen there right now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
