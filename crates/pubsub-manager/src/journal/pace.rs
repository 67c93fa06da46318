//! Whether a journal keeps enough: it has to hold what is appended within a minute at peak, so that a reader may be away for
//! that long without a gap. At half of that it is time to make it longer.

use resilience::clock::CoarseInstant;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Counts the entries of each minute that one reader sees, which are everybody's.
#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Option<CoarseInstant>,
    count: u64,
    told: bool,
}

/// What a reader has to say about the pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy {
    /// Entries of the present minute so far.
    pub(super) entries: u64,
    /// They are over half of what is kept, and this minute nobody has said so.
    pub(super) short: bool,
}

impl Pace {
    pub(super) fn add(&mut self, entries: usize, kept: Option<u64>, now: CoarseInstant) -> Busy {
        if self.since.is_none_or(|since| now.saturating_since(since) >= MINUTE) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        self.count += entries as u64;
        let short = kept.is_some_and(|kept| self.count > kept / 2) && !self.told;
        self.told |= short;
        Busy { entries: self.count, short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_kept_within_a_minute_is_told_once_a_minute() {
        let at = |seconds: u64| CoarseInstant::from_millis(seconds * 1000);
        let mut pace = Pace::default();
        assert_eq!(pace.add(50, Some(100), at(5)), Busy { entries: 50, short: false });
        assert_eq!(pace.add(1, Some(100), at(64)), Busy { entries: 51, short: true });
        assert_eq!(pace.add(100, Some(100), at(64)), Busy { entries: 151, short: false });
        // The next minute counts anew.
        assert_eq!(pace.add(50, Some(100), at(65)), Busy { entries: 50, short: false });
        assert_eq!(pace.add(1, Some(100), at(66)), Busy { entries: 51, short: true });
        assert_eq!(pace.add(1_000_000, None, at(200)), Busy { entries: 1_000_000, short: false });
    }
}
