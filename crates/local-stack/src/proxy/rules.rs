//! The state of the proxy's network, as one value that every connection watches.

use std::time::Duration;

/// Which way bytes go; also an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Client to target.
    Up = 0,
    /// Target to client.
    Down = 1,
}

/// After how many bytes a connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Of both directions together.
    Both(u64),
    /// Of the direction down.
    Answers(u64),
}

/// What is done to the traffic right now.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) target: String,
    pub(super) refuse: bool,
    pub(super) black_hole: bool,
    pub(super) delay: [Duration; 2],
    pub(super) throttle: Option<u64>,
    /// How often everything was cut: a connection older than the last cut ends.
    pub(super) cuts: u64,
    /// The limit, and which one it is: a connection counts anew for each.
    pub(super) limit: Option<(u64, Limit)>,
    limits: u64,
}

impl Rules {
    pub(super) fn new(target: String) -> Self {
        Self {
            target,
            refuse: false,
            black_hole: false,
            delay: [Duration::ZERO; 2],
            throttle: None,
            cuts: 0,
            limit: None,
            limits: 0,
        }
    }

    pub(super) fn limit(&mut self, limit: Limit) {
        self.limits += 1;
        self.limit = Some((self.limits, limit));
    }

    pub(super) fn heal(&mut self) {
        let healthy = Self::new(std::mem::take(&mut self.target));
        *self = Self { cuts: self.cuts, limits: self.limits, ..healthy };
    }
}

/// What a connection has passed under the present limit.
#[derive(Debug, Default)]
pub(super) struct Passed {
    number: u64,
    bytes: [u64; 2],
}

impl Passed {
    /// How many of `wanted` bytes may still pass; 0 means that the connection is to be reset.
    pub(super) fn allowed(
        &mut self,
        limit: Option<(u64, Limit)>,
        direction: Direction,
        wanted: usize,
    ) -> usize {
        let Some((number, limit)) = limit else { return wanted };
        if self.number != number {
            *self = Self { number, bytes: [0; 2] };
        }
        let left = match (limit, direction) {
            (Limit::Both(limit), _) => limit.saturating_sub(self.bytes.iter().sum()),
            (Limit::Answers(limit), Direction::Down) => limit.saturating_sub(self.bytes[1]),
            (Limit::Answers(_), Direction::Up) => return wanted,
        };
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }

    /// Notes bytes that passed; true if the limit is reached with them.
    pub(super) fn pass(&mut self, limit: Option<(u64, Limit)>, direction: Direction, bytes: usize) -> bool {
        self.bytes[direction as usize] += bytes as u64;
        self.allowed(limit, direction, 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_counts_both_ways_and_anew() {
        let mut passed = Passed::default();
        let limit = Some((1, Limit::Both(10)));
        assert_eq!(passed.allowed(None, Direction::Up, 99), 99);
        assert_eq!(passed.allowed(limit, Direction::Up, 6), 6);
        assert!(!passed.pass(limit, Direction::Up, 6));
        assert_eq!(passed.allowed(limit, Direction::Down, 6), 4);
        assert!(passed.pass(limit, Direction::Down, 4));
        assert_eq!(passed.allowed(Some((2, Limit::Both(3))), Direction::Up, 9), 3);
    }

    #[test]
    fn a_limit_of_answers_lets_every_request_pass() {
        let mut passed = Passed::default();
        let limit = Some((1, Limit::Answers(0)));
        assert_eq!(passed.allowed(limit, Direction::Up, 7), 7);
        assert!(!passed.pass(limit, Direction::Up, 7));
        assert_eq!(passed.allowed(limit, Direction::Down, 7), 0);
    }

    #[test]
    fn healing_keeps_the_target_and_the_cuts() {
        let mut rules = Rules::new("a:1".into());
        rules.cuts = 3;
        rules.black_hole = true;
        rules.limit(Limit::Both(1));
        rules.heal();
        assert_eq!(
            (rules.target.as_str(), rules.cuts, rules.black_hole, rules.limit),
            ("a:1", 3, false, None)
        );
    }
}
