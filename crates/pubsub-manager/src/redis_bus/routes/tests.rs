//! Who gets what.

use super::*;
use crate::{Subject, bus::inbox::inbox};

#[test]
fn lanes_of_one_name_are_channels_of_their_own() {
    let subject = Subject::new("a.b").expect("a good name");
    let scopes = [Lane::Plain, Lane::Sharded, Lane::Raw].map(|lane| {
        let mut wanted = Wanted::default();
        wanted.routes(&Filter::exact(lane, &subject));
        assert_eq!(wanted.names(lane).len(), 1);
        assert_eq!(wanted.plain.len() + wanted.sharded.len() + wanted.raw.len() + wanted.patterns.len(), 1);
        scope(lane)
    });
    assert_eq!(scopes, ["p", "s", "r"]);
}

#[test]
fn patterns_that_are_one_to_the_server_are_taken_back_together() {
    let mut wanted = Wanted::default();
    let [one, two] = ["a.*", "a.>"].map(|pattern| Filter::new(pattern).expect("a good pattern"));
    let ((first, mut first_inbox), (second, mut second_inbox)) = (inbox(), inbox());
    wanted.routes(&one).push(first);
    wanted.routes(&two).push(second);
    first_inbox.close();
    assert!(!wanted.leave(&one), "the other still wants it");
    second_inbox.close();
    assert!(wanted.leave(&two));
    assert!(wanted.patterns.is_empty());
}
