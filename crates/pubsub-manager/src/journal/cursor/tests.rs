//! The cursor's promise: whatever a store does, an entry is handed out once or a gap stands where it was.

use super::*;
use proptest::prelude::*;

const fn id(epoch: u32, sequence: u64) -> JournalId {
    JournalId::new(epoch, sequence)
}

fn opened(epoch: u32, sequence: u64) -> Cursor {
    let mut cursor = Cursor::new(None);
    cursor.attach(epoch, Some(id(epoch, sequence)));
    cursor
}

fn gap(cause: JournalGap, resumes_after: JournalId) -> Noticed {
    Noticed { cause, resumes_after }
}

#[test]
fn opens_at_the_end_and_says_so() {
    let mut cursor = Cursor::new(None);
    assert_eq!(cursor.attach(3, Some(id(3, 7))), Some(gap(JournalGap::Opened, id(3, 7))));
    assert_eq!(cursor.advance(id(3, 8)), Step::Next);
}

#[test]
fn opens_on_nothing_and_reads_from_the_first() {
    let mut cursor = Cursor::new(None);
    assert_eq!(cursor.attach(3, None), Some(gap(JournalGap::Opened, id(3, 0))));
    assert_eq!(cursor.check_tail(3, None), None);
    assert_eq!(cursor.advance(id(3, 1)), Step::Next);
}

#[test]
fn opened_under_an_epoch_newer_than_the_last_entry() {
    let mut cursor = Cursor::new(None);
    assert_eq!(cursor.attach(4, Some(id(3, 7))), Some(gap(JournalGap::Opened, id(4, 0))));
    assert_eq!(cursor.advance(id(4, 1)), Step::Next, "nothing of epoch 4 came before");
}

#[test]
fn a_reconnect_to_the_same_store_is_continuous() {
    let mut cursor = opened(3, 7);
    assert_eq!(cursor.attach(3, Some(id(3, 9))), None);
    assert_eq!(cursor.advance(id(3, 8)), Step::Next);
    assert_eq!(cursor.advance(id(3, 9)), Step::Next);
}

#[test]
fn trimmed_entries_are_counted() {
    let mut cursor = opened(3, 7);
    assert_eq!(cursor.advance(id(3, 12)), Step::After(gap(JournalGap::Missed { count: 4 }, id(3, 11))));
}

#[test]
fn a_new_epoch_is_told_where_it_begins() {
    let mut cursor = opened(3, 7);
    assert_eq!(cursor.attach(5, Some(id(3, 8))), None);
    assert_eq!(cursor.advance(id(3, 8)), Step::Next, "what survived is still read");
    assert_eq!(cursor.advance(id(5, 1)), Step::After(gap(JournalGap::EpochChanged, id(5, 0))));
    assert_eq!(cursor.advance(id(5, 2)), Step::Next, "told once");
    assert_eq!(cursor.advance(id(6, 4)), Step::After(gap(JournalGap::EpochChanged, id(6, 3))));
}

#[test]
fn rolled_back_and_missing() {
    let mut cursor = opened(3, 7);
    assert_eq!(cursor.check_tail(3, Some(id(3, 5))), Some(gap(JournalGap::RolledBack, id(3, 5))));
    assert_eq!(cursor.check_tail(3, None), Some(gap(JournalGap::Missing, id(3, 0))));
    assert_eq!(cursor.check_tail(3, None), None, "told once");
    assert_eq!(cursor.advance(id(3, 1)), Step::Next);
}

proptest! {
    /// A store that appends, trims, is cut, loses its newest entries or everything (with a new epoch): every
    /// entry ever stored after the opening is handed out, or a gap was told between its neighbours.
    #[test]
    fn nothing_is_lost_in_silence(actions in prop::collection::vec((0u8..6, 1usize..6), 1..80)) {
        let mut store: Vec<JournalId> = Vec::new();
        let (mut epoch, mut sequence) = (1, 0);
        let mut last: Option<JournalId> = None;
        let mut cursor = Cursor::new(None);
        cursor.attach(epoch, None);
        // Ids appended since the last event handed out that have not been seen.
        let mut outstanding: Vec<JournalId> = Vec::new();
        for (action, n) in actions {
            match action {
                0 | 1 => for _ in 0..n {
                    sequence += 1;
                    last = Some(id(epoch, sequence));
                    store.push(id(epoch, sequence));
                    outstanding.push(id(epoch, sequence));
                },
                2 => { store.drain(..n.min(store.len())); }
                3 => {
                    // A failover that lost the newest entries.
                    store.truncate(store.len().saturating_sub(n));
                    last = store.last().copied();
                    (epoch, sequence) = (epoch + 1, 0);
                    if let Some(told) = cursor.attach(epoch, last) { outstanding.retain(|id| *id > told.resumes_after); }
                }
                4 => { if let Some(told) = cursor.attach(epoch, last) { outstanding.retain(|id| *id > told.resumes_after); } }
                _ => {
                    let from = cursor.position().expect("attached");
                    let readable: Vec<_> = store.iter().copied().filter(|id| *id > from).take(n).collect();
                    for entry in readable {
                        let step = cursor.advance(entry);
                        let told = matches!(step, Step::After(_));
                        let skipped: Vec<_> = outstanding.iter().filter(|id| **id < entry).collect();
                        prop_assert!(told || skipped.is_empty(), "{skipped:?} lost before {entry}");
                        prop_assert_ne!(step, Step::Skip);
                        outstanding.retain(|id| *id > entry);
                    }
                }
            }
        }
    }
}
