//! Where a reader stands and what that proves: the pure rule that turns ids into entries and gaps.
//! It knows no time and no I/O.

use super::{JournalGap, JournalId};

/// A gap that the rule noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Noticed {
    pub(crate) cause: JournalGap,
    pub(crate) resumes_after: JournalId,
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hand it out.
    Next,
    /// Hand out the gap, then the entry.
    After(Noticed),
    /// Seen before.
    Skip,
}

/// The position of one reader.
#[derive(Debug)]
pub(crate) struct Cursor(Option<JournalId>);

impl Cursor {
    /// Starts at the end as found at the first attach (`None`), or after a known id.
    pub(crate) const fn new(after: Option<JournalId>) -> Self {
        Self(after)
    }

    /// The id after which to read; `None` before the first attach.
    pub(crate) const fn position(&self) -> Option<JournalId> {
        self.0
    }

    /// A new reading end was opened under `epoch`, and `tail` is the last id that the store has given.
    pub(crate) fn attach(&mut self, epoch: u32, tail: Option<JournalId>) -> Option<Noticed> {
        if self.0.is_some() {
            // A newer epoch is told where its first entry is read: what survived of the old one comes before.
            return self.check_tail(epoch, tail);
        }
        // Nothing more is appended under an older epoch.
        let start = JournalId::new(epoch, 0);
        Some(self.jump(JournalGap::Opened, tail.map_or(start, |tail| tail.max(start))))
    }

    /// Is what was read still there?
    pub(crate) fn check_tail(&mut self, epoch: u32, tail: Option<JournalId>) -> Option<Noticed> {
        let position = self.0?;
        // A position of sequence 0 stands for "before the first of that epoch", which is no entry to lose.
        if position.sequence == 0 {
            return None;
        }
        match tail {
            None => Some(self.jump(JournalGap::Missing, JournalId::new(epoch, 0))),
            Some(tail) if tail < position => Some(self.jump(JournalGap::RolledBack, tail)),
            Some(_) => None,
        }
    }

    /// The store handed out `id`.
    pub(crate) fn advance(&mut self, id: JournalId) -> Step {
        let Some(position) = self.0.replace(id) else { return Step::Next };
        if id <= position {
            self.0 = Some(position);
            return Step::Skip;
        }
        let resumes_after = JournalId::new(id.epoch, id.sequence.saturating_sub(1));
        let cause = if id.epoch > position.epoch {
            JournalGap::EpochChanged
        } else if id.sequence > position.sequence + 1 {
            JournalGap::Missed { count: id.sequence - position.sequence - 1 }
        } else {
            return Step::Next;
        };
        Step::After(Noticed { cause, resumes_after })
    }

    fn jump(&mut self, cause: JournalGap, to: JournalId) -> Noticed {
        self.0 = Some(to);
        Noticed { cause, resumes_after: to }
    }
}

#[cfg(test)]
mod tests;
