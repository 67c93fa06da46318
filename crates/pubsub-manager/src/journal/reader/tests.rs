//! What an answer proves, under a virtual clock.

use super::*;
use crate::{MemoryJournal, PublisherId};
use resilience::clock::CoarseClock;

#[tokio::test]
async fn an_entry_proves_what_was_true_when_it_was_asked_for() {
    let config = JournalConfig::default();
    let journal = Journal::new(Arc::new(MemoryJournal::new(10)), config.clone()).expect("a runtime");
    let clock = CoarseClock::virtual_time();
    let (sender, queue) = mpsc::channel(10);
    let view = JournalView::new(clock.clone(), config.disconnected_after);
    let cursor = Cursor::new(Some(JournalId::new(1, 0)));
    let attached = Arc::default();
    let mut follower = Follower {
        journal: journal.weak(),
        config,
        view: view.clone(),
        cursor,
        pace: Pace::default(),
        sender,
        attached,
    };
    let mut reader = JournalReader { queue, view: view.clone(), handed_out: None };
    let sent = view.now();
    // The answer comes at once and lies in a buffer while this process stands still.
    clock.advance(Duration::from_millis(700));
    let entry = RawEntry { id: JournalId::new(1, 1), frame: frame::heartbeat(PublisherId::random()) };
    assert!(follower.entries(vec![entry], sent).await.is_ok());
    assert!(matches!(reader.next().await, Some(JournalEvent::Heartbeat { .. })));
    let none = tokio::time::timeout(Duration::ZERO, reader.next()).await;
    assert!(none.is_err(), "the entry is worked off, and no other is there");
    assert!(view.state().is_current());
    clock.advance(Duration::from_millis(310));
    assert!(!view.state().is_current(), "asked more than a second ago: {:?}", view.state());
}
