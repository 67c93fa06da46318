//! All the rules under any sequence of events, beside servers that the plan knows nothing of.

use super::*;
use proptest::prelude::*;

const CHANNELS: usize = 12;

/// What happens to a subscription.
#[derive(Clone, Debug)]
enum Happening {
    Want(usize),
    Unwant(usize),
    /// A connection comes, or is replaced.
    Connect(usize),
    Lose(usize),
    /// The next thing that the plan says is on its way to the server.
    Ask(usize),
    /// The server answers that: it takes all of it.
    Answer(usize),
    /// It refuses it for good.
    Refuse(usize),
    /// It puts it off.
    PutOff(usize),
    /// Slots of the first master go to the second, or back.
    Move(u16),
    /// A server forgets a channel without a word, and is asked.
    Forget(usize, usize),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    use Happening::*;
    let one = prop_oneof![
        4 => (0..CHANNELS).prop_map(Want),
        2 => (0..CHANNELS).prop_map(Unwant),
        3 => (0..4_usize).prop_map(Connect),
        2 => (0..4_usize).prop_map(Lose),
        8 => (0..4_usize).prop_map(Ask),
        8 => (0..4_usize).prop_map(Answer),
        1 => (0..4_usize).prop_map(Refuse),
        1 => (0..4_usize).prop_map(PutOff),
        2 => (0..=5000_u16).prop_map(Move),
        1 => ((0..4_usize), (0..CHANNELS)).prop_map(|(seat, channel)| Forget(seat, channel)),
    ];
    prop::collection::vec(one, 0..80)
}

/// The servers, and what the subscriber was told.
struct World {
    plan: Plan,
    now: Instant,
    /// What each server has; `None` without a connection.
    servers: HashMap<Seat, Option<HashSet<Channel>>>,
    wanted: HashSet<Channel>,
    lost: bool,
    lost_shards: HashSet<Channel>,
    /// What is on its way to the servers.
    asked: HashMap<Seat, Step>,
    /// What was confirmed when it was last looked.
    confirmed: HashSet<Channel>,
}

fn seat(index: usize) -> Seat {
    match index {
        0 => Seat::Shared,
        port => shard(u16::try_from(port).expect("small")),
    }
}

impl World {
    fn new(cluster: bool) -> Self {
        let now = Instant::now();
        let mut plan = Plan::new(cluster, now);
        plan.place(&layout(0), now);
        (1..=3).for_each(|port| plan.sit(&Endpoint::new("h", port), now));
        let servers = (0..4).map(|index| (seat(index), None)).collect();
        let (wanted, lost_shards, confirmed) = Default::default();
        let asked = HashMap::new();
        Self { plan, now, servers, wanted, lost: false, lost_shards, asked, confirmed }
    }

    fn tell(&mut self, events: Vec<SubscriptionEvent>) {
        for event in events {
            match event {
                SubscriptionEvent::Lost { .. } => assert!(!std::mem::replace(&mut self.lost, true)),
                SubscriptionEvent::Restored => assert!(std::mem::take(&mut self.lost)),
                SubscriptionEvent::ShardsLost { channels, .. } => {
                    for channel in channels {
                        assert!(channel.is_sharded() && self.lost_shards.insert(channel), "told already");
                    }
                }
                SubscriptionEvent::ShardsRestored { channels } => {
                    channels.iter().for_each(|channel| assert!(self.lost_shards.remove(channel), "not lost"));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Want(index) => {
                assert!(self.plan.want(&[channel(index)], 1000));
                self.wanted.insert(channel(index));
            }
            Happening::Unwant(index) => {
                self.plan.unwant(&[channel(index)]);
                self.wanted.remove(&channel(index));
                // What comes later is about another wish.
                self.lost_shards.remove(&channel(index));
                self.confirmed.remove(&channel(index));
            }
            Happening::Connect(index) => {
                self.happen(&Happening::Lose(index));
                self.servers.insert(seat(index), Some(HashSet::new()));
            }
            Happening::Lose(index) => {
                self.servers.insert(seat(index), None);
                self.asked.remove(&seat(index));
                let events = self.plan.closed(&seat(index), "lost", self.now);
                self.tell(events);
            }
            Happening::Ask(index) => {
                if let Some(step) = self.step(&seat(index)) {
                    self.asked.insert(seat(index), step);
                }
            }
            Happening::Answer(index) => self.answer(&seat(index)),
            Happening::Refuse(index) => self.refuse(&seat(index)),
            Happening::PutOff(index) => {
                if let Some(step) = self.addition(&seat(index)) {
                    step.channels.iter().for_each(|channel| self.plan.later(&seat(index), channel));
                }
            }
            Happening::Move(moved) => {
                let events = self.plan.place(&layout(moved), self.now).unwrap_or_default();
                self.tell(events);
                self.forget_what_left();
            }
            Happening::Forget(at, index) => {
                let (seat, channel) = (seat(at), channel(index));
                let Some(Some(has)) = self.servers.get_mut(&seat) else { return };
                if channel.is_sharded() && self.plan.is_active(&seat, &channel) && has.remove(&channel) {
                    let events = self.plan.forgotten(&seat, &[], &[channel]);
                    self.tell(events);
                }
            }
        }
    }

    /// As the servers of a cluster do.
    fn forget_what_left(&mut self) {
        for (seat, has) in &mut self.servers {
            let has = has.iter_mut();
            has.for_each(|has| has.retain(|channel| self.plan.home(channel).as_ref() == Some(seat)));
        }
    }

    /// What is on its way, or else what the plan says.
    fn step(&mut self, seat: &Seat) -> Option<Step> {
        self.servers.get(seat)?.as_ref()?;
        let asked = self.asked.remove(seat);
        let new = || {
            let step = self.plan.next(seat)?;
            // A master would refuse what is about another's slot.
            assert!(step.channels.iter().all(|channel| self.plan.home(channel).as_ref() == Some(seat)));
            Some(step)
        };
        asked.or_else(new)
    }

    /// The same, if it is one that a server can refuse.
    fn addition(&mut self, seat: &Seat) -> Option<Step> {
        let step = self.step(seat)?;
        if step.adding {
            return Some(step);
        }
        self.asked.insert(seat.clone(), step);
        None
    }

    fn answer(&mut self, seat: &Seat) {
        let Some(step) = self.step(seat) else {
            if self.servers.get(seat).is_some_and(Option::is_some) {
                let events = self.plan.settled(seat);
                self.tell(events);
            }
            return;
        };
        let Some(Some(has)) = self.servers.get_mut(seat) else { return };
        if step.adding {
            // Of a slot that left meanwhile, a server has forgotten the channels again.
            let its = step.channels.iter().filter(|channel| self.plan.home(channel).as_ref() == Some(seat));
            has.extend(its.cloned());
            let events = self.plan.taken(seat, &step.channels);
            self.tell(events);
        } else {
            has.retain(|channel| !step.channels.contains(channel));
            self.plan.given_back(seat, &step.channels);
        }
    }

    fn refuse(&mut self, seat: &Seat) {
        let Some(step) = self.addition(seat) else { return };
        self.plan.refused(seat, &step.channels, &refusal());
        if let [channel] = &step.channels[..]
            && !self.plan.wanted.contains_key(channel)
        {
            self.wanted.remove(channel);
        }
        if step.kind != ChannelKind::Shard {
            // A refusal of these ends the connection.
            let index = (0..4).find(|index| self::seat(*index) == *seat).expect("one of them");
            self.happen(&Happening::Lose(index));
        }
    }

    /// Nothing is confirmed that a server does not have, and nothing that was confirmed is lost in silence.
    fn check(&mut self) {
        for index in 0..CHANNELS {
            let channel = channel(index);
            let has = |has: &Option<HashSet<Channel>>| has.as_ref().is_some_and(|has| has.contains(&channel));
            if !self.wanted.contains(&channel) && self.plan.is_gone(std::slice::from_ref(&channel)) {
                assert!(
                    !self.servers.values().any(has),
                    "{channel:?} is said to be gone, and somebody has it"
                );
            }
            if self.wanted.contains(&channel)
                && let Outcome::Taken = self.plan.outcome(std::slice::from_ref(&channel))
            {
                assert!(self.servers.values().any(has), "{channel:?} is confirmed, and nobody has it");
                assert!(!self.lost_shards.contains(&channel), "{channel:?} is there, and its loss told");
                self.confirmed.insert(channel);
            } else if self.confirmed.remove(&channel) {
                let told = if channel.is_sharded() { self.lost_shards.contains(&channel) } else { self.lost };
                assert!(told, "{channel:?} was lost in silence");
            }
        }
    }

    fn calm_down(&mut self) {
        for index in 0..4 {
            let seat = seat(index);
            self.happen(&Happening::Connect(index));
            // More often than there can be anything to say; the last time, that nothing is left.
            for _ in 0..=2 * CHANNELS {
                self.answer(&seat);
                self.check();
            }
        }
        let refused: HashSet<_> = (0..4).flat_map(|index| self.plan.left_out(&seat(index))).collect();
        let active: HashSet<_> = self.servers.values().flatten().flatten().cloned().collect();
        assert_eq!(
            active,
            self.wanted.difference(&refused).cloned().collect(),
            "wanted, but for the refused"
        );
        assert!(!self.lost && self.lost_shards.is_subset(&refused), "everything is told to be back");
        assert_eq!(self.plan.trouble().is_some(), !refused.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_it_comes_right_once_it_is_calm(cluster: bool, happenings in happenings()) {
        let mut world = World::new(cluster);
        for happening in &happenings {
            world.happen(happening);
            world.check();
        }
        world.calm_down();
    }
}
