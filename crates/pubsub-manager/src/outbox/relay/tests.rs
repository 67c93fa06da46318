//! The floor: only numbers, no database.

use super::*;

#[test]
fn the_floor_rises_when_whoever_may_have_a_smaller_id_has_ended() {
    let mut floor = Floor::default();
    floor.propose(10, 100);
    floor.propose(20, 200);
    floor.seen(Some(90), None);
    assert_eq!(floor.after, 0, "transaction 90 may hold a smaller id");
    floor.seen(Some(101), Some(11));
    assert_eq!(floor.after, 10);
    floor.seen(Some(500), None);
    assert_eq!(floor.after, 10, "each proposal counts once");
    floor.propose(20, 600);
    floor.seen(Some(601), None);
    assert_eq!(floor.after, 20);
}

#[test]
fn a_row_that_came_late_keeps_the_floor_down() {
    let mut floor = Floor::default();
    floor.propose(10, 100);
    floor.seen(Some(101), Some(7));
    assert_eq!((floor.after, floor.proposed), (0, None));
    floor.propose(10, 110);
    floor.seen(None, None);
    assert_eq!(floor.after, 0, "nothing is known");
    floor.seen(Some(111), None);
    assert_eq!(floor.after, 10);
}
