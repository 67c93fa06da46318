//! Free ports on 127.0.0.1. A port that looked free may be taken before the server binds it; whoever starts the
//! server then asks for another one.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use rand::Rng as _;

use crate::error::Error;

/// Below the range that systems take outgoing connections' ports from (32768 on Linux, 49152 elsewhere), so that a
/// server which is down does not lose its port to a passing connection before it is restarted.
const RANGE: Range<u16> = 15_000..32_000;

/// A port that nobody listens on right now.
pub(crate) fn free() -> Result<u16, Error> {
    drawn(RANGE, is_free)
}

/// A second one.
pub(crate) fn free_beside(first: u16) -> Result<u16, Error> {
    drawn(RANGE, |port| port != first && is_free(port))
}

/// One that is free together with the one this far above it, both in the range.
pub(crate) fn free_with_one_above(distance: u16) -> Result<u16, Error> {
    drawn(RANGE.start..RANGE.end - distance, |port| is_free(port) && is_free(port + distance))
}

fn drawn(range: Range<u16>, good: impl Fn(u16) -> bool) -> Result<u16, Error> {
    let mut random = rand::rng();
    let mut port = range.start;
    for _ in 0..200 {
        port = random.random_range(range.clone());
        if good(port) {
            return Ok(port);
        }
    }
    Err(Error::PortTaken { port })
}

/// Whether a server could listen there right now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_of_a_pair_are_in_the_range() {
        let first = free_with_one_above(10_000).expect("free ones");
        assert!(RANGE.contains(&first) && RANGE.contains(&(first + 10_000)), "{first}");
        assert_ne!(free_beside(first).expect("a free one"), first);
    }
}
