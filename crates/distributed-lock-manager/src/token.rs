//! The fencing token's parts. Comparing tokens is comparing numbers; this only puts them together.

use std::fmt;

const COUNTER_BITS: u32 = 24;
const HAND_OVER_BITS: u32 = 16;
/// Locks that one epoch can give; then a new epoch begins.
pub(crate) const MAX_COUNTER: u32 = (1 << COUNTER_BITS) - 1;

/// A fencing token: 24 bits of epoch, 24 bits of counter, 16 bits of hand-over. Greater is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// From its parts; each is cut to its size.
    #[must_use]
    pub const fn new(epoch: u32, counter: u32) -> Self {
        let epoch = (epoch & MAX_COUNTER) as u64;
        let counter = (counter & MAX_COUNTER) as u64;
        Self((epoch << (COUNTER_BITS + HAND_OVER_BITS)) | (counter << HAND_OVER_BITS))
    }

    /// From the number.
    #[must_use]
    pub const fn from_u64(token: u64) -> Self {
        Self(token)
    }

    /// The number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The epoch of the store under which the lock was acquired.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> (COUNTER_BITS + HAND_OVER_BITS)) as u32
    }

    /// The number of the acquisition within the epoch.
    #[must_use]
    pub const fn counter(self) -> u32 {
        (self.0 >> HAND_OVER_BITS) as u32 & MAX_COUNTER
    }

    /// The first token of the next acquisition; begins a new epoch when the counter is used up.
    #[must_use]
    pub(crate) const fn next(self) -> Self {
        if self.counter() == MAX_COUNTER {
            Self::new(self.epoch() + 1, 1)
        } else {
            Self::new(self.epoch(), self.counter() + 1)
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch(), self.counter(), self.0 & 0xFFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_grow() {
        let last_of_epoch = Token::new(7, MAX_COUNTER);
        assert!(Token::new(7, 5) < Token::new(7, 5).next());
        assert!(last_of_epoch < last_of_epoch.next());
        assert_eq!((last_of_epoch.next().epoch(), last_of_epoch.next().counter()), (8, 1));
        assert_eq!(Token::from_u64(Token::new(3, 9).as_u64()).to_string(), "3.9.0");
    }
}
